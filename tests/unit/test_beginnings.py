"""A model that continues text is asked about beginnings of whole lines, and about prompts as they are."""

from collections.abc import Callable
from pathlib import Path

import pytest

from converter.artifact import TorchModel
from converter.context import RecipeText, read_text
from converter.data.beginnings import WHOLE, beginnings
from converter.data.probes import is_edge
from converter.examples import Example, References
from converter.model_folder.load import load_source
from converter.recipe import bind_recipe
from converter.reference import capture_reference
from converter.scoring.intervals import unseen
from converter.stage import SILENT
from converter.validate.texts import LENGTHS, text_facts
from tests.tiny_text import save_causal

LINES = [f"The  king {i} buys a red hat and\tgoes home." for i in range(8)]


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> TorchModel:
    return load_source(str(save_causal(tmp_path_factory.mktemp("writer"))))


def read(model: TorchModel, path: Path, content: str, key: str = "eval") -> RecipeText:
    path.write_text(content, encoding="utf-8")
    recipe = bind_recipe({"model": str(model.folder), "targets": ["cpu-int8"], key: str(path)})
    return read_text(recipe, model, SILENT)


def asked(text: RecipeText) -> list[str]:
    return [e.text for e in text.probes if not is_edge(e)]


@pytest.mark.parametrize(
    ("key", "more", "compared"), [("eval", {}, 160), ("eval", {"probes": 100}, 100), ("calibration", {}, 48)]
)
def test_evaluation_text_is_compared_as_far_as_probes_say_because_bounds_decide_on_it(
    key: str, more: dict[str, int], compared: int, writer: TorchModel, tmp_path: Path
) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(f"The king {i} buys a red hat and goes home." for i in range(160)), encoding="utf-8")
    recipe = bind_recipe({"model": str(writer.folder), "targets": ["cpu-int8"], key: str(path)} | more)
    assert len(asked(read_text(recipe, writer, SILENT))) == compared
    assert (unseen(compared) < 0.02) == (compared == 160)  # what int8 is held to


@pytest.mark.parametrize("key", ["eval", "calibration"])
def test_lines_are_begun_and_every_fourth_is_whole_and_scores_are_of_whole_lines(
    key: str, writer: TorchModel, tmp_path: Path
) -> None:
    text = read(writer, tmp_path / "lines.txt", "\n".join(LINES), key)
    begun = [f"The  king {i} buys a" for i in range(8)]
    assert asked(text) == [LINES[i] if (i + 1) % WHOLE == 0 else begun[i] for i in range(8)]
    assert [e.text for e in text.scored if not is_edge(e)] == LINES


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pairs.tsv", "prompt\tcompletion\n" + "\n".join(f"{line[:22]}\tgoes" for line in LINES)),
        ("prompts.csv", "prompt\n" + "\n".join(line.replace("\t", " ") for line in LINES)),
    ],
    ids=["with an answer", "a column of prompts"],
)
def test_prompts_are_asked_as_they_are(name: str, content: str, writer: TorchModel, tmp_path: Path) -> None:
    text = read(writer, tmp_path / name, content)
    assert len(asked(text)) == len(LINES)
    assert asked(text) == [e.text for e in text.given.evaluation]


def test_a_beginning_and_its_line_are_one_text_of_the_users(writer: TorchModel, tmp_path: Path) -> None:
    text = read(writer, tmp_path / "lines.txt", "\n".join(LINES))
    reference = capture_reference(writer, text.probes, SILENT, text.scored)
    assert text_facts(writer, reference)[LENGTHS]["texts"] == len(LINES)


def test_an_encoder_is_asked_about_whole_lines(tiny: Callable[..., Path], tmp_path: Path) -> None:
    model = load_source(str(tiny(layers=1)))
    assert asked(read(model, tmp_path / "lines.txt", "\n".join(LINES))) == LINES


def test_a_text_without_spaces_is_cut_between_characters_and_one_without_a_label_never() -> None:
    alone = References(())
    (found,) = beginnings([Example("这部电影非常好看", label=alone)])
    assert found.text == "这部电影"
    assert beginnings([Example("one two", label=None), Example("", label=alone)]) == (
        Example("one two", label=None),
        Example("", label=alone),
    )
