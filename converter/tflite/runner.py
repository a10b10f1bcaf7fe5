"""A TFLite file in LiteRT, as an app runs it: padded to the nearest length, and to the batch, that the file offers."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.errors import PackageDamaged, UsageError
from converter.graphs import MODEL, SEQUENCE, GraphSpec
from converter.target import GraphInfo, Runner, TensorInfo
from converter.tflite.model import ANY_SIGNATURE, BATCH, SIGNATURE, lengths_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


class TfliteRunner(Runner):
    """Opens a file with signatures `serving_<length>`, or with one that takes any length.

    `xnnpack` False: LiteRT's own kernels, slower, but without a second, packed copy of the weights per signature.

    Raises:
        PackageDamaged: the file is no TFLite model, or has none of those signatures.

    """

    def __init__(self, path: Path, specs: Mapping[str, GraphSpec], threads: int = 1, *, xnnpack: bool = True) -> None:
        self._interpreter = open_interpreter(path, threads, xnnpack=xnnpack)
        names = self._interpreter.get_signature_list()
        found, any_up_to = lengths_of(names)
        if not found and any_up_to is None:
            raise PackageDamaged(
                f"the file has no signature {SIGNATURE}<length>; it has {', '.join(names) or 'none'}", where=str(path)
            )
        self.lengths = found
        self.max_length = any_up_to or found[-1]
        self.max_batch = _batch(names)
        self.runtime = runtime_name(xnnpack=xnnpack)
        self._specs = specs
        self._signatures: dict[str, Any] = {}
        self._any = None if any_up_to is None else self._interpreter.get_signature_runner(f"{ANY_SIGNATURE}{any_up_to}")
        shortest = self._any or self._signature(found[0], 1)
        details = shortest.get_input_details()
        known = [n for n in specs[MODEL].input_names if n in details]
        self.graphs = {
            MODEL: GraphInfo(
                tuple(_info(n, details[n]) for n in (*known, *sorted(details.keys() - set(known)))),
                tuple(_info(n, d) for n, d in sorted(shortest.get_output_details().items())),
            )
        }

    def run(self, graph: str, feed: "Mapping[str, NDArray[np.int64]]") -> "dict[str, NDArray[np.float32]]":
        """Run the rows one after the other, or as many at a time as the file takes; see `Runner.run`.

        Raises:
            UsageError: the input is longer than the longest signature.

        """
        rows, length = feed["input_ids"].shape
        fitting = next((n for n in self.lengths or (length,) if n >= length), None)
        if fitting is None or length > self.max_length:
            raise UsageError(
                f"the input has {length} tokens, the file takes at most {self.max_length}",
                hint="truncate to the tokenizer's model_max_length, or export with a longer --seq-len",
            )
        size = 1 if rows == 1 else self.max_batch or 1
        spec = self._specs[graph]
        made = [self._rows(spec, feed, slice(i, min(i + size, rows)), size, fitting) for i in range(0, rows, size)]
        return spec.own_of({name: np.concatenate([m[name] for m in made]) for name in made[0]}, {SEQUENCE: length})

    def _rows(
        self, spec: GraphSpec, feed: "Mapping[str, NDArray[np.int64]]", rows: slice, size: int, length: int
    ) -> "dict[str, NDArray[np.float32]]":
        """Run some rows in one call of `size` texts; texts that are missing are padding from end to end."""
        n_rows, padded = rows.stop - rows.start, {}
        for tensor in spec.inputs:
            ids = feed[tensor.name][rows]
            padded[tensor.name] = np.full((size, length), tensor.fill, dtype=np.int32)
            padded[tensor.name][:n_rows, : ids.shape[1]] = ids
        made = (self._any or self._signature(length, size))(**padded)
        return {name: value[:n_rows] for name, value in made.items()}

    def _signature(self, length: int, size: int) -> Any:
        # Memory is laid out when a signature is first asked for: an app that sends short texts never pays for 128.
        key = f"{SIGNATURE}{length}" + (f"{BATCH}{size}" if size > 1 else "")
        if key not in self._signatures:
            self._signatures[key] = self._interpreter.get_signature_runner(key)
        return self._signatures[key]


def _batch(names: list[str]) -> int:
    """Return the texts that the file takes at once, by the names of its signatures."""
    sizes = (name.partition(BATCH)[2] for name in names if name.startswith(SIGNATURE))
    return max([1, *(int(size) for size in sizes if size.isdigit())])


def _info(name: str, detail: Mapping[str, Any]) -> TensorInfo:
    shape = tuple(None if n < 0 else int(n) for n in detail["shape_signature"])
    return TensorInfo(name, np.dtype(detail["dtype"]).name, shape)


def open_interpreter(path: Path, threads: int, *, xnnpack: bool) -> Any:
    """Open a file; `xnnpack` False: with LiteRT's own kernels.

    Raises:
        PackageDamaged: it is no TFLite model.

    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kernels = OpResolverType.AUTO if xnnpack else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    try:
        return Interpreter(model_path=str(path), num_threads=threads, experimental_op_resolver_type=kernels)
    except (ValueError, RuntimeError) as error:
        raise PackageDamaged(f"not a TFLite model ({error})", where=str(path)) from None


def runtime_name(*, xnnpack: bool) -> str:
    from importlib.metadata import version

    return f"ai-edge-litert {version('ai-edge-litert')} CPU{' XNNPACK' * xnnpack}"
