"""The README is tried: its commands parse, its recipes bind, its names exist, its figures come from files."""

import ast
import importlib.util
import re
import shlex
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import converter
from converter.commands.cli import cli
from converter.commands.session import Session
from converter.commands.terminal import Terminal
from converter.recipe import bind_recipe

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if not kind for line in block.splitlines() if line.startswith("plm-export ")]
MAKES = [line for kind, block in BLOCKS if not kind for line in block.splitlines() if line.startswith("make ")]


def parse(line: str) -> str:
    """Parse one command line as the program does, without running it; returns the command's name."""
    words = shlex.split(line, comments=True)[1:]
    name = words[0] if words[0] in cli.commands else "export"
    rest = words[1:] if words[0] in cli.commands else words
    cli.commands[name].make_context(name, rest, obj=Session(Terminal(), words))
    return name


def test_it_opens_with_the_two_commands() -> None:
    assert BLOCKS[0] == ("", "make demo\nmake test\n")


@pytest.mark.parametrize("line", MAKES)
def test_what_it_makes_is_in_the_makefile(line: str) -> None:
    assert re.search(rf"^{line.split()[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_its_commands_parse(line: str) -> None:
    assert parse(line) in cli.commands


def test_a_wrong_command_is_seen() -> None:
    import click

    with pytest.raises(click.UsageError):
        parse("plm-export ./my-model --no-such-flag")


def test_the_commands_of_its_table_exist() -> None:
    named = set(re.findall(r"`plm-export ([a-z]+)\b", TEXT)) - {"export"}
    assert named
    assert named <= set(cli.commands)


@pytest.mark.parametrize("block", [block for kind, block in BLOCKS if kind == "toml"])
def test_its_recipes_bind(block: str) -> None:
    assert bind_recipe(tomllib.loads(block)).compress


@pytest.mark.parametrize("block", [block for kind, block in BLOCKS if kind == "python"])
def test_its_python_uses_promised_names(block: str) -> None:
    tree = ast.parse(block)
    imported = {a.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for a in node.names}
    assert imported
    assert imported <= set(converter.__all__)


def test_its_exit_codes_are_those_of_the_errors() -> None:
    from converter import errors

    table = {int(n) for n in re.findall(r"^\| (\d+) \|", TEXT, flags=re.MULTILINE)}
    own = {cls.exit_code for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, Exception)}
    assert table == (own - {1}) | {0, errors.INTERRUPTED_EXIT_CODE}


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:converter|targets|sample_models|benchmarks)/[\w/.]+)`", TEXT)))
)
def test_the_files_that_it_names_exist(path: str) -> None:
    assert "NAME" in path or (ROOT / path).exists()


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The generator of the figures, which is no package's module."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("readme_table", ROOT / "benchmarks" / "readme_table.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_its_figures_are_those_of_the_benchmark_files(table: ModuleType) -> None:
    assert table.with_figures(TEXT, table.figures()) == TEXT, "run benchmarks/readme_table.py"
    assert table.with_figures(TEXT, "| none |") != TEXT


PRECISION = {
    "status": "PASS",
    "size_bytes": 23_000_000,
    "agreement": 0.99,
    "metric": {"accuracy": 0.87},
    "source_metric": {"accuracy": 0.88},
    "worst_error": 2e-7,
    "ms_per_text": 2.5,
    "command_seconds": 40.1,
}
HERE = {"machine": {"cpu": "This CPU"}}
UNMEASURED = {name: {} if name == "metric" else None for name in PRECISION}


def test_a_precision_is_a_row_and_what_was_not_measured_is_empty(table: ModuleType) -> None:
    made = table.menu(HERE | {"rows": {"static": PRECISION, "broken": UNMEASURED}}).splitlines()[-2:]
    assert made[0] == "| static | 23.0 MB | 0.9900 | 0.8700 (0.8800) | 2.0e-07 | 2.50 | 40 | PASS |"
    assert made[1].replace(" ", "") == "|broken||||||||"


def test_a_row_says_what_sets_it_apart(table: ModuleType) -> None:
    rows = {"few": {"every": 8, "cpu": "This CPU"}, "elsewhere": {"every": 1, "cpu": "Another"}}
    made = table.menu(HERE | {"rows": {name: PRECISION | more for name, more in rows.items()}}).splitlines()[-2:]
    assert [line.split(" | ")[0] for line in made] == ["| few (on one text in 8)", "| elsewhere (Another)"]


def test_times_say_the_cpu_that_they_were_taken_on(table: ModuleType) -> None:
    assert table.on_cpu("ms; `benchmarks/menu.py`:\n", "menu", HERE) == "ms; `benchmarks/menu.py` on This CPU:\n"
    with pytest.raises(SystemExit, match="do not name"):
        table.on_cpu("ms:\n", "menu", HERE)


def test_every_cpu_has_a_table_beside_the_peers(table: ModuleType) -> None:
    entries = [
        {
            "machine": {"cpu": cpu},
            "instruction_sets": sets,
            "commit": "abc1234",
            "threads": 1,
            "tasks": {"sst2": {"ours": {"megabytes": 1.5, "agreement": 1, "cosine": 1, "ms_per_text": ms}}},
        }
        for cpu, sets, ms in (("One", ["avx2", "avx512_vnni"], 2), ("Two", ["avx2"], 4))
    ]
    one, two = table.peers({"machines": entries}).split("\n\nBeside")
    assert "**One** (avx2, avx512_vnni), one run of commit abc1234" in one
    assert "**Two** (avx2)" in two
    assert "| sst2 | ours | 1.5 MB |  | 1.0000 | 1.0000 | 4.00 |  |" in two


def test_a_run_takes_the_place_of_its_cpus_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from peers import with_entry  # type: ignore[import-not-found] # a script beside the package

    one, two, three = ({"machine": {"cpu": cpu}} for cpu in ("One", "Two", "Three"))
    again = {"machine": {"cpu": "One"}, "commit": "abc1234"}
    assert with_entry([one, two], again) == [again, two]
    assert with_entry([one, two], three) == [one, two, three]
    assert with_entry([], one) == [one]


def test_a_family_is_a_row_of_both_precisions(table: ModuleType) -> None:
    runs = {
        "float32": PRECISION | {"graphs": "one a signature", "seconds": 20.0, "worst_error": 3e-7},
        "int8": UNMEASURED | {"graphs": None, "seconds": 21.0},
    }
    (made,) = table.families(HERE | {"families": {"bert": runs}}).splitlines()[-1:]
    assert made.replace(" ", "") == "|bert|none;float32:oneasignature|3.0e-07|||23.0MB||20|21|PASS,error|"


@pytest.mark.parametrize(
    ("int8", "float32", "said"),
    [
        ("one", "one", "one"),
        ("one behind all", "one each", "one behind all; float32: one each"),
        ("one", None, "one"),
        (None, None, ""),
    ],
)
def test_graphs_that_differ_are_both_named(int8: str | None, float32: str | None, said: str, table: ModuleType) -> None:
    assert table.graphs(int8, float32) == said
