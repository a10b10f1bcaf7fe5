"""`plm-export diff OLD NEW`: what changed from one package to another."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from converter.commands.session import Session, json_option, quiet_options
from converter.report.words import plain_value


@click.command("diff", short_help="Show what changed between two packages.")
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@json_option
@quiet_options
@click.pass_obj
def diff(session: Session, old: Path, new: Path) -> int:
    """Compare two packages: target, precision, accuracy, speed, size, and which files differ."""
    from converter.package.manifest import read_manifest

    changes = differences(_with_times(old, read_manifest(old)), _with_times(new, read_manifest(new)))
    terminal = session.terminal
    if terminal.json:
        session.print_json(changes)
    elif not changes:
        terminal.result("no difference")
    else:
        width = max(map(len, changes))
        for key, change in changes.items():
            terminal.result_lines(
                [f"{key:{width}}  {plain_value(change['old'])} → {plain_value(change['new'])}{_ratio(change)}"]
            )
    return 0


def _with_times(package: Path, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the manifest with the times of the report beside the package; older packages have their own."""
    from converter.report.beside import measured_beside

    times = measured_beside(package).get("milliseconds", {})
    return {**manifest, "gate": {"milliseconds": times, **manifest["gate"]}}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return each fact that differs, with its old and new value; None where one side lacks it."""
    before, after = _facts(old), _facts(new)
    keys = [*before, *(k for k in after if k not in before)]
    return {k: {"old": before.get(k), "new": after.get(k)} for k in keys if before.get(k) != after.get(k)}


def _facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    gate = manifest.get("gate", {})
    made = {key: manifest.get(key) for key in ("target", "precision", "task")}
    made |= {f"source.{key}": value for key, value in manifest.get("source", {}).items()}
    made |= {f"tool.{key}": value for key, value in manifest.get("tool", {}).items()}
    made |= {f"version.{key}": value for key, value in manifest.get("versions", {}).items()}
    made |= {"status": gate.get("status"), "agreement": gate.get("agreement"), "probes": gate.get("n_probes")}
    made |= {f"metric.{key}": value for key, value in gate.get("metric", {}).items()}
    made |= {f"milliseconds.{key}": value for key, value in gate.get("milliseconds", {}).items()}
    made |= {f"check.{c['name']}": c.get("value") for c in gate.get("checks", [])}
    made["stages"] = [r["stage"] for r in manifest.get("records", [])]
    for name, file in manifest.get("files", {}).items():
        made |= {f"size.{name}": file.get("size_bytes"), f"file.{name}": file.get("sha256", "")[:12]}
    return made


def _ratio(change: Mapping[str, Any]) -> str:
    old, new = change["old"], change["new"]
    numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (old, new))
    return f"  (×{new / old:.3g})" if numeric and old else ""
