"""What a distillation takes and what it refuses: tasks, families, labels, teachers, on tiny models."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from converter.artifact import TorchModel
from converter.distill.hard import HardLabels
from converter.distill.soft import SoftLabels
from converter.errors import DataError, RecipeError, StageFailed, UsageError
from converter.examples import Answer, Example
from converter.model_folder.load import load_source
from converter.prune.layers import LayerDropping
from converter.recipe import bind_recipe
from converter.registry import stage_class
from converter.stage import Context, run_stage
from tests.distilling import QUICK, TEXTS, Watching, distance
from tests.tiny import SENTENCES


def test_no_text_is_refused(student: TorchModel, ctx: Context) -> None:
    for stage in (SoftLabels(), HardLabels()):
        with pytest.raises(DataError, match="no text"):
            stage.run(student, replace(ctx, calibration=()))


def test_hard_labels_refuse_text_without_labels(student: TorchModel, ctx: Context) -> None:
    unlabelled = tuple(replace(e, label=None) for e in TEXTS)
    with pytest.raises(DataError, match="no labels") as caught:
        HardLabels().run(student, replace(ctx, calibration=unlabelled))
    assert "distill.soft" in caught.value.hint


def test_hard_labels_learn_from_the_labelled_texts_only(student: TorchModel, ctx: Context) -> None:
    mixed = (*TEXTS[:9], *(replace(e, label=None) for e in TEXTS[9:]))
    assert HardLabels(epochs=1).run(student, replace(ctx, calibration=mixed)).facts["n_texts"] == 9
    assert SoftLabels(epochs=1).run(student, replace(ctx, calibration=mixed)).facts["n_texts"] == 20


def test_soft_labels_without_a_teacher_are_refused(student: TorchModel, ctx: Context) -> None:
    for stage in (SoftLabels(), HardLabels(soft_weight=1.0)):
        with pytest.raises(UsageError, match="no teacher"):
            stage.run(student, replace(ctx, teacher=None))


def test_nothing_to_learn_by_is_refused(student: TorchModel, ctx: Context) -> None:
    unlabelled = tuple(replace(e, label=None) for e in TEXTS)
    stage = SoftLabels(soft_weight=0.0, hidden_weight=0.0, hard_weight=1.0)
    with pytest.raises(UsageError, match="no loss to train on"):
        stage.run(student, replace(ctx, calibration=unlabelled))


def test_a_teacher_of_another_task_is_refused(tiny: Callable[..., Path], student: TorchModel, ctx: Context) -> None:
    other = load_source(str(tiny("bert", "token-classification")))
    with pytest.raises(UsageError, match="teacher is for token-classification"):
        SoftLabels().run(student, replace(ctx, teacher=other))


def test_a_teacher_of_other_classes_is_refused(tiny: Callable[..., Path], student: TorchModel, ctx: Context) -> None:
    other = load_source(str(tiny("bert", num_labels=5)))
    with pytest.raises(UsageError, match="5 classes, the student with 3"):
        SoftLabels().run(student, replace(ctx, teacher=other))


def test_a_teacher_of_another_tokenization_is_refused(
    tiny: Callable[..., Path], student: TorchModel, ctx: Context
) -> None:
    other = load_source(str(tiny("roberta")))
    with pytest.raises(UsageError, match="different tokenizers"):
        SoftLabels(relation_weight=1.0).run(student, replace(ctx, teacher=other))
    # What is learned from labels alone needs no teacher that reads alike.
    assert HardLabels(steps=1).run(student, replace(ctx, teacher=other)).facts["steps"] == 1


def test_a_trimmed_student_has_a_teacher_that_reads_its_tokens(student: TorchModel, ctx: Context) -> None:
    trimmed, _ = run_stage(stage_class("trim.vocabulary")(), student, ctx)
    assert len(trimmed.tokenizer) < len(student.tokenizer)
    assert SoftLabels(steps=1, relation_weight=1.0).run(trimmed, ctx).facts["steps"] == 1


@pytest.mark.parametrize(
    ("layers", "message"), [((0, 1, 2), "3 layers of the teacher are named for 2"), ((0, 3), "no layer 3")]
)
def test_a_layer_map_that_does_not_fit_is_refused(
    layers: tuple[int, ...], message: str, student: TorchModel, ctx: Context
) -> None:
    watching = Watching()
    with pytest.raises(UsageError, match=message):
        SoftLabels(layers=layers).run(student, replace(ctx, progress=watching))
    assert not watching.shown


def test_labels_that_the_head_cannot_have_are_refused(student: TorchModel, ctx: Context) -> None:
    wrong = (*TEXTS[:-1], replace(TEXTS[-1], label=7))
    with pytest.raises(DataError, match="7"):
        HardLabels().run(student, replace(ctx, calibration=wrong))
    # Soft labels do not look at them.
    assert SoftLabels(steps=1).run(student, replace(ctx, calibration=wrong)).facts["steps"] == 1


def test_variants_without_a_teacher_are_refused(student: TorchModel, ctx: Context) -> None:
    with pytest.raises(UsageError, match="no teacher to label them"):
        HardLabels(augment=1).run(student, ctx)
    assert HardLabels(augment=1, steps=1, soft_weight=1.0).run(student, ctx).facts["n_variants"] == 20


def test_answers_that_the_disk_cannot_hold_are_refused(
    monkeypatch: pytest.MonkeyPatch, student: TorchModel, ctx: Context
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1))
    with pytest.raises(StageFailed, match="outputs take") as caught:
        SoftLabels(epochs=2, **QUICK).run(student, ctx)
    assert "cache_mb=0" in caught.value.hint
    assert not SoftLabels(epochs=2, cache_mb=0, **QUICK).run(student, ctx).facts["teacher_answers_kept"]


def test_a_loss_that_is_not_finite_names_the_step(student: TorchModel, ctx: Context) -> None:
    stage = HardLabels(epochs=3, batch_size=8, learning_rate=1e30, warmup=0.0)
    with pytest.raises(StageFailed, match=r"at step \d of 9") as caught:
        stage.run(student, ctx)
    assert "learning_rate" in caught.value.hint


def test_builtin_text_and_an_unchanged_student_are_said(source: TorchModel, ctx: Context) -> None:
    watching = Watching()
    context = replace(ctx, calibration_is_builtin=True, progress=watching)
    facts = SoftLabels(epochs=1).run(source, context).facts
    assert (facts["text"], facts["student_is_teacher"]) == ("built-in", True)
    assert any("built-in" in note for note in watching.notes)
    assert any("unchanged" in note for note in watching.notes)


def test_real_text_and_a_changed_student_need_no_note(student: TorchModel, ctx: Context) -> None:
    watching = Watching()
    facts = SoftLabels(epochs=1).run(student, replace(ctx, progress=watching)).facts
    assert (facts["text"], facts["student_is_teacher"], watching.notes) == ("calibration", False, [])


def test_progress_tells_loss_and_time_left(student: TorchModel, ctx: Context) -> None:
    watching = Watching()
    SoftLabels(steps=2, **QUICK).run(student, replace(ctx, progress=watching))
    assert len(watching.shown) == 2
    assert all("loss" in text and "left" in text for text in watching.shown)


def _examples(task: str) -> tuple[Example, ...]:
    if task == "token-classification":
        return tuple(Example(t, words=tuple(t.split()), label=("O",) * len(t.split())) for t in SENTENCES)
    if task == "question-answering":
        context = SENTENCES[4]
        return tuple(Example(t, pair=context, label=Answer(("Berlin",), (context.index("Berlin"),))) for t in SENTENCES)
    return tuple(Example(t) for t in SENTENCES)


@pytest.mark.parametrize("task", ["token-classification", "question-answering", "feature-extraction", "fill-mask"])
def test_every_task_distills(task: str, tiny: Callable[..., Path], ctx: Context) -> None:
    teacher, given = (load_source(str(tiny("bert", task, seed=s)), task=task) for s in (0, 1))
    labelled = task in {"token-classification", "question-answering"}
    stage = SoftLabels(epochs=10, hidden_weight=0.0, hard_weight=0.5 if labelled else 0.0, **QUICK)
    facts = stage.run(given, replace(ctx, teacher=teacher, calibration=_examples(task))).facts
    assert facts["last_loss"] < 0.8 * facts["first_loss"]
    assert facts["teacher_answers_kept"]
    assert ("hard" in facts["last_parts"]) == labelled


def test_a_sentence_model_distills(tiny_sentence_transformer: Path, tiny: Callable[..., Path], ctx: Context) -> None:
    teacher = load_source(str(tiny_sentence_transformer))
    given = replace(teacher, module=load_source(str(tiny("bert", "feature-extraction", seed=1))).module)
    stage = SoftLabels(epochs=10, similarity_weight=1.0, **QUICK)
    outcome = stage.run(given, replace(ctx, teacher=teacher, calibration=_examples("")))
    assert outcome.facts["last_loss"] < 0.9 * outcome.facts["first_loss"]
    alone = replace(stage, soft_weight=0.0, hidden_weight=0.0)
    facts = alone.run(given, replace(ctx, teacher=teacher, calibration=_examples(""))).facts
    assert set(facts["last_parts"]) == {"similarity"}
    assert facts["last_loss"] < 0.7 * facts["first_loss"]
    assert outcome.made.head is given.head


@pytest.mark.parametrize("family", ["albert", "distilbert", "modernbert"])
def test_other_families_distill(family: str, tiny: Callable[..., Path], ctx: Context) -> None:
    teacher, given = (load_source(str(tiny(family, seed=s))) for s in (0, 1))
    facts = (
        SoftLabels(epochs=8, hidden_weight=0.1, relation_weight=0.1, **QUICK)
        .run(given, replace(ctx, teacher=teacher))
        .facts
    )
    assert facts["last_parts"]["soft"] < 0.5
    assert facts["last_loss"] < facts["first_loss"]


def test_the_registry_finds_both() -> None:
    assert stage_class("distill.soft") is SoftLabels
    assert stage_class("distill.hard") is HardLabels
    assert SoftLabels.needs_text
    assert HardLabels.needs_text


def test_a_recipe_names_them_with_their_options() -> None:
    recipe = bind_recipe(
        {"compress": [{"stage": "distill.soft", "steps": 2, "hidden-weight": 0.5}, {"stage": "distill.hard"}]}
    )
    assert recipe.compress == (SoftLabels(steps=2, hidden_weight=0.5), HardLabels())
    with pytest.raises(RecipeError, match="unknown option") as caught:
        bind_recipe({"compress": [{"stage": "distill.soft", "temprature": 2}]})
    assert "temperature" in caught.value.hint
    with pytest.raises(RecipeError, match="at least"):
        bind_recipe({"compress": [{"stage": "distill.soft", "batch_size": 0}]})


def test_a_layer_dropped_copy_learns_what_the_dropped_layers_did(source: TorchModel, ctx: Context) -> None:
    shallow, _ = run_stage(LayerDropping(keep=2), source, ctx)
    made, record = run_stage(SoftLabels(epochs=12, **QUICK), shallow, ctx)
    assert made.shape_map == shallow.shape_map
    assert distance(made, source) < 0.5 * distance(shallow, source)
    assert not record.facts["student_is_teacher"]
