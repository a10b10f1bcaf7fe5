"""`plm-export verify PACKAGE…`."""

import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from converter.commands.foreign import MEMORY, SECONDS, held, usual_memory
from converter.commands.session import Session, json_option, limit_options, quiet_options
from converter.errors import PackageDamaged

BUG = "internal error (bug): "


@click.command("verify", short_help="Check a package: hashes, signatures, recorded answers (offline).")
@click.argument("package", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Number of threads.")
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    metavar="PUBLIC",
    help="Public key (PEM): refuse packages that are not signed by it, or have changed since.",
)
@click.option(
    "--junit",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write a JUnit file: one suite a package, one case a step.",
)
@limit_options(seconds=SECONDS, memory=MEMORY)
@json_option
@quiet_options
@click.pass_obj
def verify(
    session: Session,
    package: tuple[Path, ...],
    threads: int,
    key: Path | None,
    junit: Path | None,
    max_memory: int | None,
    timeout: float,
) -> int:
    """Check that PACKAGE is unchanged, was proven, and still gives the answers recorded when it was made.

    PACKAGE is the folder of a package, or an output folder: then every package in it is checked. The exit code is the
    worst of all: 3 where a package was never proven, 6 where one is damaged.
    """
    terminal = session.terminal
    rows = []
    with terminal.hushed():
        for folder in _all(package):
            rows.append(row := _verify(session, folder, key, _Bounds(threads, max_memory, timeout)))
            if terminal.json:
                continue
            if row["status"] == "PASS":
                terminal.result_lines([f"PASS  {folder}  {_facts(row)}"])
            else:
                terminal.result_lines([f"FAIL  {folder}"])
                terminal.error(row["error"], row["hint"], row["code"])
        if junit is not None:
            from converter.report.junit import verify_junit

            junit.write_text(verify_junit(rows), encoding="utf-8")
        if terminal.json:
            session.print_json(rows)
    return max((row["exit_code"] for row in rows), default=0)


def _all(given: tuple[Path, ...]) -> Iterator[Path]:
    """Yield every package; a folder that is not there is one, so that those after it are checked too.

    Of an output folder, those that its run rejected too: they were asked for, and are not there.
    """
    for folder in given:
        yield from packages_in(folder) if folder.is_dir() else [folder]
        if not (folder / "manifest.json").exists():
            yield from sorted(path.parent for path in folder.glob("*/rejected.json"))


def packages_in(folder: Path) -> list[Path]:
    """Return the packages of an output folder, or `folder` itself.

    Raises:
        PackageDamaged: there is no such folder.

    """
    if not folder.is_dir():
        raise PackageDamaged(
            "there is no such folder",
            where=str(folder),
            hint="check the path: a package is a target's folder in the output of an export, such as out/cpu-int8",
        )
    inside = sorted(path.parent for path in folder.glob("*/manifest.json"))
    return inside if inside and not (folder / "manifest.json").exists() else [folder]


@dataclass(frozen=True)
class _Bounds:
    """What a package is verified within."""

    threads: int
    memory: int | None
    seconds: float


def _verify(session: Session, folder: Path, key: Path | None, bounds: _Bounds) -> dict[str, Any]:
    """Return what was found of one package; an error of any kind is its own, and hides no other package."""
    from converter.commands.cli import BUG_EXIT_CODE, as_deliberate
    from converter.package.signature import signed_by
    from converter.package.verify import STEPS, verify_package

    terminal = session.terminal

    begun: list[str] = []
    row: dict[str, Any] = {"package": str(folder), "status": "PASS", "exit_code": 0}
    try:
        packages_in(folder)
        signed = signed_by(folder, key)  # before anything of it is opened
        with held(session, folder, bounds.memory or usual_memory(folder), bounds.seconds):
            facts = verify_package(folder, threads=bounds.threads, begin=begun.append)
        return row | {"steps": dict.fromkeys(STEPS, "PASS"), "facts": facts | signed}
    except Exception as error:  # noqa: BLE001 - a bug that one package meets must not hide the packages after it
        if terminal.verbose:
            terminal.say("".join(traceback.format_exception(error)).rstrip())
        known = as_deliberate(error)
        code = BUG_EXIT_CODE if known is None else known.exit_code
        said = f"{BUG}{type(error).__name__}: {error}" if known is None else str(known)
        hint = "run it alone with -v, and report it" if known is None else known.hint
        told = {"code": "" if known is None else known.full_code, "error": said, "hint": hint}
        failed = begun[-1] if begun else STEPS[0]
        steps = {s: "FAIL" if s == failed else "PASS" if s in begun else "NOT_RUN" for s in STEPS}
        return row | {"status": "FAIL", "exit_code": code, **told, "steps": steps}


def _facts(row: dict[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {_short(value)}" for key, value in row["facts"].items())


def _short(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
