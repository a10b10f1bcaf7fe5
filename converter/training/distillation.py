"""What both distillations do around the training: refuse, encode, name the checkpoint, tell the facts."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from converter.artifact import TorchModel
from converter.errors import DataError, UsageError
from converter.examples import Example
from converter.stage import Context, Outcome, options_of
from converter.surgery.vocabulary import in_vocabulary_of
from converter.training.augment import variants_of
from converter.training.checkpoint import digest_tensors, digest_weights
from converter.training.loop import Job, Trained, train
from converter.training.objective import PARTS
from converter.training.options import LossWeights, TrainingOptions
from converter.training.teacher import KEPT
from converter.training.texts import Text, batches_an_epoch, encode_texts

CURVE_POINTS = 50
FIRST_AND_LAST = 0.05
"""Share of the steps whose mean is called the first or the last loss: single steps are noisy."""


def distill(
    name: str, options: TrainingOptions, weights: LossWeights, given: TorchModel, ctx: Context
) -> Outcome[TorchModel]:
    """Train a copy of `given` on `ctx.calibration`, with `ctx.teacher` to learn from.

    Raises:
        UsageError: no teacher, one of another task or vocabulary, or nothing to learn by.
        DataError: no text, or labels that the head cannot have.
        StageFailed: the loss is not finite.

    """
    return distill_texts(name, options, weights, given, ctx, None)


def distill_texts(
    name: str,
    options: TrainingOptions,
    weights: LossWeights,
    given: TorchModel,
    ctx: Context,
    texts: "tuple[Text, ...] | None",
) -> Outcome[TorchModel]:
    """Do what `distill` does, on texts that are encoded already; None: on those of `ctx`."""
    setup = prepare(name, options, weights, given, ctx, texts)
    trained = setup.train(given, (0.0, 1.0))
    shutil.rmtree(ctx.work / KEPT, ignore_errors=True)
    return Outcome(replace(given, module=trained.module), setup.facts([trained]))


@dataclass(frozen=True)
class DistillationSetup:
    """What is learned, from whom and from what text, whatever becomes of the student in between."""

    name: str
    options: TrainingOptions
    weights: LossWeights
    teacher: TorchModel | None
    texts: tuple[Text, ...]
    n_given: int
    """Of the texts, those that are no variants."""
    student_is_teacher: bool
    ctx: Context

    def train(self, student: TorchModel, part: tuple[float, float]) -> Trained:
        """Train a copy of `student` for the share `part` of all steps."""
        job = Job(self.name, self.options, self.weights, student, self.teacher, self.texts, "", self.ctx, part)
        return train(replace(job, key=_key(job)))

    def facts(self, parts: Sequence[Trained]) -> dict[str, Any]:
        """Return what is worth knowing of a training, made in one part or several."""
        history = {name: [value for part in parts for value in part.history[name]] for name in PARTS}
        losses = history["loss"]
        n_ends = max(1, round(len(losses) * FIRST_AND_LAST))
        points = sorted({round(i) for i in np.linspace(0, len(losses) - 1, min(CURVE_POINTS, len(losses)))})
        counted = [n for n in PARTS if any(history[n])]
        return {
            "steps": len(losses),
            "epochs": round(len(losses) / batches_an_epoch(len(self.texts), self.options.batch_size), 2),
            "n_texts": self.n_given,
            "n_variants": len(self.texts) - self.n_given,
            "text": "built-in" if self.ctx.calibration_is_builtin else "calibration",
            "seconds_training": round(sum(part.seconds for part in parts), 2),
            "first_loss": _mean(losses[:n_ends]),
            "last_loss": _mean(losses[-n_ends:]),
            "first_parts": {n: _mean(history[n][:n_ends]) for n in counted if n != "loss"},
            "last_parts": {n: _mean(history[n][-n_ends:]) for n in counted if n != "loss"},
            "loss_curve": [[i + 1, round(losses[i], 5)] for i in points],
            "resumed_from": parts[-1].resumed_from,
            "n_processes": parts[-1].n_processes,
            "device": parts[-1].device,
            "teacher_answers_kept": parts[-1].answers_kept,
            "student_is_teacher": self.student_is_teacher,
        }


def prepare(
    name: str,
    options: TrainingOptions,
    weights: LossWeights,
    given: TorchModel,
    ctx: Context,
    encoded: "tuple[Text, ...] | None" = None,
) -> DistillationSetup:
    """Refuse before any work what cannot be learned, and read the text, unless it is `encoded` already."""
    weights = _refuse(name, options, weights, ctx)
    teacher = ctx.teacher if weights.of_teacher > 0 else None
    teacher = None if teacher is None else in_vocabulary_of(given, teacher)
    _refuse_teacher(name, given, teacher)
    refuse_of_writers(name, options, weights, given, teacher)
    examples = [e for e in ctx.calibration if teacher is not None or e.label is not None]
    if weights.hard > 0:
        given.task.check_labels(examples)
    texts = encoded
    if texts is None:
        variants = variants_of(examples, options.augment, ctx.seed, given.tokenizer.mask_token)
        texts = encode_texts(given, [*examples, *variants], options.max_length, ctx.progress)
    if ctx.calibration_is_builtin:
        ctx.progress.note(f"{name} trains on the built-in text only: give --calibration FILE for a useful model")
    same = teacher is not None and digest_weights(given.module) == digest_weights(teacher.module)
    if same:
        ctx.progress.note(f"{name}: the student is the unchanged source; put a prune stage before it")
    return DistillationSetup(name, options, weights, teacher, texts, len(examples), same, ctx)


def refuse_unlabelled(examples: Sequence[Example]) -> None:
    """Raise `DataError` where no text has a label."""
    if examples and all(e.label is None for e in examples):
        raise DataError(
            "the calibration text has no labels",
            where="distill.hard",
            hint="give --calibration a file with labels, or use distill.soft, which needs none",
        )


def _refuse(name: str, options: TrainingOptions, weights: LossWeights, ctx: Context) -> LossWeights:
    """Refuse before any work what cannot be learned; hard labels that are not there count nothing."""
    if not ctx.calibration:
        raise DataError("there is no text to train on", where=name, hint="give --calibration FILE")
    if weights.hard > 0 and all(e.label is None for e in ctx.calibration):
        ctx.progress.note(f"{name}: the text has no labels, so hard_weight has no effect")
        weights = replace(weights, hard=0.0)
    if weights.hard == weights.of_teacher == 0:
        raise UsageError(
            "there is no loss to train on: every weight is 0",
            where=name,
            hint="set soft_weight or hidden_weight (or hard_weight, with labels) above 0",
        )
    if weights.of_teacher == 0 and options.augment:
        raise UsageError(
            "variants of the text have no labels, and there is no teacher to label them",
            where=f"{name}.augment",
            hint="set soft_weight above 0, or augment=0",
        )
    if weights.of_teacher > 0 and ctx.teacher is None:
        raise UsageError("there is no teacher to learn from", where=name, hint="set Context.teacher to the source")
    return weights


def _refuse_teacher(name: str, given: TorchModel, teacher: TorchModel | None) -> None:
    """Refuse a teacher whose answers say nothing to this student."""
    if teacher is None:
        return
    if teacher.task.name != given.task.name:
        raise UsageError(f"the teacher is for {teacher.task.name}, the student for {given.task.name}", where=name)
    if len(teacher.task.labels) != len(given.task.labels):
        raise UsageError(
            f"the teacher answers with {len(teacher.task.labels)} classes, the student with {len(given.task.labels)}",
            where=name,
        )
    if teacher.tokenizer is not given.tokenizer and teacher.tokenizer.get_vocab() != given.tokenizer.get_vocab():
        raise UsageError(
            "teacher and student have different tokenizers, so their outputs cannot be compared",
            where=name,
            hint="use a student that was pruned from this teacher, or one with the same tokenizer",
        )


def refuse_of_writers(
    name: str, options: TrainingOptions, weights: LossWeights, given: TorchModel, teacher: TorchModel | None
) -> None:
    """Refuse what a model that writes text cannot learn, and a student of more layers than its teacher.

    Raises:
        UsageError: it is asked to.

    """
    if given.cache is None:
        return
    if weights.relation and given.task.kind == "decoder":
        raise UsageError(
            "relation_weight is for encoders, and for the attention to an encoder: a causal model has none",
            where=name,
            hint="leave relation_weight out: outputs and hidden states are learned",
        )
    if weights.similarity:
        raise UsageError(
            "similarity_weight is for encoders: a model that writes text has no sentence embeddings",
            where=name,
            hint="leave similarity_weight out",
        )
    if options.augment:
        raise UsageError(
            "variants of a text have no answer to learn",
            where=f"{name}.augment",
            hint="augment=0, or distill.sequence, where the teacher answers whatever text there is",
        )
    if teacher is None:
        return
    names = ("encoder", "decoder") if len(depths_of(given)) > 1 else ("decoder",)
    for stack, own, known in zip(names, depths_of(given), depths_of(teacher), strict=True):
        if own > known:
            raise UsageError(
                f"the student's {stack} has {own} layers, its teacher's {known}: it may have no more",
                where=name,
                hint="prune.layers makes a shallower student of the teacher",
            )


def depths_of(model: TorchModel) -> tuple[int, ...]:
    """Return the number of layers of each stack of a model that writes text, an encoder's first."""
    assert model.cache is not None
    of_decoder = sum(name.endswith("decoder.key") or name.count(".") == 1 for name in model.cache.sizes)
    if model.task.kind == "decoder":
        return (len(model.cache.sizes) // 2,)
    return (int(model.config.num_hidden_layers), of_decoder)


def _key(job: Job) -> str:
    """Return the digest of everything that the trained weights depend on."""
    table = options_of(job.options) | options_of(job.weights) | {"stage": job.name, "seed": job.ctx.seed}
    table["part"] = list(job.part)
    del table["checkpoint_seconds"]
    made = hashlib.sha256(json.dumps(table, sort_keys=True).encode())
    made.update(digest_weights(job.given.module).encode())
    made.update((digest_tensors({}) if job.teacher is None else digest_weights(job.teacher.module)).encode())
    for example, encoding in job.texts:
        made.update(repr(example.label).encode())
        for input_name, ids in encoding.inputs.items():
            made.update(input_name.encode() + ids.tobytes())
        if encoding.answer is not None:
            made.update(b"answer" + encoding.answer.tobytes())
    return made.hexdigest()


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 5)
