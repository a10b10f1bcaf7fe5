"""`plm-export inspect PACKAGE`: what it is, from what, how good, how fast."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from converter.commands.session import Session, json_option, quiet_options
from converter.report.words import milliseconds, number, share, size


@click.command("inspect", short_help="Show a package's source, size, accuracy, speed and checks.")
@click.argument("package", type=click.Path(path_type=Path))
@json_option
@quiet_options
@click.pass_obj
def inspect(session: Session, package: Path) -> int:
    """Show what the manifest of PACKAGE states. Nothing is run; `verify` does that."""
    from converter.commands.verify import packages_in
    from converter.package.manifest import read_manifest
    from converter.report.beside import measured_beside

    manifests = {str(folder): read_manifest(folder) for folder in packages_in(package)}
    if session.terminal.json:
        found = [{**manifest, "measured": measured_beside(Path(folder))} for folder, manifest in manifests.items()]
        session.print_json(found[0] if len(found) == 1 else found)
        return 0
    for folder, manifest in manifests.items():
        session.terminal.result_lines((*lines(folder, manifest, measured_beside(Path(folder))), ""))
    return 0


def lines(folder: str, manifest: Mapping[str, Any], measured: Mapping[str, Any]) -> list[str]:
    """Return the summary as lines; `measured` are the times of the run, which older packages have in their manifest."""
    gate, source = _table(manifest, "gate"), _table(manifest, "source")
    files = _table(manifest, "files")
    total = sum(f.get("size_bytes", 0) for f in files.values() if isinstance(f, Mapping))
    models = {str(g.get("file")): None for g in _table(manifest, "graphs").values() if isinstance(g, Mapping)}
    held = sum(_table(files, name).get("size_bytes", 0) for name in models)
    tool = _table(manifest, "tool")
    made = [
        f"{folder}: {manifest.get('target')}, {manifest.get('precision')}, {manifest.get('task')}",
        f"  from        {source.get('id')}" + (f" at {source['revision']}" if source.get("revision") else ""),
        f"  licence     {source.get('licence') or 'not stated'}",
        f"  model       {', '.join(models)}, {size(held)} (all files {size(total)})",
        f"  made by     {tool.get('name')} {tool.get('version')}",
        f"  gate        {gate.get('status')}, agreement {share(gate.get('agreement'))}, {gate.get('n_probes')} texts",
    ]
    for name, value in _table(gate, "metric").items():
        made.append(f"  {name:11} {number(value)} (source {number(_table(gate, 'source_metric').get(name))})")
    times = _table(gate, "milliseconds") or _table(measured, "milliseconds")
    if "package" in times:
        made.append(f"  latency     {milliseconds(times['package'])} (source {milliseconds(times.get('source'))})")
    written = measured or _table(_table(gate, "facts"), "generation")
    if "tokens_per_second" in written:
        made.append(f"  writes      {written['tokens_per_second']} tokens/s, one text at a time, one thread")
    made += [
        f"  {check['status']:8}  {check['name']}: {check.get('detail') or number(check.get('value'))}"
        for check in gate.get("checks", [])
    ]
    for record in manifest.get("records", []):
        options = ", ".join(f"{k}={v}" for k, v in record.get("options", {}).items())
        seconds = record.get("seconds", _table(measured, "seconds").get(record["stage"]))
        taken = f" ({seconds:.1f} s)" if seconds is not None else ""
        made.append(f"  stage       {record['stage']} {options}{taken}")
    return made


def _table(table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = table.get(key)
    return found if isinstance(found, Mapping) else {}
