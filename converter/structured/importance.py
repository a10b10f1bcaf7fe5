"""How much heads and neurons matter on real text: gradient x activation, to first order.

Every head and neuron gets a gate of 1, one for each text. The gate's gradient, dL/dg = sum over the text's own tokens
of activation x dL/d activation, is what the loss changes by, to first order, when the unit is removed.

- `taylor`: the mean of |dL/dg| over texts (Michel et al. 2019, arXiv 1905.10650; Molchanov et al. 2017, 1611.06440).
- `fisher`: the mean of (dL/dg)^2 (Molchanov et al. 2019, arXiv 1906.10771; Kwon et al. 2022, arXiv 2204.09656).
- `magnitude`: the size of the weights alone, to compare with.

The loss is the task's own against the labels of the text. Where there are none it is the divergence from the model's
own answers moved by seeded noise: at those answers themselves the gradient is exactly zero and says nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from converter.artifact import TorchModel
from converter.errors import DataError, StageFailed
from converter.examples import Encoding, Example, References
from converter.reference import feed_of
from converter.structured.plan import Loss, Score, UnitScores
from converter.surgery.cut import matrix_of
from converter.surgery.resize import family_of
from converter.training.losses import cosine_distance

if TYPE_CHECKING:
    from converter.family import LayerParts
    from converter.stage import Context, Ticker

Text = tuple[Example, Encoding]

NOISE = 0.5
"""Of the standard deviation of the answers: large enough to bend them, small enough to stay near."""
EMBEDDING = "sentence_embedding"
BATCH_TOKENS = 1024
"""Padded tokens a batch: bounds the memory of the backward pass."""


LEAST_TOKENS = 128
"""Of text, to fit weights on: fewer say nothing about hundreds of units."""


@dataclass(frozen=True)
class Evidence:
    """The text that importance is measured on, and the loss that it is measured with."""

    batches: tuple[tuple[Text, ...], ...]
    by_labels: bool
    score: Score
    seed: int

    @property
    def n_texts(self) -> int:
        return sum(map(len, self.batches))

    @property
    def n_tokens(self) -> int:
        return sum(encoding.length for batch in self.batches for _, encoding in batch)


def refuse_little(evidence: Evidence, where: str, hint: str) -> None:
    """Raise where there is too little text to fit weights to."""
    if evidence.n_tokens < LEAST_TOKENS:
        raise DataError(
            f"the calibration text has {evidence.n_tokens} tokens in {evidence.n_texts} texts; fitting weights "
            f"needs at least {LEAST_TOKENS}",
            where=where,
            hint=hint,
        )


def gather_evidence(
    model: TorchModel, ctx: "Context", *, n_texts: int, max_length: int, loss: Loss, score: Score
) -> Evidence:
    """Choose `n_texts` of the calibration text, seeded, in batches of like length.

    Raises:
        DataError: there is no text, or `loss` wants labels that are not there.

    """
    if not ctx.calibration:
        raise DataError("there is no text to measure importance on", hint="give --calibration FILE")
    examples = choose_texts(ctx, n_texts)
    # A text's importance is its own loss: a label that orders pairs (similarity) gives a single text none.
    labelled = [e for e in examples if e.label is not None and not e.group]
    if loss == "labels" and not labelled:
        raise DataError(
            "loss=labels, but the calibration text has no usable labels",
            hint="use loss=answers, or a labelled file",
        )
    by_labels = loss != "answers" and len(labelled) == len(examples)
    if loss == "labels":
        examples, by_labels = labelled, True
    length = min(max_length, model.max_length)
    texts = [(e, _encoded(model, e, length)) for e in examples]
    texts.sort(key=lambda t: t[1].length)
    return Evidence(tuple(_batches(texts)), by_labels, score, ctx.seed)


def _encoded(model: TorchModel, example: Example, length: int) -> Encoding:
    """Encode a text; a model that writes is given the text's own answer, or what it writes itself (greedily)."""
    answered = isinstance(example.label, References) and bool(example.label.texts)
    if model.cache is None or model.task.kind == "decoder" or answered:
        return model.task.learned(model.tokenizer, example, length)
    from converter.reference import torch_run

    asked = model.task.encode(model.tokenizer, example, length)
    return model.task.continued(model.specs, torch_run(model), asked)


