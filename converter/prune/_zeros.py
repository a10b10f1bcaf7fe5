"""What zeros are worth, said honestly: how many there are, and what a compressed archive makes of them."""

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from converter.artifact import TorchModel, stored_weight
from converter.errors import RecipeError
from converter.stage import Context

if TYPE_CHECKING:
    import torch


HONESTLY = (
    "weights are zero, but matrices keep their shape: the file is neither faster nor smaller, only its compressed "
    "archive is. ONNX Runtime has no sparse kernels; XNNPACK's are for convolutions, and crash on a "
    "sparse linear layer; LiteRT's own (blocks 1x4 in float32, 1x16 in int8) are slower than XNNPACK's dense ones up "
    "to 80 % zeros in float32 and 95 % in int8 (benchmarks/sparse_kernels.py)"
)
SAMPLE = 1 << 20
"""Float weights that are compressed to measure the archive size."""
LEVEL = 6
"""Of deflate, as archives and downloads use it."""


def describe_zeros(given: TorchModel, made: TorchModel, ctx: Context) -> dict[str, Any]:
    """Return the facts of a pruning that leaves all shapes alone."""
    from converter.prune.threshold import encoder_linears
    from converter.validate.cost import cost_of

    before, linears = encoder_linears(given), encoder_linears(made)
    zeros = {name: int((stored_weight(m) == 0).sum()) for name, m in linears.items()}
    sizes = {name: m.weight.numel() for name, m in linears.items()}
    with ctx.progress.task("Compressing to measure the archive size"):
        archive = {
            "int8_bytes": sum(sizes.values()),
            "deflated_before": deflated_int8(before),
            "deflated_after": deflated_int8(linears),
        }
    return {
        "sparsity": sum(zeros.values()) / sum(sizes.values()),
        "weights": sum(sizes.values()),
        "zeros": sum(zeros.values()),
        "sparsity_of_matrices": {name: round(zeros[name] / sizes[name], 4) for name in linears},
        "archive_ratio": _float_ratio(linears),
        "archive_of_matrices": archive,
        "cost": cost_of(given, made, ctx),
        "note": HONESTLY,
    }


def refuse_empty(linears: "Mapping[str, torch.nn.Linear]") -> None:
    """Raise where a matrix has no weight left: its layer would answer the same to every text."""
    for name, linear in linears.items():
        if not bool(stored_weight(linear).any()):
            raise RecipeError(
                f"no weights would be left in {name}",
                where="prune.threshold",
                hint="a smaller sparsity or block, or scope=layer",
            )


def deflated_int8(linears: "Mapping[str, torch.nn.Linear]") -> int:
    """Return the bytes of the matrices, rounded to int8 as packages store them, deflated."""
    from converter.onnx.rewrites.integer_products import round_weights

    made = zlib.compressobj(LEVEL)
    n_bytes = 0
    for linear in linears.values():
        n_bytes += len(made.compress(round_weights(stored_weight(linear).detach().numpy().T).values.tobytes()))
    return n_bytes + len(made.flush())


def _float_ratio(linears: "Mapping[str, torch.nn.Linear]") -> float:
    """Return compressed over plain size of the first weights, in float32."""
    taken, size = [], 0
    for linear in linears.values():
        taken.append(stored_weight(linear).detach().flatten()[: SAMPLE - size].numpy().tobytes())
        size += min(linear.weight.numel(), SAMPLE - size)
    plain = b"".join(taken)
    return round(len(zlib.compress(plain, LEVEL)) / len(plain), 4)
