"""PyTorch to TFLite float32, held to tight equality with the model it came from."""

import gc
import mmap
import re
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from converter.artifact import TorchModel
from converter.binding import option
from converter.errors import PackageDamaged, ResourceLimit, StageFailed
from converter.examples import Encoding, pad_batch
from converter.graphs import BATCH, MODEL, SEQUENCE
from converter.onnx.equality import MAX_ERROR, Differences
from converter.resources import require_space
from converter.rewrite import apply_rewrites
from converter.stage import Context, Outcome, Stage
from converter.tflite.derived import Derived
from converter.tflite.file import read_flat, shorten_names, write_flat
from converter.tflite.lengths.stamp import LengthDependent, stamp
from converter.tflite.lower.order import LOWERED, NARROWED, Subgraph, unsound
from converter.tflite.model import SIGNATURE, TfliteModel, mobile_outputs, signature_lengths
from converter.tflite.quiet import quiet

TEXTS_A_LENGTH = 2
ROOM = 2
"""Float files of the weights that may lie on the disk at a time: what is written, and what was written before."""
GRAPH_BYTES = 1_000_000
"""Room for a signature beside the weights: 63 kB were measured at one layer."""
LARGE = 65_536
"""Values from which arithmetic on constants, done again at every call, would be felt."""


@dataclass(frozen=True)
class LowerTflite(Stage[TorchModel, TfliteModel]):
    """Lower with litert-torch, one signature per length.

    Raises (from `run`):
        UsageError: a length exceeds what the model takes.
        ResourceLimit: the disk has no room for the file; or memory ran out.
        StageFailed: an operation is not supported in TFLite (named with its layer), or the file differs from the
            model by more than 1e-4 of the output range.
    """

    seq_len: tuple[int, ...] = option((), "lengths in tokens, one signature each", low=1)

    name = "lowering.lower"
    summary = "PyTorch to TFLite float32"

    def run(self, given: TorchModel, ctx: Context) -> Outcome[TfliteModel]:
        lengths = signature_lengths(self.seq_len, given.max_length)
        require_space(ctx.work, ROOM * given.size_bytes + GRAPH_BYTES * (1 + len(lengths)))
        folder = Path(mkdtemp(prefix="tflite-", dir=ctx.work))
        made = TfliteModel(folder / "model.tflite", given, lengths, mobile_outputs(given))
        try:
            return Outcome(made, _stamped(made, ctx))
        except LengthDependent as error:
            facts = {"stamped": False, "not_stamped": str(error)}
        facts |= {**_lowered(made, lengths, ctx), **_finished(made, None)}
        return Outcome(made, facts | check_lowered(made, ctx))


def _stamped(made: TfliteModel, ctx: Context) -> dict[str, Any]:
    """Lower two lengths and make all others of them; returns the facts.

    Raises:
        LengthDependent: this architecture does not allow it.

    """
    if len(made.lengths) < 2:
        raise LengthDependent("there is only one sequence length")
    refuse_dropping_layers(made.source)
    longest = made.lengths[-1]
    lowered = _lowered(made, (longest - 1, longest), ctx)
    try:
        facts = {"stamped": True, **lowered, **_finished(made, made.lengths)}
        return facts | check_lowered(made, ctx)
    except (StageFailed, PackageDamaged, RuntimeError, ValueError) as error:
        # A constant that depends on the sequence length other than by its size, which the comparison finds.
        raise LengthDependent(str(error)) from error


def refuse_dropping_layers(model: TorchModel) -> None:
    """Raise `LengthDependent` for a model whose layers drop tokens: they have a share of them left, rounded up."""
    from converter.surgery.tokens import dropping_of

    if dropping_of(model) is not None:
        raise LengthDependent("its layers drop tokens: how many are left does not move evenly with the length")


def _lowered(made: TfliteModel, lengths: tuple[int, ...], ctx: Context) -> dict[str, Any]:
    """Write the file at `lengths`; returns the facts."""
    with ctx.progress.task(f"Converting to TFLite at {', '.join(map(str, lengths))} tokens"):
        made = replace(made, lengths=lengths)
        lean = _convert(made.source, made, lean=True)
        if computes_constants(made.path):
            # The lean way leaves sums of constants in the file where this architecture has them: the usual way works
            # them out beforehand, in twice the memory.
            lean = _convert(made.source, made, lean=False)
    return {"lean": lean}


def _finished(made: TfliteModel, lengths: tuple[int, ...] | None) -> dict[str, Any]:
    """Narrow the file's graphs, make signatures for `lengths` of them (None: as they are), and write it again."""
    raw = made.path.with_name("lowered.tflite")
    made.path.rename(raw)
    try:
        model = read_flat(raw)
        derived = Derived(model)
        graphs = [Subgraph(model, graph, derived) for graph in model.subgraphs]
        for graph in graphs:
            apply_rewrites(LOWERED, graph, unsound)
        narrowed = [apply_rewrites(NARROWED, graph, unsound) for graph in graphs]
        if lengths is not None:
            stamp(model, lengths)
        shorten_names(model)
        write_flat(model, made.path)
    finally:
        raw.unlink()
    return {"operations": len(model.subgraphs[0].operators), **narrowed[0]}


