"""PyTorch to TFLite float32 for a model that writes text, held to equality with it up to the cache's last position."""

import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.artifact import TorchModel
from converter.binding import option
from converter.bounds.sizes import shown_size
from converter.errors import ResourceLimit, StageFailed, UsageError
from converter.generate.forcing import forced_logits
from converter.generate.graphs import DECODER
from converter.graphs import GraphSpec, Run
from converter.onnx.equality import MAX_ERROR, Differences
from converter.onnx.text_equality import plain_logits
from converter.resources import release_memory, require_space
from converter.stage import Context, Outcome, Stage
from converter.tflite.file import read_flat, shorten_names, text, write_flat
from converter.tflite.lower.lower import GRAPH_BYTES, ROOM, write_converted
from converter.tflite.quiet import quiet
from converter.tflite.writing.layout import Layout, plan_layout
from converter.tflite.writing.model import TfliteWriter
from converter.tflite.writing.rotary import refuse_changing_positions

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_BYTES = 2**31
"""Of a flatbuffer: its offsets have 32 bits, with a sign."""
LAST = 8
"""Tokens at the end of a text whose logits are compared: those before them are read by other signatures."""
EXPERTS = ("Experts", "NaiveMoe")
"""How transformers' classes are named that hold the weights of all experts."""
SHORT = (1, 2, 9)
"""Tokens of a text, besides those that fill a signature or the cache."""
SINGLY = 12
"""Tokens of a text that is fed one by one from its first."""


@dataclass(frozen=True)
class LowerWriter(Stage[TorchModel, TfliteWriter]):
    """Lower with litert-torch: signatures that read several tokens, and one that writes the next.

    Raises (from `run`):
        UsageError: a cache is longer than the model's positions, or a length longer than the cache.
        ResourceLimit: the disk has no room for the file; or memory ran out.
        StageFailed: an operation is not supported in TFLite (named with its layer), or the file differs from the
            model by more than 1e-4 of the range of the logits.
    """

    cache: int = option(0, "positions of the cache; 0: 1024, or 128 for an encoder-decoder", low=0)
    seq_len: tuple[int, ...] = option((), "tokens of each signature that reads several", low=1)

    name = "lowering.write"
    summary = "PyTorch to TFLite float32, with a cache of fixed size"
    takes = ("decoder", "encoder-decoder")

    def check(self, source: TorchModel, *, has_text: bool) -> None:
        """Refuse a model whose float32 file would be too large, or that has no form in TFLite.

        Raises:
            ResourceLimit: names the size.
            UsageError: it is a mixture of experts.

        """
        refuse_large(source.size_bytes)
        refuse_experts(source.module)

    def run(self, given: TorchModel, ctx: Context) -> Outcome[TfliteWriter]:
        layout = layout_of(given, self.cache, self.seq_len)
        require_space(ctx.work, ROOM * given.size_bytes + GRAPH_BYTES * (1 + len(layout.signatures)))
        folder = Path(mkdtemp(prefix="tflite-", dir=ctx.work))
        made = TfliteWriter(folder / "model.tflite", given, layout.lengths, ("logits",), layout=layout)
        with ctx.progress.task(f"Converting to TFLite: {', '.join(layout.signatures)}"):
            _convert(made)
            facts = _finish(made)
        with ctx.progress.task("Comparing with PyTorch"):
            facts |= check_writer(given.module, given.specs, made.runs(), layout)
            release_memory()
        return Outcome(made, {"cache": layout.cache, "lengths": list(layout.lengths), **facts})


def refuse_large(weights: int) -> None:
    """Raise `ResourceLimit` where a flatbuffer cannot hold `weights` bytes, as the converter hands its file over."""
    if weights >= MOST_BYTES:
        raise ResourceLimit(
            f"the model has {shown_size(weights)} of weights in float32, and a TFLite file is made of at most "
            f"{shown_size(MOST_BYTES)}; nothing was made",
            where="tflite",
            hint="--target cpu-int8, whose weights lie beside the file; or a smaller model",
        )


def refuse_experts(model: Any) -> None:
    """Raise `UsageError` for a mixture of experts: which weights a token is multiplied with depends on the token."""
    found = next((type(m).__name__ for m in model.modules() if type(m).__name__.endswith(EXPERTS)), None)
    if found is not None:
        raise UsageError(
            f"the model is a mixture of experts ({found}), which has no form in TFLite",
            where="tflite",
            hint="--target cpu-int8 or --target ort-gpu: ONNX has one",
        )