def choose_texts(ctx: "Context", n_texts: int) -> list[Example]:
    """Return `n_texts` of the calibration text, drawn without replacement; all of it where there is no more."""
    if len(ctx.calibration) <= n_texts:
        return list(ctx.calibration)
    drawn = np.random.default_rng([ctx.seed, len(ctx.calibration)]).choice(len(ctx.calibration), n_texts, replace=False)
    return [ctx.calibration[i] for i in sorted(drawn)]


def _batches(texts: Sequence[Text]) -> Iterator[tuple[Text, ...]]:
    start = 0
    while start < len(texts):
        end = start + 1
        while end < len(texts) and (end + 1 - start) * texts[end][1].length <= BATCH_TOKENS:
            end += 1
        yield tuple(texts[start:end])
        start = end


def measure_importance(
    model: TorchModel, unpruned: TorchModel, evidence: Evidence, ticker: "Ticker"
) -> tuple[UnitScores, ...]:
    """Return the importance of every head and neuron of `model` as it is now.

    `unpruned` gives the answers that `model` is held to where there are no labels. Neither is changed: hooks are
    removed and no parameter gets a gradient.

    Raises:
        StageFailed: a score is not finite.

    """
    parts = family_of(model).layers(model.module)
    if evidence.score == "magnitude":
        return tuple(_magnitudes(part) for part in parts)
    totals = [tuple(np.zeros(n) for n in (p.n_heads, p.n_neurons, _across(p))) for p in parts]
    for number, batch in enumerate(evidence.batches):
        rng = torch.Generator().manual_seed(evidence.seed * 1_000_003 + number)
        for total, found in zip(totals, _gate_gradients(model, unpruned, parts, batch, evidence, rng), strict=True):
            for kind in range(len(found)):
                values = found[kind].double().numpy()
                total[kind][:] += (np.abs(values) if evidence.score == "taylor" else values**2).sum(axis=0)
        ticker.advance()
    scores = tuple(UnitScores(*(total / evidence.n_texts for total in of_layer)) for of_layer in totals)
    if not all(np.isfinite(values).all() for s in scores for values in (s.heads, s.neurons, s.cross)):
        raise StageFailed("the importance of heads and neurons is not finite", hint="are there very large weights?")
    return scores


def _magnitudes(part: "LayerParts") -> UnitScores:
    """Return the mean square of the weights that a head or a neuron writes with (Han et al. 2015): no text is read."""
    with torch.no_grad():
        squares = [matrix_of(m).square().mean(0).double() for m in (part.attention_output, part.ffn_output)]
        across = matrix_of(part.cross.attention_output).square().mean(0).double() if part.cross else torch.zeros(0)
    heads = squares[0].reshape(part.n_heads, part.head_dim).mean(1)
    cross = across.reshape(-1, part.cross.head_dim).mean(1) if part.cross else across
    return UnitScores(heads.numpy(), squares[1].numpy(), cross.numpy())


def _across(part: "LayerParts") -> int:
    """Return the heads of the attention to an encoder."""
    return part.cross.n_heads if part.cross else 0


