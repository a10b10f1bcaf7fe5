"""`plm-export explain PACKAGE`: where a package departs from its source, and what repairs it."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from converter.commands.session import Session, json_option, quiet_options

if TYPE_CHECKING:
    from converter.explain.walk import Explanation


@click.command("explain", short_help="Find the step and the layer at which a package departs from its source.")
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--source", metavar="MODEL", help="The source model; default: that of the recipe beside PACKAGE.")
@click.option(
    "--recipe", type=click.Path(path_type=Path), metavar="FILE", help="The run's recipe; default: beside PACKAGE."
)
@click.option("--fix", is_flag=True, help="Export again with the setting that repairs it, into --output.")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), metavar="DIR", help="Folder for --fix; default: PACKAGE-fixed."
)
@json_option
@quiet_options
@click.pass_obj
def explain(
    session: Session, package: Path, source: str | None, recipe: Path | None, output: Path | None, *, fix: bool
) -> int:
    """Compare PACKAGE, sealed or rejected, with its source: tokenizer, labels, each step, then each layer.

    The steps that made PACKAGE are run again. Of a quantization that broke, gentler settings are tried, and the first
    that keeps to its limits is named. Exit code 0: nothing is broken, or --fix made a package that passed; else 3.
    """
    terminal = session.terminal
    with terminal.hushed():
        from converter.explain.package import explain_package

        progress = terminal.progress()
        with progress.task("Explaining"):
            found = explain_package(package, source, recipe, progress=progress)
    if terminal.json and not fix:
        session.print_json(found.table())
    elif not terminal.json:
        terminal.result("\n".join(lines(package, found)))
    if not fix or not found.boundary:
        return 3 if found.boundary else 0
    return _fixed(session, package, source, recipe, found, output)


def lines(package: Path, found: "Explanation") -> list[str]:
    """Return what was found as lines."""
    made = [f"{package}:"]
    made += [
        f"  {'BROKEN' if b.broken else 'ok':7} {b.name} ({b.step}): {b.detail or 'as in the source'}"
        for b in found.boundaries
    ]
    if not found.boundary:
        return [*made, "No boundary is broken: the package answers like its source, within the limits."]
    where = f", in {found.layer}" if found.layer else ""
    made.append(f"The first boundary that broke is {found.boundary}{where}.")
    if found.repair:
        made.append(f"What repairs it: --quantize {found.repair} (plm-export explain {package} --fix exports it so)")
    return made


def _fixed(
    session: Session, package: Path, source: str | None, recipe: Path | None, found: "Explanation", output: Path | None
) -> int:
    from converter.errors import GateFailed

    terminal = session.terminal
    out = output or package.with_name(f"{package.name.removesuffix('.rejected')}-fixed")
    with terminal.hushed():
        from converter.explain.package import repaired_recipes
        from converter.pipeline import run_recipe
        from converter.report.summary import report_table
        from converter.report.table import show

        progress = terminal.progress()
        chosen = repaired_recipes(package, source, recipe, found)
        if not chosen:
            raise GateFailed(
                f"no setting repairs {found.boundary}", hint="compress less, or look at the layer that explain names"
            )
        result = None
        with progress.task("Exporting"):
            for one in chosen:  # until a package passes its whole gate; one that was rejected is replaced
                result = run_recipe(one, out, force=result is not None, progress=progress)
                if result.exit_code == 0:
                    break
                progress.note(f"{result.targets[0].precision} does not repair it: {result.targets[0].error}")
        assert result is not None
        if terminal.json:
            session.print_json(found.table() | {"fixed": report_table(result)})
        else:
            show(result, terminal)
    return result.exit_code
