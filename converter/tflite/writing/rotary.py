"""Rotary positions that change with the length of a text: in a cache of fixed size they may not."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from converter.errors import UsageError
from converter.generate.positions import LONGROPE, is_changing, kinds_of


def refuse_changing_positions(model: Any, cache: int) -> None:
    """Raise `UsageError` where a cache is longer than the texts for which positions stay what they are."""
    for kind, limit in _changing(model):
        if limit is not None and cache > limit:
            raise UsageError(
                f"positions of {kind} are computed otherwise for texts of more than {limit} tokens, so a cache of "
                f"{cache} positions cannot keep what it has read",
                where="tflite.cache",
                hint=f"--target tflite:cache={limit}, or export to ONNX: --target cpu-int8",
            )


@contextmanager
def settled_positions(model: Any) -> Iterator[None]:
    """Positions as they are for texts that are not too long, without the choice, which cannot be traced."""
    found = [m for m in model.modules() if any(is_changing(kind) for kind in kinds_of(m).values())]
    before = [(m, m.rope_type, {n: b.clone() for n, b in m.named_buffers(recurse=False)}) for m in found]
    for module, kinds, _ in before:
        for layers in kinds_of(module):
            # The longest text so far decides what is there.
            prefix = f"{layers}_" if layers else ""
            getattr(module, f"{prefix}inv_freq").copy_(getattr(module, f"{prefix}original_inv_freq"))
        module.rope_type = dict.fromkeys(kinds, "default") if isinstance(kinds, dict) else "default"
    try:
        yield
    finally:
        for module, kinds, buffers in before:
            module.rope_type = kinds
            for name, values in buffers.items():
                getattr(module, name).copy_(values)


def _changing(model: Any) -> Iterator[tuple[str, int | None]]:
    """Yield the kinds of positions that change, each with the tokens up to which they do not."""
    for module in model.modules():
        for layers, kind in kinds_of(module).items():
            if is_changing(kind):
                table = module.config.rope_parameters
                table = table[layers] if layers else table
                learned = table.get("original_max_position_embeddings")
                # Those that grow (dynamic) begin to at the model's own positions.
                yield kind, learned if kind == LONGROPE else int(module.config.max_position_embeddings)
