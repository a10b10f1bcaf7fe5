"""`plm-export verify PACKAGE…`."""

from pathlib import Path
from typing import Any

import click

from converter.commands.foreign import MEMORY, SECONDS, held, usual_memory
from converter.commands.session import Session, json_option, limit_options, quiet_options
from converter.errors import ExportError, PackageDamaged


@click.command("verify", short_help="Check a package: hashes, signatures, recorded answers (offline).")
@click.argument("package", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Number of threads.")
@limit_options(seconds=SECONDS, memory=MEMORY)
@json_option
@quiet_options
@click.pass_obj
def verify(session: Session, package: tuple[Path, ...], threads: int, max_memory: int | None, timeout: float) -> int:
    """Check that PACKAGE is unchanged and still gives the answers recorded when it was made.

    PACKAGE is the folder of a package, or an output folder: then every package in it is checked.
    """
    terminal = session.terminal
    rows = []
    with terminal.hushed():
        for folder in (found for given in package for found in packages_in(given)):
            rows.append(row := _verify(session, folder, threads, max_memory, timeout))
            if terminal.json:
                continue
            if row["status"] == "PASS":
                terminal.result_lines([f"PASS  {folder}  {_facts(row)}"])
            else:
                terminal.result_lines([f"FAIL  {folder}"])
                terminal.error(row["error"], row["hint"])
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


def _verify(session: Session, folder: Path, threads: int, memory: int | None, seconds: float) -> dict[str, Any]:
    from converter.api import verify as check

    row: dict[str, Any] = {"package": str(folder), "status": "PASS", "exit_code": 0}
    try:
        with held(session, folder, memory or usual_memory(folder), seconds):
            return row | {"facts": check(folder, threads=threads)}
    except ExportError as error:
        return row | {"status": "FAIL", "exit_code": error.exit_code, "error": str(error), "hint": error.hint}


def _facts(row: dict[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {_short(value)}" for key, value in row["facts"].items())


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
