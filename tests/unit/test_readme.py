"""The README opens with the two commands, stays short, and its figures come from files, as those of docs/ do."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SCREEN = 40
"""Lines of a window."""
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)


def test_it_opens_with_the_two_commands() -> None:
    assert BLOCKS[0] == ("", "make demo\nmake test\n")


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


def test_the_figures_are_those_of_the_benchmark_files(table: ModuleType) -> None:
    made = table.files()
    assert set(made) == {ROOT / "README.md", ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "explanation" / "gate.md"}
    for path, text in made.items():
        assert text == path.read_text(encoding="utf-8"), f"{path.name}: run benchmarks/readme_table.py"
        assert table.with_figures(text, "| none |") != text


def test_the_readme_has_at_most_two_screens_of_tables() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("|")]
    assert 0 < len(rows) <= 2 * SCREEN


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
    one, two = table.peers({"machines": entries}).split("\n\nCompared")
    assert "**One** (avx2, avx512_vnni), commit abc1234" in one
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
    assert made.replace(" ", "") == "|bert|none;float32:onepersignature|3.0e-07|||23.0MB||20|21|PASS,error|"


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
