"""What a recipe gives a run: its length, its columns and labels, and what is said of text that is too long."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from converter.artifact import TorchModel
from converter.data.names import read_label_map
from converter.errors import RecipeError, UsageError
from converter.examples import Answer, Example
from converter.model_folder.given import at_max_length, read_given
from converter.model_folder.load import load_source
from converter.package.golden import choose, read_golden, record_golden, write_golden
from converter.precision import Limits
from converter.recipe import bind_recipe, load_recipe_table, save_recipe
from converter.reference import at_length, capture_reference, torch_run
from converter.stage import SILENT
from converter.validate.compare import compare
from converter.validate.texts import said_of_lengths, text_facts
from tests.tiny import SENTENCES
from tests.torch_runner import TorchRunner

LONG = " ".join(SENTENCES[:12])


@pytest.fixture(scope="module")
def asked(tiny: Callable[..., Path]) -> TorchModel:
    return load_source(str(tiny("bert", "question-answering", layers=1)))


@pytest.fixture(scope="module")
def classifier(tiny: Callable[..., Path]) -> TorchModel:
    return load_source(str(tiny("bert", layers=1)))


# Length


def test_a_longer_text_than_the_model_takes_is_refused_and_a_shorter_one_kept(classifier: TorchModel) -> None:
    assert at_max_length(classifier, None) is classifier
    assert at_max_length(classifier, 16).max_length == 16
    with pytest.raises(UsageError, match="takes 64 tokens at most, not 65"):
        at_max_length(classifier, 65)


def test_questions_are_read_as_transformers_does_unless_more_is_asked_for(asked: TorchModel) -> None:
    wide = replace(asked, max_length=512)
    assert at_max_length(wide, None).max_length == 384
    assert at_max_length(wide, 512).max_length == 512
    assert at_max_length(asked, None).max_length == 64


def test_texts_that_were_cut_are_counted_without_the_edge_cases(classifier: TorchModel) -> None:
    texts = [Example(LONG), Example("short"), Example(LONG, where="built-in edge case: long")]
    found = text_facts(classifier, capture_reference(classifier, texts, SILENT, notes=["read so"]))
    assert found["lengths"] == {"max_length": 64, "texts": 2, "cut": 1, "in_windows": 0}
    assert found["notes"] == ["read so"]
    assert said_of_lengths(found["lengths"]).startswith("1 of 2 texts are longer than 64 tokens and were cut there")
    assert not said_of_lengths({"max_length": 64, "texts": 2, "cut": 0, "in_windows": 0})


# Windows


def questions() -> list[Example]:
    made = []
    for i, answer in enumerate(("4000", "Berlin", "Clara")):
        context = " ".join((*SENTENCES[i : i + 10], SENTENCES[4], SENTENCES[7], SENTENCES[9]))
        made.append(Example("who?", context, label=Answer((answer,), (context.index(answer),)), where=f"f:{i}"))
    return [*made, Example("who?", SENTENCES[4], where="f:9")]


def test_a_context_in_windows_is_one_text_in_figures_and_all_of_it_is_compared(asked: TorchModel) -> None:
    reference = capture_reference(asked, questions(), SILENT)
    assert len(reference.judged) > 10
    assert reference.n_scored == 3
    found = compare(asked, reference, torch_run(asked), Limits(agreement=1.0), SILENT, "")
    assert found.n_probes == 4
    assert "4 of 4 texts" in next(c for c in found.checks if c.name == "agreement").detail
    assert found.facts["n_scored"] == 3
    assert text_facts(asked, reference)["lengths"]["in_windows"] == 3
    assert "read in overlapping windows" in said_of_lengths(text_facts(asked, reference)["lengths"])


@pytest.mark.parametrize("length", [32, 48, 56])
def test_a_shorter_length_makes_windows_anew(asked: TorchModel, length: int) -> None:
    reference = capture_reference(asked, questions(), SILENT)
    short, seen = at_length(asked, reference, length, SILENT)
    assert short.max_length == length
    direct = capture_reference(replace(asked, max_length=length), questions(), SILENT)
    assert [j.example for j in seen.judged] == [j.example for j in direct.judged]
    ids = [[j.encoding.inputs["input_ids"].tolist() for j in found.judged] for found in (seen, direct)]
    assert ids[0] == ids[1]
    assert seen.decisions == direct.decisions
    assert (seen.metric, seen.chance, seen.n_scored) == (direct.metric, direct.chance, 3)


def test_golden_texts_of_a_tagger_that_finds_nothing_are_chosen_without_comparing_them(
    tiny: Callable[..., Path],
) -> None:
    """Tags of texts of different lengths cannot be compared word by word: they never were the same question."""
    model = load_source(str(tiny("bert", "token-classification", layers=1)))
    texts = [Example(t) for t in ("", "Hi.", "ok", "...")]
    reference = capture_reference(model, texts, SILENT)
    nothing = tuple(("O",) * len(d) for d in reference.decisions)
    assert len({len(d) for d in nothing}) > 1
    assert choose(replace(reference, decisions=nothing), model.task)


def test_golden_texts_remember_their_window(asked: TorchModel, tmp_path: Path) -> None:
    reference = capture_reference(asked, questions(), SILENT)
    for length in (None, 32):
        runner = TorchRunner(asked)
        runner.max_length = length
        write_golden(record_golden(asked, asked, reference, runner), tmp_path)
        found = read_golden(tmp_path)
        assert any(e.window for e in found.examples)
        assert len(found.examples) <= 16
        for example, ids in zip(found.examples, found.ids, strict=True):
            made = asked.task.encode(asked.tokenizer, example, length or asked.max_length)
            assert made.inputs["input_ids"].tolist() == ids["input_ids"].tolist()


# Names


def test_label_maps_are_read_from_three_kinds_of_file(tmp_path: Path) -> None:
    wanted = {"pos": "positive", "3": "0", "mixed": ""}
    (tmp_path / "a.json").write_text('{"pos": "positive", "3": 0, "mixed": null}')
    (tmp_path / "a.toml").write_text('pos = "positive"\n3 = 0\nmixed = ""\n')
    (tmp_path / "a.tsv").write_text("pos\tpositive\n3\t0\nmixed\t\n")
    for kind in ("json", "toml", "tsv"):
        assert read_label_map(tmp_path / f"a.{kind}") == wanted


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "pos\tpositive\nneg\n", r"a.tsv:2: the line has 1 cells"),
        ("a.tsv", "pos\tpositive\npos\tnegative\n", r"a.tsv:2: 'pos' stands there twice"),
        ("a.json", "{", "cannot be read"),
        ("a.json", "[1]", "wanted a table of labels"),
        ("a.json", '{"a": [1]}', r"'a' goes to \[1\]"),
        ("a.yaml", "a: b", "'.yaml' is not known"),
    ],
)
def test_a_label_map_that_is_none_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(RecipeError, match=message):
        read_label_map(tmp_path / name)
    with pytest.raises(RecipeError, match="cannot be read"):
        read_label_map(tmp_path / "none.json")


def test_columns_labels_and_length_are_kept_in_the_saved_recipe(tmp_path: Path) -> None:
    (tmp_path / "map.tsv").write_text("pos\tpositive\n")
    (tmp_path / "mine.toml").write_text('label_map = "map.tsv"\ncolumns = "text=review,label=stars"\nmax_length = 32\n')
    recipe = bind_recipe(load_recipe_table(tmp_path / "mine.toml"))
    assert recipe.label_map == {"pos": "positive"}
    assert recipe.columns == {"text": "review", "label": "stars"}
    save_recipe(recipe, tmp_path / "saved.toml")
    (tmp_path / "map.tsv").unlink()
    assert bind_recipe(load_recipe_table(tmp_path / "saved.toml")) == recipe


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("txt=a", "cannot be named for 'txt'"),
        ("text", "text wants the name of a column"),
        ("pair=b", "name text too"),
        ("text=a,label=a", "named twice"),
        (["text"], "wanted a table"),
    ],
)
def test_columns_that_make_no_sense_are_refused(columns: object, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        bind_recipe({"columns": columns})


def test_a_file_is_read_by_the_recipes_names_and_what_was_done_is_told(classifier: TorchModel, tmp_path: Path) -> None:
    (tmp_path / "dev.csv").write_text("review,verdict\na,x\nb,y\nc,\n")
    (tmp_path / "train.txt").write_text("some text\n")
    recipe = bind_recipe(
        {
            "model": "m",
            "eval": str(tmp_path / "dev.csv"),
            "calibration": str(tmp_path / "train.txt"),
            "columns": {"text": "review", "label": "verdict"},
            "label_map": {"x": "class 1", "y": "2"},
        }
    )
    found = read_given(recipe, classifier, SILENT)
    assert [e.label for e in found.evaluation] == [1, 2, None]
    assert [e.text for e in found.calibration] == ["some text"]
    assert found.notes == ("dev.csv: 1 of 3 texts have no label and count for no metric",)


# What misleads


def test_a_file_of_one_class_and_another_order_of_classes_are_told(classifier: TorchModel) -> None:
    asked = capture_reference(classifier, [Example(s) for s in SENTENCES], SILENT).decisions
    texts = [*SENTENCES, *(f"{s} again" for s in SENTENCES)]
    found = capture_reference(classifier, [Example(s) for s in texts], SILENT).decisions
    assert len(set(found)) == 3
    turned = [Example(t, label=(d + 1) % 3, where=t) for t, d in zip(texts, found, strict=True)]
    notes = capture_reference(classifier, turned, SILENT).notes
    assert "would be 1.0000" in notes[0]
    assert "0 → class 2, 1 → class 0, 2 → class 1" in notes[0]
    right = [replace(e, label=(int(e.label) + 2) % 3) for e in turned]  # type: ignore[call-overload]
    assert capture_reference(classifier, right, SILENT).notes == ()
    one = [Example(s, label=0) for s in SENTENCES]
    assert f"all {len(asked)} labels of the file are 'class 0'" in capture_reference(classifier, one, SILENT).notes[0]
