"""How every distillation trains, on tiny models: losses fall, runs repeat and go on to the bit."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from converter.artifact import TorchModel
from converter.distill.hard import HardLabels
from converter.distill.soft import SoftLabels
from converter.errors import UsageError
from converter.model_folder.load import load_source
from converter.model_folder.shape_map import LayerShape, ShapeMap
from converter.stage import SILENT, Context, run_stage
from converter.training.layer_map import ObservedForward
from converter.training.texts import encode_texts, feed_batch
from tests.distilling import QUICK, TEXTS, Watching, digest, distance


@pytest.mark.parametrize(
    ("stage", "falls_below"),
    [
        (SoftLabels(epochs=12, hidden_weight=0.0, **QUICK), 0.2),
        (SoftLabels(epochs=12, soft_weight=0.0, **QUICK), 0.8),
        (SoftLabels(epochs=12, hard_weight=0.5, **QUICK), 0.8),
        (SoftLabels(epochs=12, soft_weight=0.0, hidden_weight=0.0, relation_weight=1.0, **QUICK), 0.6),
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


def test_a_part_that_has_no_weight_is_not_learned(student: TorchModel, ctx: Context) -> None:
    """The twin of the falling losses: what does not count need not fall, and is not told."""
    parts = {"soft", "hidden", "relation"}
    for part in parts:
        stage = SoftLabels(epochs=4, **{f"{p}_weight": float(p == part) for p in parts}, **QUICK)
        facts = stage.run(student, ctx).facts
        assert set(facts["last_parts"]) == {part}
        assert facts["last_parts"][part] < 0.9 * facts["first_parts"][part]
    still = SoftLabels(epochs=4, relation_weight=1.0, batch_size=8, learning_rate=0.0).run(student, ctx).facts
    for part in parts:
        assert still["last_parts"][part] > 0.6 * still["first_parts"][part]


def test_frozen_embeddings_stay_and_all_else_learns(student: TorchModel, ctx: Context) -> None:
    made = SoftLabels(epochs=1, freeze_embeddings=True, **QUICK).run(student, ctx).made
    for (name, old), new in zip(student.module.named_parameters(), made.module.parameters(), strict=True):
        assert torch.equal(old, new) == name.endswith("_embeddings.weight"), name
        assert new.requires_grad


def test_variants_are_learned_beside_the_texts(student: TorchModel, ctx: Context) -> None:
    plain, more = (SoftLabels(epochs=1, augment=n, **QUICK).run(student, ctx) for n in (0, 2))
    assert (plain.facts["n_variants"], more.facts["n_variants"]) == (0, 40)
    assert (more.facts["n_texts"], more.facts["steps"]) == (20, 8)
    assert digest(plain.made) != digest(more.made)


def test_a_given_layer_map_is_followed(student: TorchModel, ctx: Context) -> None:
    own = SoftLabels(epochs=1, soft_weight=0.0, **QUICK)
    spread, same, other = (digest(replace(own, layers=m).run(student, ctx).made) for m in ((), (1, 2), (0, 2)))
    assert spread == same  # two layers of three stand for 1 and 2 by themselves
    assert spread != other


def test_the_student_comes_to_answer_like_its_teacher(student: TorchModel, source: TorchModel, ctx: Context) -> None:
    made, record = run_stage(SoftLabels(epochs=12, **QUICK), student, ctx)
    assert distance(made, source) < 0.5 * distance(student, source)
    assert set(record.facts["last_parts"]) == {"soft", "hidden"}


def test_hard_labels_teach_labels_that_the_teacher_does_not_know(student: TorchModel, ctx: Context) -> None:
    made = HardLabels(epochs=15, **QUICK).run(student, replace(ctx, teacher=None)).made
    texts = encode_texts(made, TEXTS, 64, SILENT)
    with torch.inference_mode():
        logits = ObservedForward(made)(feed_batch(made, texts, range(len(texts)), torch.device("cpu"))).outputs[
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
    SoftLabels(epochs=3, relation_weight=1.0, checkpoint_seconds=0.0, **QUICK),
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


def test_kept_answers_teach_what_fresh_ones_do(student: TorchModel, ctx: Context) -> None:
    stage = SoftLabels(epochs=2, relation_weight=1.0, **QUICK)
    kept = stage.run(student, replace(ctx, resume=None))
    fresh = replace(stage, cache_mb=0).run(student, replace(ctx, resume=None))
    assert (kept.facts["teacher_answers_kept"], fresh.facts["teacher_answers_kept"]) == (True, False)
    assert not any(ctx.work.iterdir())
    for a, b in zip(kept.made.module.parameters(), fresh.made.module.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=5e-3)


def test_a_batch_taken_in_parts_makes_the_same_steps(student: TorchModel, ctx: Context) -> None:
    stage = SoftLabels(steps=4, hidden_weight=0.0, hard_weight=0.5, **QUICK)
    whole = stage.run(student, replace(ctx, resume=None))
    parts = replace(stage, accumulate=3).run(student, replace(ctx, resume=None))
    assert [loss for _, loss in parts.facts["loss_curve"]] == pytest.approx(
        [loss for _, loss in whole.facts["loss_curve"]], rel=1e-3
    )
    assert digest(parts.made) != digest(student)


@pytest.mark.parametrize("kind", ["DEEPSPEED", "MEGATRON_LM"])
def test_a_way_to_shard_that_would_be_ignored_is_refused(
    kind: str, student: TorchModel, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{kind}", "true")
    with pytest.raises(UsageError, match=f"not sharded by {kind}"):
        SoftLabels(steps=1).run(student, ctx)


def test_fsdp_without_a_teacher_or_with_its_parts_elsewhere_is_refused(
    student: TorchModel, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UsageError, match="FSDP shards the teacher alone, and there is none"):
        HardLabels(steps=1).run(student, ctx)
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "true")
    with pytest.raises(UsageError, match="stay on their devices"):
        SoftLabels(steps=1).run(student, ctx)


_TWO_PROCESSES = """
import json, os, sys
from dataclasses import replace
from pathlib import Path
from safetensors.torch import save_file
from converter.training import split
from converter.distill.soft import SoftLabels
from converter.examples import Example
from converter.model_folder.load import load_source
from converter.stage import Context
from tests.tiny import SENTENCES

