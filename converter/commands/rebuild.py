"""`plm-export rebuild PACKAGE [MODEL]`: the same package once more, from its source and its own manifest."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from converter.commands.session import Session, json_option, quiet_options
from converter.errors import GateFailed

if TYPE_CHECKING:
    from converter.package.rebuilt import Comparison
    from converter.package.schema import Format3


@click.command("rebuild", short_help="Make a package again from its source; --check proves that it is the same.")
@click.argument("package", type=click.Path(path_type=Path))
@click.argument("model", required=False)
@click.option(
    "--data",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of the data files that the recipe names; repeat for several.",
)
@click.option("--output", "-o", type=click.Path(path_type=Path), metavar="DIR", help="Output folder.")
@click.option("--check", is_flag=True, help="Compare byte by byte with PACKAGE; exit code 3 where a file differs.")
@click.option("--force", is_flag=True, help="Replace an earlier output in DIR; refused where DIR holds any other file.")
@json_option
@quiet_options
@click.pass_obj
def rebuild(  # click passes one argument a flag
    session: Session,
    /,
    *,
    package: Path,
    model: str | None,
    data: tuple[Path, ...],
    output: Path | None,
    check: bool,
    force: bool,
) -> int:
    """Make PACKAGE again by the recipe in its manifest, with what that run measured and chose.

    MODEL is the source: a folder, or an id on the Hugging Face Hub. Without it, the recipe.toml beside PACKAGE says
    where the source and its data files are, or the manifest where they come from. With --check and without -o the new
    package is removed after the comparison.
    """
    from converter.package.manifest import read_sealed
    from converter.package.rebuilt import compare_packages, of_this_format

    manifest = of_this_format(package, read_sealed(package))
    if output is None and not check:
        output = package.with_name(f"{package.resolve().name}-rebuilt")
    with tempfile.TemporaryDirectory(prefix="plm-export-") as scratch:
        made = _make(session, package, manifest, model, data, output or Path(scratch) / "out", force=force)
        if not check:
            session.terminal.result(str(made))
            return 0
        found = compare_packages(package, made)
    return _tell(session, package, manifest, found)


def _make(
    session: Session,
    package: Path,
    manifest: "Format3",
    model: str | None,
    data: tuple[Path, ...],
    out: Path,
    *,
    force: bool,
) -> Path:
    """Run the recipe; returns the folder of the new package.

    Raises:
        GateFailed: it was not made, or not proven.

    """
    from converter.package.rebuilt import recipe_of, resolved_of
    from converter.pipeline import run_recipe

    terminal = session.terminal
    recipe = recipe_of(package, manifest, model, data)
    terminal.say(f"Making {package} again from {recipe.model}")
    with terminal.hushed():
        progress = terminal.progress()
        with progress.task("Rebuilding"):
            result = run_recipe(recipe, out, force=force, progress=progress, resolved=resolved_of(manifest))
    (target,) = result.targets
    if target.folder is None or target.error is not None:
        raise GateFailed(f"it could not be made again: {target.error}", where=str(package), hint=target.hint or "")
    return out / target.folder


def _tell(session: Session, package: Path, manifest: "Format3", found: "Comparison") -> int:
    terminal = session.terminal
    changed = _other_versions(manifest.versions)
    if terminal.json:
        session.print_json(
            {
                "package": str(package),
                "same": found.same,
                "files": found.n_files,
                "differing": list(found.differing),
                "keys": list(found.keys),
                "other_versions": changed,
            }
        )
    elif found.same:
        terminal.result(f"SAME  {package}  {found.n_files} files, byte for byte")
    else:
        terminal.result(f"OTHER  {package}")
        terminal.error(found.sentence(), _hint(changed))
    return 0 if found.same else GateFailed.exit_code


def _hint(changed: Mapping[str, Any]) -> str:
    if changed:
        return "other versions are installed now: " + ", ".join(
            f"{name} {now or 'none'} (was {was or 'none'})" for name, (was, now) in changed.items()
        )
    return "bytes are equal on machines of one class: the processor's instruction sets decide how numbers are rounded"


def _other_versions(sealed: Mapping[str, str]) -> dict[str, tuple[str | None, str | None]]:
    from converter.package.installed import installed

    now = installed(name for name in sealed if name != "python")
    return {n: (sealed.get(n), now.get(n)) for n in {**sealed, **now} if sealed.get(n) != now.get(n)}
