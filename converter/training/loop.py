"""The training loop: AdamW with linear warm-up and decay, through accelerate, resumable to the bit."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from converter.errors import StageFailed, UsageError
from converter.model_folder.dropped_tokens import masking
from converter.stage import SILENT, Ticker
from converter.training.checkpoint import (
    Checkpoint,
    CheckpointDamaged,
    load_checkpoint,
    save_checkpoint,
)
from converter.training.layer_map import ObservedForward
from converter.training.objective import PARTS, DistillationObjective, losses, plan_objective
from converter.training.options import LossWeights, TrainingOptions
from converter.training.sharded import student_whole
from converter.training.split import in_parts, part_of, refuse_sharding
from converter.training.student import copy_to_train, groups, learned, pruned_places
from converter.training.teacher import KEPT, Teacher
from converter.training.texts import (
    Text,
    batches_an_epoch,
    batches_of_epoch,
    feed_batch,
    share_of_process,
    shortest_feeds,
)

if TYPE_CHECKING:
    from accelerate import Accelerator
    from numpy.typing import NDArray

    from converter.artifact import TorchModel
    from converter.stage import Context, Progress

SAVING_SHARE = 0.05
"""Checkpoints may take this share of the time."""


@dataclass(frozen=True)
class Job:
    """Everything a training depends on."""

    name: str
    options: TrainingOptions
    weights: LossWeights
    given: "TorchModel"
    teacher: "TorchModel | None"
    """None where only the labels count."""
    texts: tuple[Text, ...]
    key: str
    """Digest of all of the above: a checkpoint of another job is never resumed."""
    ctx: "Context"
    part: tuple[float, float] = (0.0, 1.0)
    """Which share of a longer training this is: its first and its last step, of all."""

    @property
    def steps_an_epoch(self) -> int:
        return batches_an_epoch(len(self.texts), self.options.batch_size)

    @property
    def n_steps(self) -> int:
        return max(1, round(self.part[1] * self.all_steps) - self.begin)

    @property
    def begin(self) -> int:
        """Steps of the whole training before this part."""
        return round(self.part[0] * self.all_steps)

    @property
    def all_steps(self) -> int:
        """Steps of the whole training that this is a part of."""
        wanted = self.options.epochs * self.steps_an_epoch
        return wanted if self.options.steps is None else min(wanted, self.options.steps)

    def rate(self, step: int) -> float:
        """Return the learning rate of `step` (from 0)."""
        options = self.options
        return learning_rate(self.begin + step, self.all_steps, options.learning_rate, options.warmup)

    @property
    def checkpoint(self) -> Path | None:
        return None if self.ctx.resume is None else self.ctx.resume / f"{self.name}-{self.key[:16]}.safetensors"


@dataclass(frozen=True)
class Trained:
    """The trained copy, in evaluation mode on the CPU, and how training went."""

    module: torch.nn.Module
    history: dict[str, list[float]]
    seconds: float
    resumed_from: int | None
    n_processes: int
    device: str
    answers_kept: bool


def train(job: Job) -> Trained:
    """Train a copy of `job.given`.

    Raises:
        StageFailed: the loss or the gradient is not finite; names the step.
        UsageError: the launch asks for a way to shard the model that is not known here.

    """
    from accelerate import Accelerator, DistributedDataParallelKwargs

    refuse_sharding(job.teacher)

    with student_whole():
        # A task may leave parameters unused, such as the pooler of an embedding model.
        accelerator = Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])
    progress = job.ctx.progress if accelerator.is_main_process else SILENT
    with _own_randomness(accelerator.device):
        training = Training.of(job, accelerator)
        resumed_from = training.resume(progress)
        # Hidden states and relations are compared token by token: none may be taken out.
        with masking(training.student, *([training.teacher.observed] if training.teacher else [])):
            kept = training.keep_answers(progress)
            training.run(progress)
    accelerator.wait_for_everyone()
    return Trained(
        module=training.finished(),
        history=training.history,
        seconds=training.seconds,
        resumed_from=resumed_from,
        n_processes=accelerator.num_processes,
        device=accelerator.device.type,
        answers_kept=kept,
    )


@contextmanager
def _own_randomness(device: torch.device) -> Iterator[None]:
    """Leave the caller's generators as they were: dropout draws from torch's global ones, there is no other way."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def learning_rate(step: int, n_steps: int, highest: float, warmup: float) -> float:
    """Return the rate of `step` (from 0): a linear rise over the share `warmup`, then a linear fall towards 0.

    >>> [round(learning_rate(s, 4, 1.0, 0.25), 2) for s in range(4)]
    [0.5, 1.0, 0.67, 0.33]
    """
    rise = round(n_steps * warmup)
    if step < rise:
        return highest * (step + 1) / (rise + 1)
    return highest * (n_steps - step) / (n_steps - rise)


