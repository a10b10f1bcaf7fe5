"""What both distillations do around the training: refuse, encode, name the checkpoint, tell the facts."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from converter.artifact import TorchModel
from converter.distill._checkpoint import digest_tensors
from converter.distill._options import LossWeights, TrainingOptions
from converter.distill._text import Text, encode_texts
from converter.distill._training import PARTS, Job, Trained, train
from converter.errors import DataError, UsageError
from converter.examples import Example
from converter.stage import Context, Outcome, options_of
from converter.vocabulary import in_vocabulary_of

CURVE_POINTS = 50
FIRST_AND_LAST = 0.05
"""Share of the steps whose mean is called the first or the last loss: single steps are noisy."""


def distill(
    name: str, options: TrainingOptions, weights: LossWeights, given: TorchModel, ctx: Context
) -> Outcome[TorchModel]:
    """Train a copy of `given` on `ctx.calibration`, with `ctx.teacher` to learn from.

    Raises:
        UsageError: no teacher, one of another task, or nothing to learn by.
        DataError: no text.
        StageFailed: the loss is not finite.

    """
    weights = _refuse(name, weights, given, ctx)
    teacher = ctx.teacher if weights.soft > 0 or weights.hidden > 0 else None
    teacher = None if teacher is None else in_vocabulary_of(given, teacher)
    examples = [e for e in ctx.calibration if teacher is not None or e.label is not None]
    texts = encode_texts(given, examples, options.max_length, ctx.progress)
    if ctx.calibration_is_builtin:
        ctx.progress.note(f"{name} learns from the built-in text only: give --calibration for a model of use")
    student, source = given.module.state_dict(), {} if teacher is None else teacher.module.state_dict()
    same = teacher is not None and digest_tensors(student) == digest_tensors(source)
    if same:
        ctx.progress.note(f"{name}: the student is the source unchanged; put a prune stage before it")
    job = Job(
        name, options, weights, given, teacher, texts, _key(name, options, weights, texts, ctx, student, source), ctx
    )
    trained = train(job)
    made = replace(given, module=trained.module)
    return Outcome(made, _facts(job, trained, student_is_teacher=same))


def refuse_unlabelled(examples: Sequence[Example]) -> None:
    """Raise `DataError` where no text has a label."""
    if examples and all(e.label is None for e in examples):
        raise DataError(
            "the calibration text has no labels",
            where="distill.hard",
            hint="give --calibration a file with labels, or use distill.soft, which needs none",
        )


def _refuse(name: str, weights: LossWeights, given: TorchModel, ctx: Context) -> LossWeights:
    """Refuse before any work what cannot be learned; hard labels that are not there count nothing."""
    if not ctx.calibration:
        raise DataError("there is no text to learn from", where=name, hint="give --calibration FILE")
    if weights.hard > 0 and all(e.label is None for e in ctx.calibration):
        ctx.progress.note(f"{name}: the text has no labels, hard_weight counts nothing")
        weights = replace(weights, hard=0.0)
    if weights.soft == weights.hard == weights.hidden == 0:
        raise UsageError(
            "there is nothing to learn by: every weight is 0",
            where=name,
            hint="set soft_weight or hidden_weight (or hard_weight, with labels) above 0",
        )
    if weights.soft > 0 or weights.hidden > 0:
        if ctx.teacher is None:
            raise UsageError("there is no teacher to learn from", where=name, hint="set Context.teacher to the source")
        if ctx.teacher.task.name != given.task.name:
            raise UsageError(
                f"the teacher is for {ctx.teacher.task.name}, the student for {given.task.name}", where=name
            )
    return weights


def _key(
    name: str,
    options: TrainingOptions,
    weights: LossWeights,
    texts: Sequence[Text],
    ctx: Context,
    student: dict[str, Any],
    teacher: dict[str, Any],
) -> str:
    """Return the digest of everything that the trained weights depend on."""
    table = options_of(options) | options_of(weights) | {"stage": name, "seed": ctx.seed}
    del table["checkpoint_seconds"]
    made = hashlib.sha256(json.dumps(table, sort_keys=True).encode())
    made.update(digest_tensors(student).encode())
    made.update(digest_tensors(teacher).encode())
    for example, encoding in texts:
        made.update(repr(example.label).encode())
        for input_name, ids in encoding.inputs.items():
            made.update(input_name.encode() + ids.tobytes())
    return made.hexdigest()


def _facts(job: Job, trained: Trained, *, student_is_teacher: bool) -> dict[str, Any]:
    losses = trained.history["loss"]
    n_ends = max(1, round(len(losses) * FIRST_AND_LAST))
    points = sorted({round(i) for i in np.linspace(0, len(losses) - 1, min(CURVE_POINTS, len(losses)))})
    counted = [n for n in PARTS if any(trained.history[n])]
    return {
        "steps": len(losses),
        "epochs": round(len(losses) / job.steps_an_epoch, 2),
        "n_texts": len(job.texts),
        "text": "built-in" if job.ctx.calibration_is_builtin else "calibration",
        "seconds_training": round(trained.seconds, 2),
        "first_loss": _mean(losses[:n_ends]),
        "last_loss": _mean(losses[-n_ends:]),
        "last_parts": {n: _mean(trained.history[n][-n_ends:]) for n in counted if n != "loss"},
        "loss_curve": [[i + 1, round(losses[i], 5)] for i in points],
        "resumed_from": trained.resumed_from,
        "n_processes": trained.n_processes,
        "device": trained.device,
        "teacher_answers_kept": trained.answers_kept,
        "student_is_teacher": student_is_teacher,
    }


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 5)
