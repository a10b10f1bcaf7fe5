"""Write the generated pages of docs/reference from the code: commands, targets, methods and errors.

python docs/generate.py [--check]
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, from anywhere

import click  # noqa: E402

from converter import registry  # noqa: E402
from converter.commands.cli import COMMANDS  # noqa: E402
from converter.commands.listing import descriptions, known, option_text, range_text  # noqa: E402
from converter.errors import OTHERS, error_classes  # noqa: E402
from converter.model_folder.causes import CAUSES  # noqa: E402
from converter.precision import Limits  # noqa: E402
from converter.recipe import COMPRESSED_AGREEMENT, COMPRESSED_DROP  # noqa: E402

FOLDER = ROOT / "docs" / "reference"
NOTE = "<!-- Written by docs/generate.py: change the code, then run `python docs/generate.py`. -->\n"
LIMITS = ("max_error", "cosine", "agreement", "stability", "max_drop")
TITLES = {
    "trim": "Trim the vocabulary",
    "prune": "Prune",
    "share": "Share weights",
    "factorize": "Factorize",
    "distill": "Distill",
    "adapt": "Adapt",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where a page is not up to date")
    given = parser.parse_args()
    stale = {path: text for path, text in pages().items() if not path.is_file() or path.read_text("utf-8") != text}
    if given.check:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not up to date: run `python docs/generate.py`", file=sys.stderr)
        return 1 if stale else 0
    for path, text in stale.items():
        path.write_text(text, encoding="utf-8")
    return 0


def pages() -> dict[Path, str]:
    """Return every generated page."""
    made = {"commands.md": commands(), "targets.md": targets(), "methods.md": methods(), "errors.md": errors()}
    return {FOLDER / name: f"{NOTE}\n{text.strip()}\n" for name, text in made.items()}


def commands() -> str:
    parts = [
        "# Commands",
        "`plm-export MODEL …` is short for `plm-export export MODEL …`. Results go to stdout, progress and messages to "
        "stderr. In the names of flags and methods, `-` and `_` are the same.",
    ]
    for command in COMMANDS:
        context = click.Context(command, info_name=f"plm-export {command.name}")
        usage = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
        parts += [f"## {command.name}", f"```text\n{usage}\n```", prose(command.help or "")]
        rows = [row for param in command.params if (row := flag(param, context))]
        parts.append(table("flag | default | meaning", rows))
    return "\n\n".join(parts)


def flag(param: click.Parameter, context: click.Context) -> tuple[str, ...]:
    """Return the row of a flag; nothing for an argument, which the usage line names."""
    if not isinstance(param, click.Option):
        return ()
    names = ", ".join(f"`{name}`" for name in param.opts)
    value = "" if param.is_flag else f" {param.make_metavar(context)}"
    default = f"`{param.default}`" if param.show_default else ""
    return f"{names}{value}", default, param.help or ""


def targets() -> str:
    parts = [
        "# Targets and precisions",
        "`--target NAME` chooses a target, `--target NAME:KEY=VALUE,…` sets its options, and "
        "`--quantize TARGET=PRECISION:KEY=VALUE,…` its precision. `--quantize auto` exports the candidates that can be "
        "the fastest and keeps the fastest one that passes its gate.",
    ]
    for name in registry.target_names():
        (found,) = descriptions(name)
        cls = registry.target_class(name)
        extra = f" It needs the extra `{cls.extra}`." if cls.extra else ""
        parts += [f"## {name}", f"{sentence(found['summary'])}{extra}", *options(found)]
        parts += [f"Precisions; the first is the default. `auto` tries {listed(cls.candidates())}."]
        rows = [(f"`{p}`", descriptions(f"{name}={p}")[0]["summary"], *limits(cls, p)) for p in cls.menu()]
        titles = " | ".join(f"`{limit}`" for limit in LIMITS)
        parts.append(table(f"precision | is | {titles}", rows))
        for precision in cls.menu():
            (one,) = descriptions(f"{name}={precision}")
            if one["options"]:
                parts += [f"### {name}={precision}", prose(one["about"]), *options(one)]
    parts += [
        "## Limits of the gate",
        "The columns named after limits in the tables above are the default limits. Override one with "
        f"`--limit NAME=X`, `--limit TARGET.NAME=X` or `[limits]` in a recipe. A model that was compressed "
        f"(`--prune`, `--distill` and so on) has the defaults `agreement` {COMPRESSED_AGREEMENT:g} and `max_drop` "
        f"{COMPRESSED_DROP:g}, and no limit on errors.",
        *options(descriptions("limits")[0]),
    ]
    return "\n\n".join(parts)


def limits(cls: Any, precision: str) -> Iterator[str]:
    found: Limits = cls().limits(precision)
    for name in LIMITS:
        value = getattr(found, name)
        yield "" if value is None else f"{value:g}"


def methods() -> str:
    parts = [
        "# Compression methods",
        "Every method is a stage: `--prune structured:heads=0.25` on the command line, or "
        '`[[compress]]` with `stage = "prune.structured"` in a recipe. Stages run in the order given.',
    ]
    for kind, title in TITLES.items():
        parts.append(f"## {title}")
        for name in (n for n in registry.stage_names() if n.startswith(f"{kind}.")):
            (found,) = descriptions(name)
            parts += [f"### {name}", sentence(found["summary"]), prose(found["about"]), *options(found)]
    families = listed(known("families"))
    parts += [
        "## What can be compressed",
        f"Pruning, layer sharing and `distill.gradual` support the families {families}.",
    ]
    parts += ["## Tasks", table("task | architectures", [(f"`{n}`", line) for n, line in known("tasks").items()])]
    return "\n\n".join(parts)


def errors() -> str:
    rows = [
        (f"`{cls.code}`", str(cls.exit_code), " ".join((cls.__doc__ or "").partition("\n\n")[0].split()), cls.cure)
        for cls in error_classes()
    ]
    rows += [(f"`{code}`", str(exit_code), cause, cure) for code, (exit_code, cause, cure) in OTHERS.items()]
    causes = [(f"`{name}`", blanks(row.what), blanks(row.cure)) for name, row in sorted(CAUSES.items())]
    return "\n\n".join(
        [
            "# Error codes",
            "Every error ends with its code: `error: … [PLM400/link-outside]`. With `--json` it is `error.code`; "
            "`verify --json` and `report.json` have it as `code`, and `report.sarif` as the rule. Codes are stable: a "
            "code never gets another meaning. What the exit codes mean is in [Exit codes](exit-codes.md).",
            table("code | exit code | cause | cure", sorted(rows)),
            "## Reasons to refuse a source",
            "They stand behind a slash: `PLM400/setfit`. Other refusals of a source have the code alone.",
            table("reason | cause | cure", causes),
        ]
    )


def blanks(text: str) -> str:
    """Return a sentence whose `{names}` are filled at the place of the error."""
    return re.sub(r"\{\w*(?:![rs])?\}", "…", text).replace("{{", "{").replace("}}", "}")


def options(found: dict[str, Any]) -> list[str]:
    """Return the table of options; empty where there are none."""
    rows = [
        (f"`{o['name']}`", option_text(o["default"]), o["type"], range_text(o["low"], o["high"]), o["help"])
        for o in found["options"]
    ]
    return [table("option | default | type | range | meaning", rows)] if rows else []


def table(titles: str, rows: list[tuple[str, ...]]) -> str:
    names = titles.split(" | ")
    lines = [names, ["---"] * len(names), *([cell(c) for c in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def prose(text: str) -> str:
    """Return a docstring as paragraphs; click's marks are left out, and code blocks of one line stay lines."""
    return "\n\n".join(" ".join(part.split()) for part in text.replace("\b", "").split("\n\n") if part.strip())


def sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def listed(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    sys.exit(main())