def _gate_gradients(
    model: TorchModel,
    unpruned: TorchModel,
    parts: "Sequence[LayerParts]",
    batch: Sequence[Text],
    evidence: Evidence,
    rng: torch.Generator,
) -> list[tuple[torch.Tensor, ...]]:
    """Return, a layer, dL/dg `[texts, heads]`, `[texts, neurons]` and, of a decoder, `[texts, cross heads]`."""
    feed = {n: torch.from_numpy(rows) for n, rows in feed_of(model, [e for _, e in batch]).items()}
    masks = token_masks(model, feed, [e for _, e in batch])
    gates: list[list[torch.Tensor]] = []
    with ExitStack() as hooks, torch.enable_grad():
        for part, mask in zip(parts, masks, strict=True):
            own = [(part.attention_output, part.n_heads, part.head_dim), (part.ffn_output, part.n_neurons, 1)]
            across = [(part.cross.attention_output, part.cross.n_heads, part.cross.head_dim)] if part.cross else []
            gates.append([])
            for linear, n_units, width in (*own, *across):
                gate = _ones(len(batch), n_units)
                gates[-1].append(gate)
                wide = gate.repeat_interleave(width, dim=1) if width > 1 else gate
                hooks.callback(linear.register_forward_pre_hook(_gated(wide, mask)).remove)
        outputs = model.whole()(**feed)
        loss = sum_of_losses(model, outputs, feed, batch, evidence, moved_answers(unpruned, feed, evidence, rng))
        grads = iter(torch.autograd.grad(loss, [gate for row in gates for gate in row]))
    return [tuple(next(grads) for _ in row) for row in gates]


def token_masks(
    model: TorchModel, feed: Mapping[str, torch.Tensor], encodings: Sequence[Encoding]
) -> list[torch.Tensor]:
    """Return, for each layer that parts are listed of, 1 `[texts, tokens]` at the tokens that it reads."""
    steps = model.task.learned_steps(feed, encodings)
    behind = model.cache is not None and model.task.kind != "decoder"
    made = []
    for stack in family_of(model).stacks(model.module):
        made += [steps if behind and stack.name == "decoder" else feed["attention_mask"]] * stack.n_layers
    return made


def _ones(n_texts: int, n_units: int) -> torch.Tensor:
    return torch.ones(n_texts, n_units, requires_grad=True)


def _gated(gate: torch.Tensor, mask: torch.Tensor) -> Callable[..., tuple[Any, ...]]:
    """Multiply `[texts, tokens, units]` by each text's gate at its own tokens; padding passes as it is."""
    spread = 1 + mask.unsqueeze(-1).to(gate.dtype) * (gate.unsqueeze(1) - 1)

    def hook(_: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0] * spread, *args[1:])

    return hook


def moved_answers(
    unpruned: TorchModel, feed: Mapping[str, torch.Tensor], evidence: Evidence, rng: torch.Generator
) -> dict[str, torch.Tensor]:
    """Return the answers of the unpruned model plus noise; nothing where labels serve."""
    if evidence.by_labels:
        return {}
    with torch.no_grad():
        answers = unpruned.whole()(**feed)
    return {n: v + NOISE * v.std() * torch.randn(v.shape, generator=rng) for n, v in answers.items()}


def sum_of_losses(
    model: TorchModel,
    outputs: Mapping[str, torch.Tensor],
    feed: Mapping[str, torch.Tensor],
    batch: Sequence[Text],
    evidence: Evidence,
    answers: Mapping[str, torch.Tensor],
) -> torch.Tensor:
    """Return the sum of each text's own loss: what a text says does not depend on its neighbours in the batch."""
    total = torch.zeros(())
    steps = model.task.learned_steps(feed, [encoding for _, encoding in batch])
    for row, text in enumerate(batch):
        own = {name: value[row : row + 1] for name, value in outputs.items()}
        if evidence.by_labels:
            found = model.task.hard_loss(own, [text])
            total = total if found is None else total + found
        else:
            wanted = {name: value[row : row + 1] for name, value in answers.items()}
            total = total + _soft_loss(model, own, wanted, steps[row : row + 1])
    if not total.requires_grad:
        raise DataError("no text has a usable label", hint="use loss=answers")
    return total


def _soft_loss(
    model: TorchModel, own: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], mask: torch.Tensor
) -> torch.Tensor:
    """Return the distance of one text's answers: of the sentence's embedding alone, where that is what is asked for."""
    if EMBEDDING in own:
        return cosine_distance(own[EMBEDDING], wanted[EMBEDDING])
    return model.task.soft_loss(own, wanted, mask, 1.0)
