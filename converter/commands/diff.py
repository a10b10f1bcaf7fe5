"""`plm-export diff OLD NEW`: what changed from one package to another."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from converter.commands.session import Session, json_option, quiet_options
from converter.commands.verify import packages_in
from converter.errors import UsageError
from converter.report.words import plain_value


@click.command("diff", short_help="Show what changed between two packages.")
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option("--markdown", is_flag=True, help="Run both packages, and write Markdown for a pull request.")
@click.option(
    "--texts",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="With --markdown: texts to ask both packages, one a line; default: their golden texts.",
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Number of threads.")
@json_option
@quiet_options
@click.pass_obj
def diff(session: Session, old: Path, new: Path, markdown: bool, texts: Path | None, threads: int) -> int:  # noqa: FBT001 - click's signature
    """Compare two packages: target, precision, accuracy, speed, size, and which files differ.

    With --markdown both packages are run: the result shows size, speed, agreement, the texts that get another answer,
    and the operators that were added or removed. OLD and NEW may then be output folders with several packages.
    """
    if markdown:
        return _markdown(session, old, new, texts, threads)
    if texts is not None:
        raise UsageError("it is for --markdown, which runs the packages", where="--texts", hint="add --markdown")
    from converter.package.manifest import read_manifest
    from converter.report.beside import with_times
    from converter.report.package_diff import differences

    changes = differences(with_times(old, read_manifest(old)), with_times(new, read_manifest(new)))
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


def _markdown(session: Session, old: Path, new: Path, texts: Path | None, threads: int) -> int:
    from converter.package.answer import read_texts_to_ask
    from converter.report.markdown import markdown
    from converter.report.package_diff import compare_packages

    if session.terminal.json:
        raise UsageError("it writes Markdown or JSON", where="--markdown", hint="leave --markdown or --json out")
    asked = None if texts is None else read_texts_to_ask(texts)
    before, after = packages_in(old), packages_in(new)
    with session.terminal.hushed():
        if before == [old] and after == [new]:
            found, added, removed = [compare_packages(old, new, asked, threads=threads)], [], []
        else:
            names = {p.name: p for p in before}
            both = [(names[p.name], p) for p in after if p.name in names]
            found = [compare_packages(a, b, asked, threads=threads) for a, b in both]
            added = [p.name for p in after if p.name not in names]
            removed = sorted(names.keys() - {p.name for p in after})
        session.terminal.result(markdown(found, added, removed).rstrip("\n"))
    return 0


def _ratio(change: Mapping[str, Any]) -> str:
    old, new = change["old"], change["new"]
    numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (old, new))
    return f"  (×{new / old:.3g})" if numeric and old else ""
