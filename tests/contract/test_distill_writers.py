"""What students that write text learn: from the teacher's probabilities, from right answers, from what it writes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converter.artifact import TorchModel
from converter.errors import ExportError, UsageError
from converter.examples import Example
from converter.model_folder.shape_map import LayerShape
from converter.reference import feed_of
from converter.registry import stage_class
from converter.stage import run_stage
from converter.surgery.resize import resized, shallower, shape_map_of
from converter.training.layer_map import ObservedForward
from converter.training.relations import plan_relations
from tests.tiny import SENTENCES
from tests.writers import KINDS, context, loaded_once, scores


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TorchModel]:
    return loaded_once(KINDS, tmp_path_factory)


@pytest.mark.parametrize("kind", ["marian", "gpt2"])
def test_a_shallow_student_comes_nearer_to_its_teacher_by_learning(
    kind: str, source: Callable[[str], TorchModel], tmp_path: Path
) -> None:
    whole = source(kind)
    n_layers = len(shape_map_of(whole).layers)
    student = shallower(whole, tuple(range(n_layers - 1)))
    ctx = context(whole, tmp_path)
    shared: dict[str, Any] = {"steps": 30, "epochs": 40, "batch_size": 8, "learning_rate": 3e-3}
    for name in ("distill.soft", "distill.hard", "distill.sequence"):
        options = shared | ({"longest": 8} if name == "distill.sequence" else {})
        made, record = run_stage(stage_class(name)(**options), student, ctx)
        assert record.facts["last_loss"] < 0.8 * record.facts["first_loss"], name
        assert made.digest != student.digest
        if name != "distill.hard":
            parts = record.facts
            assert parts["last_parts"]["soft"] < parts["first_parts"]["soft"], name
    learned, _ = run_stage(stage_class("distill.soft")(**shared), student, ctx)
    before, after = (
        np.mean([np.abs(scores(whole, e) - scores(m, e)).mean() for e in ctx.calibration]) for m in (student, learned)
    )
    assert after < before


def test_a_student_that_is_deeper_than_its_teacher_is_refused(
    source: Callable[[str], TorchModel], tmp_path: Path
) -> None:
    whole = source("marian")
    shallow = shallower(whole, (0, 1))
    for student, teacher in ((whole, shallow),):
        ctx = replace(context(whole, tmp_path), teacher=teacher)
        with pytest.raises(UsageError, match=r"decoder has 2 layers, its teacher's 1"):
            run_stage(stage_class("distill.soft")(steps=1), student, ctx)
    run_stage(stage_class("distill.soft")(steps=1, batch_size=4), shallow, context(whole, tmp_path))


def test_texts_without_answers_are_for_the_teacher_to_answer(
    source: Callable[[str], TorchModel], tmp_path: Path
) -> None:
    whole = source("marian")
    bare = replace(context(whole, tmp_path), calibration=tuple(Example(t) for t in SENTENCES))
    with pytest.raises(ExportError, match="no right answer to learn"):
        run_stage(stage_class("distill.soft")(steps=1), whole, bare)
    _, record = run_stage(stage_class("distill.sequence")(steps=1, longest=4), whole, bare)
    assert record.facts["written"]["texts"] == len(SENTENCES)


@pytest.mark.parametrize("kind", ["marian", "t5"])
def test_a_translator_learns_how_its_teacher_looks_at_the_text(
    kind: str, source: Callable[[str], TorchModel], tmp_path: Path
) -> None:
    whole = source(kind)
    layers, n_cross = shape_map_of(whole).layers, 4 if kind == "t5" else 2  # T5 keeps its heads
    student = resized(whole, [LayerShape(s.heads, s.neurons[::2], s.cross[:n_cross]) for s in layers])
    ctx = context(whole, tmp_path)
    shared: dict[str, Any] = {"steps": 30, "epochs": 40, "batch_size": 8, "learning_rate": 3e-3, "soft_weight": 0.0}
    weights = {"relation_weight": 1.0, "hidden_weight": 0.0}
    _, record = run_stage(stage_class("distill.soft")(**shared, **weights), student, ctx)
    parts = record.facts
    assert parts["first_parts"].keys() == {"relation"}
    assert parts["last_parts"]["relation"] < 0.5 * parts["first_parts"]["relation"]
    _, record = run_stage(stage_class("distill.soft")(**shared, hidden_weight=1.0), student, ctx)
    assert record.facts["last_parts"]["hidden"] < 0.8 * record.facts["first_parts"]["hidden"]


@pytest.mark.parametrize("kind", ["marian", "t5"])
def test_relations_are_those_of_the_last_layer_to_the_text(kind: str, source: Callable[[str], TorchModel]) -> None:
    whole = source(kind)
    n_layers = len(shape_map_of(whole).layers)
    plan = plan_relations(whole, whole, range(n_layers), None)
    assert (plan.student_layer, plan.teacher_layer, plan.n_heads, plan.cross) == (n_layers - 1, n_layers - 1, 4, True)
    example = context(whole, Path()).calibration[0]
    encoding = whole.task.learned(whole.tokenizer, example, whole.max_length)  # type: ignore[attr-defined]
    feed = {n: torch.from_numpy(rows) for n, rows in feed_of(whole, [encoding]).items()}
    with torch.no_grad():
        query, key, value = ObservedForward(whole, relations=n_layers - 1, cross=True)(feed).relations
    assert query.shape[1] == feed["decoder_input_ids"].shape[1]
    assert key.shape[1] == value.shape[1] == feed["input_ids"].shape[1]
    assert not torch.equal(key, value)


@pytest.mark.parametrize("option", ["relation_weight", "similarity_weight", "augment"])
def test_what_only_encoders_learn_is_refused(option: str, source: Callable[[str], TorchModel], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=option):
        run_stage(stage_class("distill.soft")(**{option: 1}), source("gpt2"), context(source("gpt2"), tmp_path))


def test_what_the_teacher_wrote_is_kept_and_read_again(source: Callable[[str], TorchModel], tmp_path: Path) -> None:
    from converter.reference import torch_run

    whole = source("marian")
    ctx, file = context(whole, tmp_path), tmp_path / "written.jsonl"
    stage = stage_class("distill.sequence")(steps=1, longest=6, file=str(file))
    first, one = run_stage(stage, whole, ctx)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert one.facts["written"]["read_from_file"] == 0
    assert len(rows) == 1 + len(SENTENCES)
    told = {row["row"]: row["ids"] for row in rows[1:]}
    task: Any = whole.task
    task_settings = task.settings
    settings = replace(task_settings, sample=False, beams=1, max_new_tokens=6)
    from converter.generate.loop import generate

    for i, text in enumerate(SENTENCES[:4]):
        asked = task.encode(whole.tokenizer, Example(text), 128)
        (wanted,) = generate(torch_run(whole), whole.specs, task.prompt_of(asked), settings).texts(settings)
        assert told[i] == wanted
    # A run that was interrupted lacks lines, the last of them half written.
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:5]) + lines[5][:9])
    second, two = run_stage(stage, whole, ctx)
    assert two.facts["written"]["read_from_file"] == 4
    assert second.digest == first.digest
    with pytest.raises(UsageError, match="not written by this teacher"):
        run_stage(replace(stage, longest=5), whole, ctx)