def _convert(given: TorchModel, made: TfliteModel, *, lean: bool) -> bool:
    """Write the file. `lean`: weights are referred to, not copied, until they are written."""
    import torch

    with quiet():
        import litert_torch

    from converter.forward import traced_in_order
    from converter.tflite.lower.graph import MobileGraph

    litert_torch.config.show_progress = False

    graph = MobileGraph(given, made.output_names, made.lengths[-1]).eval()
    converter: Any = litert_torch.Converter()
    # The longest comes first: it is what a caller gets who asks for no signature, and it takes every text.
    for length in reversed(made.lengths):
        feed = given.specs[MODEL].dummy({BATCH: 1, SEQUENCE: length})
        sample = {name: torch.from_numpy(rows).int() for name, rows in feed.items()}
        converter = converter.signature(f"{SIGNATURE}{length}", graph, sample_kwargs=sample)
    with quiet(), traced_in_order(given.module):
        write_converted(converter, given, made.path, lean=lean)
    # What was traced is a web of cycles that holds every intermediate: it must go before the file is opened.
    del converter, graph
    gc.collect()
    return lean


def write_converted(converter: Any, given: TorchModel, path: Path, *, lean: bool) -> None:
    """Let litert-torch convert its signatures of `given`. `lean`: weights are referred to, not copied, until then.

    Raises:
        ResourceLimit: memory ran out.
        StageFailed: an operation is not supported in TFLite; it is named with its layer.

    """
    options = {"lightweight_conversion": True, "runtime_constant_folding": False} if lean else {}
    try:
        converter.convert(**options).export(str(path))
    except MemoryError:
        raise ResourceLimit(
            "memory ran out during the conversion to TFLite", hint="fewer sequence lengths take less memory"
        ) from None
    except Exception as error:  # torch, jax and MLIR raise what they like
        raise conversion_failure(error, given) from error


def conversion_failure(error: Exception, given: TorchModel) -> StageFailed:
    """Return what went wrong: the operation and the layer, as far as the libraries tell them."""
    text = str(error)
    operation = re.search(r"Lowering not found: (\S+)|failed to legalize operation '([^']+)'", text)
    layer = re.findall(r"in forward\n\s+(.+)", text)
    what = (
        f"{next(filter(None, operation.groups()))} is not supported in TFLite"
        if operation
        else (text.strip().splitlines() or [repr(error)])[0]
    )
    return StageFailed(
        what + (f", at `{layer[-1].strip()}`" if layer else ""),
        where=f"{type(given.module).__name__}, conversion to TFLite",
        hint="export it to ONNX instead: --target cpu-int8",
    )


def computes_constants(path: Path) -> bool:
    """Return whether some operation of the first signature does arithmetic on large constants alone.

    Looking rows of a table up (position embeddings) is no arithmetic: it costs nothing, and the table stays shared.
    """
    from ai_edge_litert.schema_py_generated import BuiltinOperator, Model

    lookups = {BuiltinOperator.EMBEDDING_LOOKUP, BuiltinOperator.GATHER, BuiltinOperator.SLICE}

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        model = Model.GetRootAs(content, 0)
        graph = model.Subgraphs(0)
        made = {int(t) for i in range(graph.OperatorsLength()) for t in graph.Operators(i).OutputsAsNumpy()}
        given = {int(t) for t in graph.InputsAsNumpy()}
        for i in range(graph.OperatorsLength()):
            operation = graph.Operators(i)
            inputs = [int(t) for t in operation.InputsAsNumpy()]
            if model.OperatorCodes(operation.OpcodeIndex()).BuiltinCode() in lookups or any(
                t in made | given for t in inputs
            ):
                continue
            if inputs and int(np.prod(graph.Tensors(inputs[0]).ShapeAsNumpy())) >= LARGE:
                return True
        return False


def check_lowered(made: TfliteModel, ctx: Context) -> dict[str, Any]:
    """Compare the file with PyTorch at every length, filled and padded; returns the facts.

    Raises:
        StageFailed: some output is further off than `MAX_ERROR` of its range, or not finite; names the length.

    """
    from converter.reference import torch_run

    source, runner = made.source, made.open()
    wanted_run = torch_run(source)
    differences = Differences()
    with ctx.progress.task("Comparing with PyTorch", total=len(made.lengths)) as ticker:
        for length in made.lengths:
            for text in _texts(made, ctx, length):
                feed = pad_batch([text], source.specs[MODEL])
                wanted, found = wanted_run(MODEL, feed), runner.run(MODEL, feed)
                for name in made.output_names:
                    differences.add(name, length, wanted[name], found[name])
            ticker.advance()
    output, length, worst = differences.worst()
    if worst > MAX_ERROR:
        raise StageFailed(
            f"the TFLite file differs from PyTorch by {worst:.1e} of the range of {output} "
            f"(at most {MAX_ERROR:.0e}) at {length} tokens",
            where=source.provenance.id,
        )
    return {"max_relative_error": worst}


def _texts(made: TfliteModel, ctx: Context, length: int) -> list[Encoding]:
    """Return texts that fill `length` exactly, and texts that must be padded to it."""
    from converter.tflite.lengths.rows import filled_rows

    full = filled_rows(made.source, ctx, length, TEXTS_A_LENGTH)
    short = max(1, length * 2 // 3)
    return [*full, *(row.resized(short) for row in full)]
