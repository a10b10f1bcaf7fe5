"""A TFLite file in LiteRT, as an app runs it: one text at a time, padded to the nearest length the file offers."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.errors import PackageDamaged, UsageError
from converter.examples import INPUT_NAMES, PadIds
from converter.lowering.model import ANY_SIGNATURE, SIGNATURE
from converter.target import Runner, TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPAN_OUTPUTS = ("start_logits", "end_logits")
"""Outputs `[batch, length]`; the other outputs with a length axis have three axes."""


class TfliteRunner(Runner):
    """Opens a file with signatures `serving_<length>`, or with one that takes any length.

    `xnnpack` False: LiteRT's own kernels, slower, but without a second, packed copy of the weights per signature.

    Raises:
        PackageDamaged: the file is no TFLite model, or has none of those signatures.

    """

    max_batch = 1

    def __init__(self, path: Path, pad: PadIds, threads: int = 1, *, xnnpack: bool = True) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        kernels = OpResolverType.AUTO if xnnpack else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        try:
            self._interpreter = Interpreter(
                model_path=str(path), num_threads=threads, experimental_op_resolver_type=kernels
            )
        except (ValueError, RuntimeError) as error:
            raise PackageDamaged(f"not a TFLite model ({error})", where=str(path)) from None
        names = self._interpreter.get_signature_list()
        found, any_up_to = _lengths(names)
        if not found and any_up_to is None:
            raise PackageDamaged(
                f"the file has no signature {SIGNATURE}<length>; it has {', '.join(names) or 'none'}", where=str(path)
            )
        self.lengths = found
        self.max_length = any_up_to or found[-1]
        self.runtime = f"ai-edge-litert {_version()} CPU{' XNNPACK' * xnnpack}"
        self._pad = pad
        self._signatures: dict[int, Any] = {}
        self._any = None if any_up_to is None else self._interpreter.get_signature_runner(f"{ANY_SIGNATURE}{any_up_to}")
        shortest = self._any or self._signature(found[0])
        details = shortest.get_input_details()
        self.inputs = tuple(_spec(n, details[n]) for n in INPUT_NAMES if n in details)
        self.outputs = tuple(_spec(n, d) for n, d in sorted(shortest.get_output_details().items()))

    def run(self, feed: "Mapping[str, NDArray[np.int64]]") -> "dict[str, NDArray[np.float32]]":
        """Run the rows one after the other; see `Runner.run`.

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
        made = [self._row({n: feed[n][i] for n in (s.name for s in self.inputs)}, fitting) for i in range(rows)]
        return {name: _cut(name, np.concatenate([m[name] for m in made]), length) for name in made[0]}

    def _row(self, row: "Mapping[str, NDArray[np.int64]]", length: int) -> "dict[str, NDArray[np.float32]]":
        padded = {}
        for name, ids in row.items():
            padded[name] = np.full((1, length), self._pad.ids[name], dtype=np.int32)
            padded[name][0, : len(ids)] = ids
        return dict((self._any or self._signature(length))(**padded))

    def _signature(self, length: int) -> Any:
        # Memory is laid out when a signature is first asked for: an app that sends short texts never pays for 128.
        if length not in self._signatures:
            self._signatures[length] = self._interpreter.get_signature_runner(f"{SIGNATURE}{length}")
        return self._signatures[length]


def _lengths(names: list[str]) -> tuple[tuple[int, ...], int | None]:
    """Return the fixed lengths of a file, and the longest where it takes any."""
    up_to = [n.removeprefix(ANY_SIGNATURE) for n in names if n.startswith(ANY_SIGNATURE)]
    fixed = sorted(int(n.removeprefix(SIGNATURE)) for n in names if n.removeprefix(SIGNATURE).isdigit())
    return tuple(fixed), int(up_to[0]) if up_to and up_to[0].isdigit() else None


def _spec(name: str, detail: Mapping[str, Any]) -> TensorSpec:
    shape = tuple(None if n < 0 else int(n) for n in detail["shape_signature"])
    return TensorSpec(name, np.dtype(detail["dtype"]).name, shape)


def _cut(name: str, value: "NDArray[np.float32]", length: int) -> "NDArray[np.float32]":
    return value[:, :length] if value.ndim == 3 or name in SPAN_OUTPUTS else value


def _version() -> str:
    from importlib.metadata import version

    return version("ai-edge-litert")