@dataclass
class Training:
    """One process's share of a training."""

    job: Job
    accelerator: "Accelerator"
    student: ObservedForward
    """The copy that learns."""
    model: torch.nn.Module
    """`student` as accelerate wraps it."""
    optimizer: Any
    teacher: Teacher | None
    objective: DistillationObjective
    zeros: dict[str, torch.Tensor]
    """Where matrices were pruned to zero: they stay so."""
    history: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in PARTS})
    seconds: float = 0.0

    @classmethod
    def of(cls, job: Job, accelerator: "Accelerator") -> "Training":
        device, options = accelerator.device, job.options
        objective, teacher = DistillationObjective(), None
        if job.teacher is not None:
            feeds = shortest_feeds(job.given, job.teacher, job.texts)
            objective = plan_objective(job.given, job.teacher, feeds, job.weights, options, job.ctx.seed)
            part = part_of(job.teacher, objective, options, accelerator)
            shared = job.ctx.shared
            teacher = Teacher(part, job.texts, objective, device, placed=part is not job.teacher, shared=shared)
        student = objective.student(copy_to_train(job.given, freeze_embeddings=options.freeze_embeddings))
        zeros = pruned_places(student, device)
        optimizer = torch.optim.AdamW(groups(student, options.weight_decay), lr=0.0, fused=True)
        model, prepared = accelerator.prepare(student.train(options.dropout), optimizer)
        return cls(job, accelerator, student, model, prepared, teacher, objective, zeros)

    def keep_answers(self, progress: "Progress") -> bool:
        """Ask the teacher once for all, where texts come again; tells whether that was done."""
        options, job = self.job.options, self.job
        split = in_parts(options, self.accelerator)
        asked_twice = job.all_steps >= 2 * job.steps_an_epoch
        if self.teacher is None or self.step == job.n_steps or not (asked_twice or split):
            return False
        folder = job.ctx.work / KEPT / str(self.accelerator.process_index)
        kept = self.teacher.keep(folder, options.cache_mb, progress)
        if split and not kept:
            # Each process trains on texts of its own, and a split teacher answers one text at a time for all.
            raise UsageError(
                f"the answers of a teacher that is in parts take more than {options.cache_mb} MB",
                where=f"{job.name}.cache_mb",
                hint="raise cache_mb, or leave split_teacher (or --use_fsdp) out",
            )
        return kept

    @property
    def step(self) -> int:
        """Steps made so far."""
        return len(self.history["loss"])

    def run(self, progress: "Progress") -> None:
        """Make the steps that are left, saving now and then and at the end."""
        job, first = self.job, self.step
        started = time.perf_counter() - self.seconds
        saved_at, saving_seconds = time.perf_counter(), 0.0
        with progress.task("Distilling", total=job.n_steps) as ticker:
            ticker.advance(first)
            for batch in self._batches(first):
                self._learn(batch)
                begun = time.perf_counter()
                self.seconds = begun - started
                if self.step == job.n_steps or begun - saved_at >= self._pause(saving_seconds):
                    self._save()
                    saved_at = time.perf_counter()
                    saving_seconds = saved_at - begun
                self._show(ticker)
                ticker.advance()

    def _pause(self, saving_seconds: float) -> float:
        """Return the least time between two checkpoints: a slow disk may not slow the training down."""
        wanted = self.job.options.checkpoint_seconds
        return max(wanted, saving_seconds / SAVING_SHARE) if wanted > 0 else 0.0

    def finished(self) -> torch.nn.Module:
        """Return the trained model as it was given: on the CPU, evaluating, without gradients or graph."""
        module = self.student.forward_of.model.to("cpu").eval()
        given = dict(self.job.given.module.named_parameters())
        for name, parameter in module.named_parameters():
            parameter.grad = None
            parameter.requires_grad_(given[name].requires_grad)
        return module

    def resume(self, progress: "Progress") -> int | None:
        """Go on from the job's checkpoint; returns its step, None where there is none that is sound.

        The first process reads it: on other machines the others have none.
        """
        found = self._checkpoint(progress) if self.accelerator.is_main_process else None
        step = self._shared(torch.tensor(0 if found is None else found.step))
        if not int(step):
            return None
        held = self._state() if found is None else found.tensors
        tensors = {name: self._shared(held[name].detach()) for name in sorted(held)}
        with torch.no_grad():
            for name, parameter in learned(self.student):
                parameter.copy_(tensors[f"weight/{name}"])
                state = self.optimizer.state[parameter]
                state["step"] = torch.tensor(float(step), device=parameter.device)
                for moment in ("exp_avg", "exp_avg_sq"):
                    state[moment] = tensors[f"{moment}/{name}"].to(parameter.device)
        kept = [[0.0] * int(step) for _ in PARTS] if found is None else [found.history[n] for n in PARTS]
        curves = self._shared(torch.tensor(kept, dtype=torch.float64)).tolist()
        self.history = dict(zip(PARTS, curves, strict=True))
        self.seconds = 0.0 if found is None else found.seconds
        progress.note(f"continuing from step {int(step)} of {self.job.n_steps} of an interrupted run")
        return int(step)

    def _checkpoint(self, progress: "Progress") -> Checkpoint | None:
        path = self.job.checkpoint
        if path is None:
            return None
        try:
            return load_checkpoint(path, self.job.key, self._state())
        except CheckpointDamaged as error:
            progress.note(f"the checkpoint of an interrupted run cannot be used ({error}): starting over")
            return None

    def _shared(self, value: torch.Tensor) -> torch.Tensor:
        """Return the first process's value."""
        from accelerate.utils import broadcast

        if self.accelerator.num_processes == 1:
            return value
        made: torch.Tensor = broadcast(value.clone().to(self.accelerator.device))
        return made

    def _save(self) -> None:
        path = self.job.checkpoint
        if path is not None and self.accelerator.is_main_process:
            save_checkpoint(path, Checkpoint(self.step, self.seconds, self.history, self._state()), self.job.key)

    def _state(self) -> dict[str, torch.Tensor]:
        """Return weights and AdamW's moments (zeros before the first step)."""
        state: dict[str, torch.Tensor] = {}
        for name, parameter in learned(self.student):
            moments = self.optimizer.state.get(parameter, {})
            state[f"weight/{name}"] = parameter
            state |= {f"{m}/{name}": moments.get(m, torch.zeros_like(parameter)) for m in ("exp_avg", "exp_avg_sq")}
        return state

    def _batches(self, first: int) -> Iterator["NDArray[np.int64]"]:
        lengths = np.array([e.length for _, e in self.job.texts], dtype=np.int64)
        size, seed = self.job.options.batch_size, self.job.ctx.seed
        batches: list[NDArray[np.int64]] = []
        for step in range(self.job.begin + first, self.job.begin + self.job.n_steps):
            epoch, at = divmod(step, self.job.steps_an_epoch)
            if at == 0 or not batches:
                batches = batches_of_epoch(lengths, size, seed, epoch)
            yield batches[at]

    def _learn(self, batch: "NDArray[np.int64]") -> None:
        """Make one step."""
        options, accelerator = self.job.options, self.accelerator
        rank, processes = accelerator.process_index, accelerator.num_processes
        _seed(self.job.ctx.seed, self.job.begin + self.step, rank, accelerator.device)
        mine, factor = share_of_process(batch, rank, processes)
        told = self._backward(mine, factor)
        values = (accelerator.reduce(told, "mean") if processes > 1 else told).tolist()
        self._refuse("loss", values[0])
        for name, parameter in learned(self.student):
            if name in self.zeros and parameter.grad is not None:
                parameter.grad.masked_fill_(self.zeros[name], 0.0)
        gradient = float(accelerator.clip_grad_norm_(self.model.parameters(), options.max_gradient))
        if accelerator.scaler is None:  # a scaler (fp16 on request) meets infinite gradients itself: it skips the step
            self._refuse("gradient", gradient)
        for group in self.optimizer.param_groups:
            group["lr"] = self.job.rate(self.step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for name, value in zip(PARTS, values, strict=True):
            self.history[name].append(value)

    def _backward(self, mine: "NDArray[np.int64]", factor: float) -> torch.Tensor:
        """Add up the gradients of this process's texts, part by part; returns what its losses come to.

        Gradients go to the other processes with the last part alone.
        """
        accelerator = self.accelerator
        asked = accelerator.gradient_accumulation_steps  # of `accelerate launch`, which divides each loss by it
        parts = np.array_split(mine, min(max(self.job.options.accumulate, asked), len(mine)))
        told = torch.zeros(len(PARTS), device=accelerator.device)
        for i, part in enumerate(parts):
            share = factor * len(part) / len(mine)
            with accelerator.no_sync(self.model) if i + 1 < len(parts) else nullcontext():
                found = self._losses(part)
                accelerator.backward(found["loss"] * (share * asked))
            told += torch.stack([found[n].detach() for n in PARTS]) * share
        return told

    def _refuse(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise StageFailed(
                f"the {what} is {value} at step {self.step + 1} of {self.job.n_steps}",
                where=self.job.name,
                hint="a lower learning_rate, or a longer warmup, usually helps",
            )

    def _losses(self, batch: "NDArray[np.int64]") -> dict[str, torch.Tensor]:
        job = self.job
        feed = feed_batch(job.given, job.texts, batch, self.accelerator.device)
        seen = self.model(feed)
        wanted = None if self.teacher is None else self.teacher.answers(batch, feed)
        texts = [job.texts[i] for i in batch]
        steps = job.given.task.learned_steps(feed, [encoding for _, encoding in texts])
        return losses(self.objective, job.weights, job.given.task, seen, wanted, feed["attention_mask"], texts, steps)

    def _show(self, ticker: Ticker) -> None:
        recent = self.history["loss"][-20:]
        left = round(self.seconds / self.step * (self.job.n_steps - self.step))
        ticker.describe(f"Distilling · loss {sum(recent) / len(recent):.4f} · {left // 60}:{left % 60:02d} left")


def _seed(seed: int, step: int, rank: int, device: torch.device) -> None:
    """Seed dropout for one step: a resumed run draws what an uninterrupted one would have drawn."""
    value = int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed(value)
