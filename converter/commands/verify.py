"""`plm-export verify PACKAGE…`."""

from pathlib import Path
from typing import Any

import click

from converter.commands.session import Session, json_option, quiet_options
from converter.errors import ExportError, PackageDamaged


@click.command("verify", short_help="Check a package: hashes, signatures, recorded answers (offline).")
@click.argument("package", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Number of threads.")
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    metavar="PUBLIC",
    help="Public key (PEM): refuse packages that are not signed by it, or have changed since.",
)
@json_option
@quiet_options
@click.pass_obj
def verify(session: Session, package: tuple[Path, ...], threads: int, key: Path | None) -> int:
    """Check that PACKAGE is unchanged and still gives the answers recorded when it was made.

    PACKAGE is the folder of a package, or an output folder: then every package in it is checked.
    """
    terminal = session.terminal
    rows = []
    with terminal.hushed():
        for folder in (found for given in package for found in packages_in(given)):
            rows.append(row := _verify(folder, threads, key))
            if terminal.json:
                continue
            if row["status"] == "PASS":
                terminal.result_lines([f"PASS  {folder}  {_facts(row)}"])
            else:
                terminal.result_lines([f"FAIL  {folder}"])
                terminal.error(row["error"], row["hint"], row["code"])
        if terminal.json:
            session.print_json(rows)
    return max((row["exit_code"] for row in rows), default=0)


def packages_in(folder: Path) -> list[Path]:
    """Return the packages of an output folder, or `folder` itself.

    Raises:
        PackageDamaged: there is no such folder.

    """
    if not folder.is_dir():
        raise PackageDamaged("there is no such folder", where=str(folder))
    inside = sorted(path.parent for path in folder.glob("*/manifest.json"))
    return inside if inside and not (folder / "manifest.json").exists() else [folder]


def _verify(folder: Path, threads: int, key: Path | None) -> dict[str, Any]:
    from converter.api import verify as check

    row: dict[str, Any] = {"package": str(folder), "status": "PASS", "exit_code": 0}
    try:
        return row | {"facts": check(folder, threads=threads, key=key)}
    except ExportError as error:
        told = {"code": error.full_code, "error": str(error), "hint": error.hint}
        return row | {"status": "FAIL", "exit_code": error.exit_code, **told}


def _facts(row: dict[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {_short(value)}" for key, value in row["facts"].items())


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
