"""The training loop: AdamW with linear warm-up and decay, through accelerate, resumable to the bit."""

import copy
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from converter.distill._checkpoint import (
    Checkpoint,
    CheckpointDamaged,
    load_checkpoint,
    save_checkpoint,
)
from converter.distill._layers import Tapped, hidden_loss, plan_hidden
from converter.distill._options import LossWeights, TrainingOptions
from converter.distill._teacher import Teacher
from converter.distill._text import Text, batches_an_epoch, batches_of_epoch, feed_batch, share_of_process
from converter.errors import StageFailed
from converter.stage import SILENT, Ticker

if TYPE_CHECKING:
    from accelerate import Accelerator
    from numpy.typing import NDArray

    from converter.artifact import TorchModel
    from converter.stage import Context, Progress

PARTS = ("loss", "soft", "hard", "hidden")
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

    @property
    def steps_an_epoch(self) -> int:
        return batches_an_epoch(len(self.texts), self.options.batch_size)

    @property
    def n_steps(self) -> int:
        wanted = self.options.epochs * self.steps_an_epoch
        return wanted if self.options.steps is None else min(wanted, self.options.steps)

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

    """
    from accelerate import Accelerator, DistributedDataParallelKwargs

    # A task may leave parameters unused, such as the pooler of an embedding model.
    accelerator = Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])
    progress = job.ctx.progress if accelerator.is_main_process else SILENT
    with _own_randomness(accelerator.device):
        training = Training.of(job, accelerator)
        kept = False
        if training.teacher is not None and job.n_steps >= 2 * job.steps_an_epoch:
            kept = training.teacher.keep(progress)
        resumed_from = training.resume(progress)
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
    student: Tapped
    """The copy that learns."""
    model: torch.nn.Module
    """`student` as accelerate wraps it."""
    optimizer: Any
    teacher: Teacher | None
    mapped: tuple[int, ...]
    """The teacher layer of each student layer; empty where hidden states do not count."""
    zeros: dict[str, torch.Tensor]
    """Where matrices were pruned to zero: they stay so."""
    history: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in PARTS})
    seconds: float = 0.0

    @classmethod
    def of(cls, job: Job, accelerator: "Accelerator") -> "Training":
        device, teacher = accelerator.device, None
        mapped: tuple[int, ...] = ()
        projection = None
        if job.teacher is not None:
            if job.weights.hidden > 0:
                mapped, projection = plan_hidden(job.given, job.teacher, _shortest(job), job.ctx.seed)
            teacher = Teacher(job.teacher, job.texts, bool(mapped), device)
        student = Tapped(_copy(job.given), hidden=bool(mapped), projection=projection)
        zeros = {n: (p == 0).to(device) for n, p in _learned(student) if p.dim() > 1 and 0 < _n_zeros(p) < p.numel()}
        optimizer = torch.optim.AdamW(_groups(student, job.options.weight_decay), lr=0.0, fused=True)
        model, prepared = accelerator.prepare(student.train(job.options.dropout), optimizer)
        return cls(job, accelerator, student, model, prepared, teacher, mapped, zeros)

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
        """Go on from the job's checkpoint; returns its step, None where there is none that is sound."""
        path = self.job.checkpoint
        if path is None:
            return None
        try:
            found = load_checkpoint(path, self.job.key, self._state())
        except CheckpointDamaged as error:
            progress.note(f"the checkpoint of an interrupted run cannot be used ({error}): starting anew")
            return None
        if found is None:
            return None
        with torch.no_grad():
            for name, parameter in _learned(self.student):
                parameter.copy_(found.tensors[f"weight/{name}"])
                state = self.optimizer.state[parameter]
                state["step"] = torch.tensor(float(found.step), device=parameter.device)
                for moment in ("exp_avg", "exp_avg_sq"):
                    state[moment] = found.tensors[f"{moment}/{name}"].to(parameter.device)
        self.history, self.seconds = found.history, found.seconds
        progress.note(f"going on from step {found.step} of {self.job.n_steps} of an interrupted run")
        return found.step

    def _save(self) -> None:
        path = self.job.checkpoint
        if path is not None and self.accelerator.is_main_process:
            save_checkpoint(path, Checkpoint(self.step, self.seconds, self.history, self._state()), self.job.key)

    def _state(self) -> dict[str, torch.Tensor]:
        """Return weights and AdamW's moments (zeros before the first step)."""
        state: dict[str, torch.Tensor] = {}
        for name, parameter in _learned(self.student):
            moments = self.optimizer.state.get(parameter, {})
            state[f"weight/{name}"] = parameter
            state |= {f"{m}/{name}": moments.get(m, torch.zeros_like(parameter)) for m in ("exp_avg", "exp_avg_sq")}
        return state

    def _batches(self, first: int) -> Iterator["NDArray[np.int64]"]:
        lengths = np.array([e.length for _, e in self.job.texts], dtype=np.int64)
        size, seed = self.job.options.batch_size, self.job.ctx.seed
        batches: list[NDArray[np.int64]] = []
        for step in range(first, self.job.n_steps):
            epoch, at = divmod(step, self.job.steps_an_epoch)
            if at == 0 or not batches:
                batches = batches_of_epoch(lengths, size, seed, epoch)
            yield batches[at]

    def _learn(self, batch: "NDArray[np.int64]") -> None:
        """Make one step."""
        options, accelerator = self.job.options, self.accelerator
        rank, processes = accelerator.process_index, accelerator.num_processes
        _seed(self.job.ctx.seed, self.step, rank, accelerator.device)
        mine, factor = share_of_process(batch, rank, processes)
        parts = self._losses(mine)
        loss = parts["loss"] * factor
        told = torch.stack([parts[n].detach() for n in PARTS]) * factor
        values = (accelerator.reduce(told, "mean") if processes > 1 else told).tolist()
        self._refuse("loss", values[0])
        accelerator.backward(loss)
        for name, parameter in _learned(self.student):
            if name in self.zeros and parameter.grad is not None:
                parameter.grad.masked_fill_(self.zeros[name], 0.0)
        gradient = float(accelerator.clip_grad_norm_(self.model.parameters(), options.max_gradient))
        if accelerator.scaler is None:  # a scaler (fp16 on request) meets infinite gradients itself: it skips the step
            self._refuse("gradient", gradient)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.job.n_steps, options.learning_rate, options.warmup)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for name, value in zip(PARTS, values, strict=True):
            self.history[name].append(value)

    def _refuse(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise StageFailed(
                f"the {what} is {value} at step {self.step + 1} of {self.job.n_steps}",
                where=self.job.name,
                hint="a lower learning_rate, or a longer warmup, usually helps",
            )

    def _losses(self, batch: "NDArray[np.int64]") -> dict[str, torch.Tensor]:
        """Return the weighted sum as `loss`, and its parts (0 where a part does not count here)."""
        weights, task = self.job.weights, self.job.given.task
        feed = feed_batch(self.job.given, self.job.texts, batch, self.accelerator.device)
        outputs, states = self.model(feed)
        # Touches every output, so that the processes agree on which parameters have a gradient, whatever the batch.
        parts = {
            "loss": sum((v.sum() * 0.0 for v in outputs.values()), torch.zeros((), device=feed["input_ids"].device))
        }
        parts |= {name: torch.zeros_like(parts["loss"]) for name in PARTS[1:]}
        if self.teacher is not None:
            wanted, wanted_states = self.teacher.answers(batch, feed)
            if weights.soft > 0:
                parts["soft"] = task.soft_loss(outputs, wanted, feed["attention_mask"], weights.temperature)
            if self.mapped:
                parts["hidden"] = hidden_loss(states, wanted_states, feed["attention_mask"], self.mapped)
        if weights.hard > 0:
            hard = task.hard_loss(outputs, [self.job.texts[i] for i in batch])
            parts["hard"] = parts["hard"] if hard is None else hard
        weighted = (weights.soft * parts["soft"], weights.hard * parts["hard"], weights.hidden * parts["hidden"])
        return parts | {"loss": sum(weighted, parts["loss"])}

    def _show(self, ticker: Ticker) -> None:
        recent = self.history["loss"][-20:]
        left = round(self.seconds / self.step * (self.job.n_steps - self.step))
        ticker.describe(f"Distilling · loss {sum(recent) / len(recent):.4f} · {left // 60}:{left % 60:02d} left")


def _copy(given: "TorchModel") -> "TorchModel":
    """Return a copy that may be trained; the sentence head stays as it is, as packages copy it from the source."""
    module = copy.deepcopy(given.module).requires_grad_(requires_grad=True)
    head = None if given.head is None else copy.deepcopy(given.head).requires_grad_(requires_grad=False)
    return replace(given, module=module, head=head)


def _learned(student: Tapped) -> list[tuple[str, torch.nn.Parameter]]:
    """Return what is trained, tied parameters once."""
    return [(n, p) for n, p in student.named_parameters() if p.requires_grad]


def _groups(student: Tapped, decay: float) -> list[dict[str, Any]]:
    learned = [p for _, p in _learned(student)]
    return [
        {"params": [p for p in learned if p.dim() > 1], "weight_decay": decay},
        {"params": [p for p in learned if p.dim() <= 1], "weight_decay": 0.0},
    ]


def _n_zeros(parameter: torch.Tensor) -> int:
    return int((parameter == 0).sum())


def _seed(seed: int, step: int, rank: int, device: torch.device) -> None:
    """Seed dropout for one step: a resumed run draws what an uninterrupted one would have drawn."""
    value = int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed(value)


def _shortest(job: Job) -> dict[str, torch.Tensor]:
    shortest = min(range(len(job.texts)), key=lambda i: job.texts[i][1].length)
    return feed_batch(job.given, job.texts, [shortest], torch.device("cpu"))
