"""README, docs/ and --help are tried: commands can be typed, links lead somewhere, generated pages are current."""

import ast
import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

import converter
from converter.commands.cli import COMMANDS, cli
from converter.commands.flags import Flags, recipe_table
from converter.commands.listing import KINDS, descriptions
from converter.commands.session import Session
from converter.commands.terminal import Terminal
from converter.errors import ExportError, UsageError
from converter.fleet.jobs import read_jobs
from converter.recipe import KEYS, bind_recipe
from converter.registry import stage_class, stage_names

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
BLOCKS = [(name, kind, block) for name, text in TEXTS.items() for kind, block in FENCED.findall(text)]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
COINED = re.compile(
    r"hangs? on the|\banew\b|answers? otherwise|answered otherwise|never takes|likewise|no shares of|manieth|"
    r"asked for|lies beside|\bheard\b|who is near whom|stands? for itself"
)
"""Turns of phrase that users have stumbled over; section 2 of the design has the rule."""


def lines_of(text: str) -> Iterator[str]:
    yield from (line.strip() for line in text.splitlines() if line.strip().startswith("plm-export "))


def help_texts() -> dict[str, str]:
    return {
        c.name or "": " ".join(filter(None, (c.help, c.short_help, *(getattr(p, "help", "") for p in c.params))))
        for c in COMMANDS
    }


DOCUMENTED = [(n, line) for n, kind, block in BLOCKS if not kind for line in lines_of(block)]
EXAMPLES = [(f"{c.name} --help", line) for c in (cli, *COMMANDS) for line in lines_of(f"{c.help}\n{c.epilog or ''}")]


def tried(line: str) -> str:
    """Parse a command as the program does and bind what it names, without running it; returns the command's name.

    Raises:
        click.UsageError, ExportError: there is no such command, flag, target, method, option or precision.

    """
    words = shlex.split(line.partition("   ")[0], comments=True)[1:]
    name = words[0] if words[0] in cli.commands else "export"
    rest = words[1:] if words[0] in cli.commands else words
    session = Session(Terminal(), words)
    context = cli.commands[name].make_context(name, list(rest), obj=session)
    if name in {"export", "plan"}:
        found = context.meta.get("converter.commands.plan", {}) if name == "plan" else context.params
        bind_recipe(recipe_table(Flags(**{f.name: found[f.name] for f in fields(Flags) if f.name in found}), words))
    elif name == "describe":
        descriptions(context.params["name"])
    elif name == "list" and context.params["kind"] is not None and context.params["kind"] not in KINDS:
        raise UsageError(f"there is no kind {context.params['kind']!r}")
    return name