def layout_of(given: TorchModel, cache: int, lengths: tuple[int, ...]) -> Layout:
    """Return the sizes of the file of a model.

    Raises:
        UsageError: a cache is longer than the model's positions, or than those that do not change with the text's
            length; or a length is longer than the cache.

    """
    assert given.cache is not None, "a model that writes text has a cache"
    causal = DECODER not in given.specs
    made = plan_layout(given.cache, causal=causal, positions=given.max_length, wanted=cache, lengths=lengths)
    refuse_changing_positions(given.module, made.cache)
    return made


def _convert(made: TfliteWriter) -> None:
    """Write the file as the converter makes it: weights are referred to, not copied, until they are written."""
    import torch

    with quiet():
        import litert_torch

    from converter.forward import traced_in_order
    from converter.tflite.writing.graphs import fixed_attention, sample_inputs, step_modules

    litert_torch.config.show_progress = False
    given, layout = made.source, made.layout
    assert given.cache is not None, "a model that writes text has a cache"
    converter: Any = litert_torch.Converter()
    with fixed_attention(given.module), traced_in_order(given.module), torch.no_grad(), quiet():
        for name, module in step_modules(given.module, layout, given.cache).items():
            converter = converter.signature(name, module, sample_kwargs=sample_inputs(layout, given.specs, name))
        write_converted(converter, given, made.path, lean=True)
    del converter
    gc.collect()


def _finish(made: TfliteWriter) -> dict[str, Any]:
    """Write the file again with short names and every weight once."""
    raw = made.path.with_name("lowered.tflite")
    made.path.rename(raw)
    try:
        model = read_flat(raw)
        shorten_names(model)
        write_flat(model, made.path)
        operations = {
            text(s.signatureKey): len(model.subgraphs[s.subgraphIndex].operators) for s in model.signatureDefs
        }
    finally:
        raw.unlink()
    return {"operations": operations}


@dataclass(frozen=True)
class _Case:
    title: str
    encoding: "dict[str, NDArray[np.int64]]"
    answer: "NDArray[np.int64] | None" = None
    steps: tuple[int, ...] = ()


def check_writer(model: Any, specs: Mapping[str, GraphSpec], run: Run, layout: Layout) -> dict[str, Any]:
    """Compare a file with `model` asked without a cache, at the last tokens of texts of many lengths; returns facts.

    Raises:
        StageFailed: logits are further off than 1e-4 of their range, or not finite; names the worst case.

    """
    differences, titles = Differences(), list[str]()
    for case in _cases(specs, layout):
        wanted = last_logits(model, case.encoding, case.answer, LAST)
        last = wanted.shape[1]
        found = forced_logits(run, specs, case.encoding, case.answer, case.steps, last)
        differences.add("logits", len(titles), wanted, found)
        titles.append(case.title)
        del wanted, found  # before those of the next case are made
    _, place, worst = differences.worst()
    if worst > MAX_ERROR:
        raise StageFailed(
            f"the TFLite file differs from PyTorch by {worst:.1e} of the range of the logits (at most "
            f"{MAX_ERROR:.0e}) for {titles[place]}",
            where=type(model).__name__,
        )
    return {"max_relative_error": worst, "cases": titles}


def _cases(specs: Mapping[str, GraphSpec], layout: Layout) -> Iterator[_Case]:
    random = np.random.default_rng(0)
    ids = next(t for t in next(iter(specs.values())).inputs if t.name == "input_ids")

    def drawn(length: int) -> "NDArray[np.int64]":
        return ids.made_up_text(random, 1, length)

    def asked(length: int) -> "dict[str, NDArray[np.int64]]":
        return {"input_ids": drawn(length), "attention_mask": np.ones((1, length), dtype=np.int64)}

    if layout.causal:
        fills = {n + LAST for n in layout.lengths}
        for length in sorted({*SHORT, *fills, layout.cache}):
            if length <= layout.cache:
                yield _Case(f"a text of {length}", asked(length))
        length = min(SINGLY, layout.cache)
        yield _Case(f"a text of {length}, token by token", asked(length), steps=(1,) * length)
        return
    for length in sorted({1, *layout.lengths, *(n - 1 for n in layout.lengths if n > 1)}):
        yield _Case(f"a text of {length}", asked(length), drawn(min(LAST, layout.cache)))
    yield _Case(f"an answer of {layout.cache}", asked(layout.lengths[0]), drawn(layout.cache))


def last_logits(
    model: Any, encoding: "Mapping[str, NDArray[np.int64]]", answer: "NDArray[np.int64] | None", last: int
) -> "NDArray[np.float32]":
    """Return the logits of the model's own call without a cache at the `last` tokens: `[1, last, vocabulary]`."""
    from converter.generate.modules import gives_chosen_logits

    length = (encoding["input_ids"] if answer is None else answer).shape[1]
    kept = np.arange(max(0, length - last), length) if gives_chosen_logits(model) else None
    return plain_logits(model, encoding, answer, kept)[:, -last:]
