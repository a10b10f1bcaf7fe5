"""What every distillation promises, on tiny models."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from converter.artifact import TorchModel
from converter.distill._checkpoint import digest_tensors
from converter.distill._layers import Tapped
from converter.distill._text import encode_texts, feed_batch
from converter.distill.hard import HardLabels
from converter.distill.soft import SoftLabels
from converter.errors import DataError, RecipeError, StageFailed, UsageError
from converter.examples import Answer, Example
from converter.prune.layers import LayerDropping
from converter.recipe import bind_recipe
from converter.registry import stage_class
from converter.shape import LayerShape, ShapeMap
from converter.source import load_source
from converter.stage import SILENT, Context, run_stage
from tests.tiny import SENTENCES

TEXTS = tuple(Example(text, label=i % 3, where=f"text {i}") for i, text in enumerate(SENTENCES))
QUICK = {"batch_size": 8, "learning_rate": 2e-3}
"""Three steps an epoch of 20 texts."""


@pytest.fixture(scope="module")
def source(tiny: Callable[..., Path]) -> TorchModel:
    return load_source(str(tiny("bert")))


@pytest.fixture(scope="module")
def student(tiny: Callable[..., Path]) -> TorchModel:
    return load_source(str(tiny("bert", seed=1, layers=2)))


@pytest.fixture
def ctx(tmp_path: Path, source: TorchModel) -> Context:
    return Context(work=tmp_path, calibration=TEXTS, teacher=source, resume=tmp_path / "resume")


def digest(model: TorchModel) -> str:
    return digest_tensors(model.module.state_dict())


def distance(student: TorchModel, teacher: TorchModel) -> float:
    """Mean squared distance of log probabilities (divergence does not see what is added to all logits alike)."""
    texts = encode_texts(teacher, TEXTS, 64, SILENT)
    feed = feed_batch(teacher, texts, range(len(texts)), torch.device("cpu"))
    with torch.inference_mode():
        found, wanted = (Tapped(m, hidden=False)(feed)[0]["logits"].log_softmax(-1) for m in (student, teacher))
    return float((found - wanted).square().mean())


@dataclass
class Watching:
    """Progress that is remembered, and interrupts at a step of the training."""

    interrupt_at: int | None = None
    notes: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def task(self, title: str, total: float | None = None) -> Iterator["Watching"]:
        yield self

    def advance(self, steps: float = 1) -> None:
        if self.interrupt_at is not None and len(self.shown) == self.interrupt_at:
            raise KeyboardInterrupt

    def describe(self, text: str) -> None:
        self.shown.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize(
    ("stage", "falls_below"),
    [
        (SoftLabels(epochs=12, hidden_weight=0.0, **QUICK), 0.2),
        (SoftLabels(epochs=12, soft_weight=0.0, **QUICK), 0.8),
        (SoftLabels(epochs=12, hard_weight=0.5, **QUICK), 0.8),
        (HardLabels(epochs=12, **QUICK), 0.3),
        (HardLabels(epochs=12, soft_weight=1.0, **QUICK), 0.6),
    ],
)
def test_the_loss_falls(stage: SoftLabels | HardLabels, falls_below: float, student: TorchModel, ctx: Context) -> None:
    facts = stage.run(student, ctx).facts
    assert facts["last_loss"] < falls_below * facts["first_loss"]
    assert facts["steps"] == 36
    assert facts["loss_curve"][0][0] == 1
    assert facts["loss_curve"][-1][0] == 36


def test_the_student_comes_to_answer_like_its_teacher(student: TorchModel, source: TorchModel, ctx: Context) -> None:
    made, record = run_stage(SoftLabels(epochs=12, **QUICK), student, ctx)
    assert distance(made, source) < 0.5 * distance(student, source)
    assert set(record.facts["last_parts"]) == {"soft", "hidden"}


def test_hard_labels_teach_labels_that_the_teacher_does_not_know(student: TorchModel, ctx: Context) -> None:
    made = HardLabels(epochs=15, **QUICK).run(student, replace(ctx, teacher=None)).made
    texts = encode_texts(made, TEXTS, 64, SILENT)
    with torch.inference_mode():
        logits = Tapped(made, hidden=False)(feed_batch(made, texts, range(len(texts)), torch.device("cpu")))[0][
            "logits"
        ]
    hits = sum(int(row.argmax()) == e.label for row, e in zip(logits, TEXTS, strict=True))
    assert hits >= 18


@pytest.mark.parametrize("dropout", [False, True])
def test_same_seed_same_weights_to_the_bit(dropout: bool, student: TorchModel, ctx: Context) -> None:
    def trained(seed: int) -> str:
        stage = SoftLabels(epochs=2, dropout=dropout, **QUICK)
        return digest(stage.run(student, replace(ctx, seed=seed, resume=None)).made)

    first = trained(0)
    assert trained(0) == first
    assert trained(1) != first


INTERRUPTED = (
    SoftLabels(epochs=3, dropout=True, checkpoint_seconds=0.0, **QUICK),
    # No hidden states and several epochs: the teacher's answers are kept.
    SoftLabels(epochs=3, hidden_weight=0.0, checkpoint_seconds=0.0, **QUICK),
    HardLabels(epochs=3, checkpoint_seconds=0.0, **QUICK),
)


@pytest.mark.parametrize("stage", INTERRUPTED)
@pytest.mark.parametrize("step", [1, 5])
def test_an_interrupted_run_ends_with_the_weights_of_one_that_was_not(
    step: int, stage: SoftLabels | HardLabels, student: TorchModel, ctx: Context
) -> None:
    whole = stage.run(student, replace(ctx, resume=None))
    with pytest.raises(KeyboardInterrupt):
        stage.run(student, replace(ctx, progress=Watching(interrupt_at=step)))
    watching = Watching()
    resumed = stage.run(student, replace(ctx, progress=watching))
    assert resumed.facts["resumed_from"] == step
    assert len(watching.shown) == 9 - step
    assert any(f"from step {step} of 9" in note for note in watching.notes)
    assert digest(resumed.made) == digest(whole.made)
    assert resumed.facts["loss_curve"] == whole.facts["loss_curve"]
    assert whole.facts["resumed_from"] is None


def test_a_finished_training_is_not_done_again_when_a_later_stage_was_interrupted(
    student: TorchModel, ctx: Context
) -> None:
    stage = SoftLabels(epochs=1, **QUICK)
    first = stage.run(student, ctx).made
    watching = Watching()
    again = stage.run(student, replace(ctx, progress=watching))
    assert again.facts["resumed_from"] == 3
    assert not watching.shown
    assert digest(again.made) == digest(first)


def test_a_damaged_checkpoint_is_noted_and_training_starts_anew(student: TorchModel, ctx: Context) -> None:
    stage = SoftLabels(epochs=1, **QUICK)
    wanted = digest(stage.run(student, ctx).made)
    assert ctx.resume is not None
    (path,) = ctx.resume.iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    watching = Watching()
    outcome = stage.run(student, replace(ctx, progress=watching))
    assert outcome.facts["resumed_from"] is None
    assert any("cannot be used" in note for note in watching.notes)
    assert digest(outcome.made) == wanted


def test_a_checkpoint_is_not_resumed_by_another_training(student: TorchModel, ctx: Context) -> None:
    stage = SoftLabels(epochs=1, **QUICK)
    made = stage.run(student, ctx).made
    others = (
        (replace(stage, temperature=3.0), student, ctx),
        (stage, made, ctx),
        (stage, student, replace(ctx, seed=1)),
        (stage, student, replace(ctx, calibration=TEXTS[:-1])),
        (stage, student, replace(ctx, teacher=student)),
    )
    for other, given, context in others:
        assert other.run(given, context).facts["resumed_from"] is None
    # How often checkpoints are written changes no weight.
    assert replace(stage, checkpoint_seconds=9.0).run(student, ctx).facts["resumed_from"] == 3


def test_nothing_but_the_copy_is_changed(student: TorchModel, source: TorchModel, ctx: Context) -> None:
    before = digest(student), digest(source)
    random_before = torch.get_rng_state()
    made = SoftLabels(epochs=1, dropout=True, **QUICK).run(student, ctx).made
    assert (digest(student), digest(source)) == before
    assert digest(made) != before[0]
    assert torch.equal(torch.get_rng_state(), random_before)
    for model in (student, source, made):
        model.verify()
        assert all(p.grad is None and p.requires_grad for p in model.module.parameters())
    assert (made.tokenizer, made.task, made.shape_map) == (student.tokenizer, student.task, student.shape_map)


def test_weights_pruned_to_zero_stay_zero(student: TorchModel, ctx: Context) -> None:
    given = replace(student, module=_with_zeros(student))
    made = SoftLabels(epochs=3, **QUICK).run(given, ctx).made
    for (name, old), new in zip(given.module.named_parameters(), made.module.parameters(), strict=True):
        if "layer" in name and old.dim() > 1:
            assert torch.equal(old == 0, new == 0), name
            assert not torch.equal(old, new), name


def _with_zeros(student: TorchModel) -> torch.nn.Module:
    import copy

    module = copy.deepcopy(student.module)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "layer" in name and parameter.dim() > 1:
                parameter.masked_fill_(torch.rand(parameter.shape, generator=rng) < 0.5, 0.0)
    return module


def test_a_student_of_other_width_learns_hidden_states_through_a_projection(
    tiny: Callable[..., Path], ctx: Context
) -> None:
    narrow = load_source(str(tiny("bert", seed=2, hidden_size=16, intermediate_size=32)))
    before = set(narrow.module.state_dict())
    outcome = SoftLabels(epochs=12, soft_weight=0.0, **QUICK).run(narrow, ctx)
    assert outcome.facts["last_loss"] < 0.9 * outcome.facts["first_loss"]
    assert set(outcome.made.module.state_dict()) == before


def test_kept_layers_of_the_shape_map_choose_the_teacher_layers(student: TorchModel, ctx: Context) -> None:
    layers = tuple(LayerShape((0, 1, 2, 3), tuple(range(64))) for _ in range(3))
    made = []
    for kept in ((0, 1), (0, 2)):
        given = replace(student, shape_map=ShapeMap(layers, kept))
        made.append(SoftLabels(epochs=1, soft_weight=0.0, **QUICK).run(given, replace(ctx, resume=None)).made)
        assert made[-1].shape_map == given.shape_map
    assert digest(made[0]) != digest(made[1])


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
    with pytest.raises(UsageError, match="nothing to learn by"):
        stage.run(student, replace(ctx, calibration=unlabelled))


def test_a_teacher_of_another_task_is_refused(tiny: Callable[..., Path], student: TorchModel, ctx: Context) -> None:
    other = load_source(str(tiny("bert", "token-classification")))
    with pytest.raises(UsageError, match="teacher is for token-classification"):
        SoftLabels().run(student, replace(ctx, teacher=other))


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
    outcome = SoftLabels(epochs=10, **QUICK).run(given, replace(ctx, teacher=teacher, calibration=_examples("")))
    assert outcome.facts["last_loss"] < 0.9 * outcome.facts["first_loss"]
    assert outcome.made.head is given.head


@pytest.mark.parametrize("family", ["albert", "distilbert", "modernbert"])
def test_other_families_distill(family: str, tiny: Callable[..., Path], ctx: Context) -> None:
    teacher, given = (load_source(str(tiny(family, seed=s))) for s in (0, 1))
    facts = SoftLabels(epochs=8, hidden_weight=0.1, **QUICK).run(given, replace(ctx, teacher=teacher)).facts
    assert facts["last_parts"]["soft"] < 0.5
    assert facts["last_loss"] < facts["first_loss"]


def test_kept_answers_teach_what_fresh_ones_do(
    monkeypatch: pytest.MonkeyPatch, student: TorchModel, ctx: Context
) -> None:
    stage = SoftLabels(epochs=2, hidden_weight=0.0, **QUICK)
    kept = stage.run(student, replace(ctx, resume=None))
    monkeypatch.setattr("converter.distill._teacher.KEPT_BYTES", 0)
    fresh = stage.run(student, replace(ctx, resume=None))
    assert (kept.facts["teacher_answers_kept"], fresh.facts["teacher_answers_kept"]) == (True, False)
    for a, b in zip(kept.made.module.parameters(), fresh.made.module.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-3)


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


_TWO_PROCESSES = """
import json, os, sys
from pathlib import Path
from safetensors.torch import save_file
from converter.distill.soft import SoftLabels
from converter.examples import Example
from converter.source import load_source
from converter.stage import Context
from tests.tiny import SENTENCES