teacher, student, out = map(Path, sys.argv[1:])
ctx = Context(
    work=out,
    calibration=tuple(Example(t, label=i % 3) for i, t in enumerate(SENTENCES)),
    teacher=load_source(str(teacher)),
    resume=out / "resume",
)
given = load_source(str(student))
rank = os.environ.get("RANK", "0")
plain = SoftLabels(epochs=2, batch_size=7, learning_rate=1e-4, hidden_weight=0.0, hard_weight=0.5)
full = SoftLabels(epochs=2, batch_size=7, learning_rate=1e-4, relation_weight=1.0, augment=1)
outcome, other = (stage.run(given, ctx) for stage in (plain, full))
asked, real = [], split.sharded
split.sharded = lambda *given: asked.append(given) or real(*given)
os.environ["ACCELERATE_USE_FSDP"] = "true"
shards = plain.run(given, replace(ctx, resume=None))
assert len(asked) == outcome.facts["n_processes"] - 1
assert os.environ["ACCELERATE_USE_FSDP"] == "true"
name = f"{rank}-of-{outcome.facts['n_processes']}"
for kind, o in (("", outcome), ("full-", other), ("fsdp-", shards)):
    save_file({k: v.clone() for k, v in o.made.module.state_dict().items()}, out / f"{kind}{name}.safetensors")
    (out / f"{kind}{name}.json").write_text(json.dumps(o.facts["loss_curve"]))
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
    assert len(list((tmp_path / "two" / "resume").iterdir())) == 2
    first, second, alone = (
        load_file(tmp_path / name)
        for name in ("two/0-of-2.safetensors", "two/1-of-2.safetensors", "one/0-of-1.safetensors")
    )
    # AdamW hardly sees the size of gradients, so equal losses tell more of equal means than equal weights do.
    curves = _curves(tmp_path, "")
    assert curves[0] == curves[1]
    assert curves[0] == pytest.approx(curves[2], rel=1e-3)
    for name, wanted in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], wanted, rtol=0, atol=2e-4)
    # A teacher that is sharded teaches the same.
    assert _curves(tmp_path, "fsdp-")[0] == pytest.approx(curves[0], rel=1e-5)
    # What is a mean over tokens is so within each process: equal but for the lengths of its texts.
    curves = _curves(tmp_path, "full-")
    assert curves[0] == curves[1]
    assert curves[0] == pytest.approx(curves[2], rel=0.03)
    assert curves[0] != pytest.approx(curves[2][::-1], rel=0.03)


def _curves(folder: Path, kind: str) -> list[list[float]]:
    """Return the losses of both processes of two, and of the one alone."""
    files = (f"two/{kind}0-of-2", f"two/{kind}1-of-2", f"one/{kind}0-of-1")
    return [[loss for _, loss in json.loads((folder / f"{n}.json").read_text())] for n in files]