@pytest.fixture
def beside_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work where the recipes and the label map that the documents name are."""
    blocks = [block for _, kind, block in BLOCKS if kind == "toml"]
    for block in blocks:
        if block.startswith("# ") and (name := block.splitlines()[0][2:]).endswith(".toml"):
            (tmp_path / name).write_text(block, encoding="utf-8")
    (tmp_path / "map.tsv").write_text("good\tpositive\nbad\tnegative\n", encoding="utf-8")
    (tmp_path / "sample_models").symlink_to(ROOT / "sample_models")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("beside_a_recipe")
@pytest.mark.parametrize(("where", "line"), [*DOCUMENTED, *EXAMPLES])
def test_a_command_that_is_shown_can_be_typed(where: str, line: str) -> None:
    assert tried(line) in cli.commands


def test_documents_and_help_show_commands() -> None:
    assert len(DOCUMENTED) > 20
    assert {where for where, _ in EXAMPLES} >= {"export --help", "cli --help"}


@pytest.mark.parametrize(
    "line",
    [
        "plm-export ./my-model --no-such-flag",
        "plm-export org/model --distill logits --target cpu-int8",  # was in the examples of --help
        "plm-export m --target tflight",
        "plm-export m --target tflite --quantize tflite=litert_static",
        "plm-export m --prune structured:head=0.5",
        "plm-export plan m --prune structure",
        "plm-export describe litert",
        "plm-export list precision",
    ],
)
def test_a_command_that_cannot_be_typed_is_seen(line: str) -> None:
    with pytest.raises((click.UsageError, ExportError)):
        tried(line)


@pytest.mark.parametrize("name", [n for n in stage_names() if not n.startswith("quantize.")])
def test_the_recipes_that_describe_shows_bind(name: str) -> None:
    for shown in re.findall(r"As a recipe: `(.*)`", stage_class(name).__doc__ or ""):
        assert bind_recipe(tomllib.loads(shown)).compress


def anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", FENCED.sub("", text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


def broken(page: Path, text: str) -> list[str]:
    """Return the relative links of a page that lead nowhere."""
    made = []
    for link in LINK.findall(FENCED.sub("", text)):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.is_file() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            made.append(link)
    return made


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere_in_this_repository(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not broken(page, text)
    assert not re.search(r"\]\(\w+:", text), "no host names"


def test_a_link_to_nowhere_is_seen() -> None:
    page = ROOT / "README.md"
    text = "[a](docs/none.md) [b](docs/glossary.md#nothing) [c](docs/glossary.md) [d](#safety)"
    assert broken(page, text) == ["docs/none.md", "docs/glossary.md#nothing"] + ["#safety"] * (
        "safety" not in anchors(TEXTS["README.md"])
    )


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r": ([\w/-]+\.md)$", text, flags=re.MULTILINE))
    assert named == {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}


def test_what_is_made_is_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    made = {line for _, kind, block in BLOCKS if not kind for line in block.splitlines() if line.startswith("make ")}
    assert made >= {"make demo", "make test"}
    assert all(re.search(rf"^{line.split()[1]}:", makefile, flags=re.MULTILINE) for line in made)


@pytest.mark.parametrize("block", [block for _, kind, block in BLOCKS if kind == "toml" and "[[job]]" not in block])
def test_recipes_bind(block: str) -> None:
    assert bind_recipe(tomllib.loads(block)).targets


@pytest.mark.parametrize("block", [block for _, kind, block in BLOCKS if kind == "toml" and "[[job]]" in block])
def test_job_files_are_read(block: str, tmp_path: Path) -> None:
    for name in re.findall(r'"([\w-]+\.toml)"', block):
        (tmp_path / name).write_text("", encoding="utf-8")
    (tmp_path / "jobs.toml").write_text(block, encoding="utf-8")
    assert read_jobs(tmp_path / "jobs.toml")


@pytest.mark.parametrize("block", [block for _, kind, block in BLOCKS if kind == "python"])
def test_python_uses_public_names(block: str) -> None:
    nodes = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.ImportFrom)]
    assert nodes
    for module, names in ((str(node.module), {a.name for a in node.names}) for node in nodes):
        own = module.partition(".")[0] == "converter"
        assert names <= set(converter.__all__ if own else dir(importlib.import_module(module))), module


def test_files_that_are_named_exist() -> None:
    text = "\n".join(TEXTS.values())
    for path in re.findall(r"`((?:converter|targets|sample_models|benchmarks|tests|docs)/[\w/.]+)`", text):
        assert "NAME" in path or (ROOT / path).exists(), path


def first_column(page: str, under: str = "") -> set[str]:
    """Return the code words in the first column of the tables of a page, from the title `under` on."""
    text = TEXTS[page]
    text = text[text.index(under) :].partition("\n## ")[0] if under else text
    cells = re.findall(r"^\| (`[^|]*`) \|", text, flags=re.MULTILINE)
    return {word for cell in cells for word in re.findall(r"`([\w.]+)`", cell)}


def test_the_exit_codes_are_those_of_the_errors() -> None:
    from converter import errors

    table = {int(n) for n in re.findall(r"^\| (\d+) \|", TEXTS["docs/reference/exit-codes.md"], flags=re.MULTILINE)}
    own = {cls.exit_code for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, Exception)}
    assert table == own | {0, errors.INTERRUPTED_EXIT_CODE}


def test_every_error_has_a_code_of_its_own_with_cause_and_cure() -> None:
    from converter import errors

    classes = {cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, ExportError)}
    assert classes == {*errors.error_classes(), ExportError}
    codes = [cls.code for cls in errors.error_classes()] + list(errors.OTHERS)
    assert len(set(codes)) == len(codes)
    assert all(cls.cure and cls.__doc__ for cls in errors.error_classes())
    assert set(codes) == {c for c in first_column("docs/reference/errors.md") if c.startswith("PLM")}
    # The hundreds are the exit code: a pipeline that knows one knows the other.
    assert all(int(cls.code[3:]) // 100 == cls.exit_code for cls in errors.error_classes())


def test_every_reason_to_refuse_a_source_is_documented() -> None:
    from converter.model_folder.causes import CAUSES

    rows = re.findall(r"^\| `([\w-]+)` \|", TEXTS["docs/reference/errors.md"], flags=re.MULTILINE)
    assert {row for row in rows if not row.startswith("PLM")} == set(CAUSES)


def test_the_keys_of_recipes_are_those_that_bind() -> None:
    assert first_column("docs/reference/recipe.md") == set(KEYS)


def test_the_names_of_the_api_are_the_public_ones() -> None:
    assert first_column("docs/reference/api.md") == set(converter.__all__) - {"__version__", "TargetResult"}


def test_the_keys_of_reports_are_those_that_are_written() -> None:
    from converter.report.summary import report_table
    from tests.unit.test_report import result

    table: dict[str, Any] = report_table(result())
    assert first_column("docs/reference/package.md", "## Keys of report.json") == set(table)
    said = set(re.findall(r"`(\w+)`", TEXTS["docs/reference/package.md"]))
    assert set(table["targets"][0]["evaluation"]) <= said
    assert set(table["targets"][0]) <= said | {"target"}


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_the_generated_pages_are_up_to_date(generator: ModuleType) -> None:
    for path, text in generator.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run `python docs/generate.py`"


def test_the_reference_names_every_flag_option_and_precision(generator: ModuleType) -> None:
    text = "\n".join(generator.pages().values())
    flags = {name for c in COMMANDS for p in c.params if isinstance(p, click.Option) for name in p.opts}
    assert all(f"`{flag}`" in text for flag in flags)
    named = {o["name"] for n in stage_names() for d in descriptions(n) for o in d["options"]}
    assert all(f"| `{option}` |" in text for option in named)


def test_nothing_is_said_in_words_of_our_own() -> None:
    shown = TEXTS | {f"{name} --help": text for name, text in help_texts().items()}
    found = [f"{name}: {match.group(0)!r}" for name, text in shown.items() if (match := COINED.search(text))]
    assert not found