teacher, student, out = map(Path, sys.argv[1:])
ctx = Context(
    work=out,
    calibration=tuple(Example(t, label=i % 3) for i, t in enumerate(SENTENCES)),
    teacher=load_source(str(teacher)),
    resume=out / "resume",
)
stage = SoftLabels(epochs=2, batch_size=7, learning_rate=1e-4, hidden_weight=0.0, hard_weight=0.5)
outcome = stage.run(load_source(str(student)), ctx)
name = f"{os.environ.get('RANK', '0')}-of-{outcome.facts['n_processes']}"
save_file({k: v.clone() for k, v in outcome.made.module.state_dict().items()}, out / f"{name}.safetensors")
(out / f"{name}.json").write_text(json.dumps(outcome.facts["loss_curve"]))
"""


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tiny: Callable[..., Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    script = tmp_path / "train.py"
    script.write_text(_TWO_PROCESSES)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    for start, out in ((launch, tmp_path / "two"), ([], tmp_path / "one")):
        out.mkdir()
        command = [
            sys.executable,
            *start,
            str(script),
            str(tiny("bert")),
            str(tiny("bert", seed=1, layers=2)),
            str(out),
        ]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=400)
        assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((tmp_path / "two" / "resume").iterdir())) == 1
    first, second, alone = (
        load_file(tmp_path / name)
        for name in ("two/0-of-2.safetensors", "two/1-of-2.safetensors", "one/0-of-1.safetensors")
    )
    # AdamW hardly sees the size of gradients, so equal losses tell more of equal means than equal weights do.
    curves = [json.loads((tmp_path / f"{n}.json").read_text()) for n in ("two/0-of-2", "two/1-of-2", "one/0-of-1")]
    assert curves[0] == curves[1]
    assert [loss for _, loss in curves[0]] == pytest.approx([loss for _, loss in curves[2]], rel=1e-3)
    for name, wanted in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], wanted, rtol=0, atol=2e-4)
