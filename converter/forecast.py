"""What a recipe would make, before it is made: sizes by what packages store, and work by what stages read."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from converter.errors import SourceError
from converter.resources import AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from converter.artifact import TorchModel
    from converter.family import CrossParts, Family, LayerParts

MATRIX = 32
"""A parameter with fewer rows or columns is a bias, a norm or a classifier: it stays float in int8."""
SCALE_BYTES = 4
COPIES_IN_MEMORY = 3.0
"""Float32 weights that an export has in memory at once at least (benchmarks/results/memory.json: 3.0 to 3.9)."""
MAPPED_FROM = 1_000_000_000
"""Bytes of weights that a checkpoint stores in fewer bits from which they are kept in a file, not in memory."""
LIBRARIES_MAP = 150_000_000
"""Bytes of addresses that exporters take at least beside the libraries that load a model (172 MB on a tiny model)."""
PASSED_BY = 350_000_000
"""Bytes of what libraries keep while a model that writes text is run."""
JUDGED_TOKENS = 1536
"""Tokens whose logits are kept, once of the source and once of a package: 48 texts, each with its answer."""
SPARE_MATRICES = {"int4": 9, "int8": 6}
"""Copies of a matrix that rounding it in blocks takes: by moments what is left, made, lost and its steps."""
ROUNDING = 28
"""Bytes for each pair of a product's inputs that rounding it by their second moments takes."""
EXPORTERS = 150_000_000
"""Bytes of the libraries that export and run a graph, beside those that load a model."""
PROOF = 150_000_000
"""Bytes that checks of a package take beside it and the largest table: what is computed, and a layer of the source."""
MAX_ROWS = 4096
"""Tokens that are kept of each value that products read: enough to know the second moments of 3072 channels."""
ROW_BYTES = 2
"""Of each channel of such a token."""
COPIES_ON_DISK = 1.0
"""Float32 weights that it writes beside the packages, at least: the graph before it is quantized."""


@dataclass(frozen=True)
class Table:
    """The word embeddings: `parameters` as the package stores weights, `fixed_bytes` in any (codes, ids)."""

    rows: int
    width: int
    parameters: int
    fixed_bytes: int = 0

    def bytes(self, stored: float) -> int:
        scales = self.rows * SCALE_BYTES if stored == 1 and not self.fixed_bytes else 0
        return self.fixed_bytes + round(self.parameters * stored) + scales


@dataclass(frozen=True)
class Forecast:
    """A model as it would be, and what has been spent on making it."""

    table: Table
    matrices: int
    """Parameters of all other matrices."""
    others: int
    """Biases, norms, classifiers."""
    widths: tuple[tuple[int, int], ...] = ()
    """Heads and neurons of each layer; empty where the family is not known."""
    passes: float = 0.0
    """Texts that were run through the whole model once; a backward pass counts twice."""
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        return self.table.parameters + self.matrices + self.others

    def bytes(self, stored: float) -> int:
        """Return the bytes of the weights in a package that has `stored` bytes a weight.

        Graph and names add some hundred kilobytes.
        """
        return self.table.bytes(stored) + round(self.matrices * stored) + self.others * (2 if stored == 2 else 4)


@dataclass(frozen=True)
class MemoryNeed:
    """What one part of a run takes, in bytes beside the libraries."""

    part: str
    held: int
    """That the system cannot take back."""
    mapped: int = 0
    """Pages of files: they count as the process's as long as nobody else needs the room."""

    @property
    def bytes(self) -> int:
        return self.held + self.mapped


def memory_of_export(model: "TorchModel", precisions: "Sequence[tuple[str, float]]", *, onnx: bool) -> list[MemoryNeed]:
    """Return what each part of an export takes; `precisions` are names and bytes a weight of what is made.

    `onnx` False: for other targets too, whose converters hold several copies. Of models that write text the weights
    lie in files from the export on, and each part has read those of one.
    """
    whole = model.size_bytes
    short = model.provenance.dtype != "float32"
    if model.cache is None or not onnx:
        mapped = 0 if short else whole
        return [MemoryNeed("export", int(COPIES_IN_MEMORY * whole) - mapped, mapped)]
    checkpoint = whole // 2 if short else 0
    loaded = MemoryNeed("loading", whole if short else 0, checkpoint or whole)
    stays = whole if short and whole < MAPPED_FROM else 0
    package = max(forecast_of(model).bytes(stored) for _, stored in precisions)
    kept = PASSED_BY + JUDGED_TOKENS * 4 * model.cache.vocabulary
    spare = max(SPARE_MATRICES.get(name, 0) for name, _ in precisions) * _largest_matrices(model)
    return [
        loaded,
        MemoryNeed("its own library", loaded.held + stays + kept, loaded.mapped),
        MemoryNeed("export", stays + kept, whole),
        MemoryNeed("quantization", stays + kept + spare, whole),
        MemoryNeed("checks", stays + 2 * (package + kept) - PASSED_BY, whole - stays),
    ]


def disk_of_export(model: "TorchModel", precisions: "Sequence[tuple[str, float]]") -> int:
    """Return the bytes that an export writes at least: packages, the graph in float32, and what it rounds on the way.

    `precisions` are names and bytes a weight of what is made. Weights of a model that writes text are rounded into
    files of their own before the graph takes them over: those of one package at a time.
    """
    forecast = forecast_of(model)
    sizes = [(name, forecast.bytes(stored)) for name, stored in precisions]
    rounded = [size for name, size in sizes if name in SPARE_MATRICES and model.cache is not None]
    return sum(size for _, size in sizes) + max(rounded, default=0) + int(COPIES_ON_DISK * model.size_bytes)


def needs_by_pieces(model: "TorchModel", packages: "Sequence[int]") -> tuple[MemoryNeed, int]:
    """Return the most memory that an export takes of an encoder whose weights are on disk, and the disk.

    `packages` are the bytes of what is made, candidates among it, in this order. On disk are the float graph, a copy of
    it that is observed or smoothed, what is observed or else rounded weights, and each package twice.
    """
    widest = max((p.shape[-1] for p in model.module.parameters() if _is_matrix(p)), default=0)
    table = 4 * forecast_of(model).table.parameters
    checks = MemoryNeed("checks of the package", EXPORTERS + max(packages) + int(1.25 * table) + PROOF)
    rounding = MemoryNeed("quantization", EXPORTERS + ROUNDING * widest**2)
    on_the_way = (max(_observed_bytes(model), 2 * size) + 2 * sum(packages[:i]) for i, size in enumerate(packages))
    return max(rounding, checks, key=lambda need: need.bytes), 2 * model.size_bytes + max(on_the_way)


def _observed_bytes(model: "TorchModel") -> int:
    """Return the bytes of the tokens that are kept of what flows into the products of an encoder's layers."""
    import torch

    family, parts = _layers_of(model)
    if family is None:
        return (
            ROW_BYTES * MAX_ROWS * sum(m.in_features for m in model.module.modules() if isinstance(m, torch.nn.Linear))
        )
    n_passes = model.config.num_hidden_layers if family.shares_layers else 1
    # Query, key and value read one of them.
    each = (2 * p.ffn_input.in_features + p.attention_output.in_features + p.ffn_output.in_features for p in parts)
    return ROW_BYTES * MAX_ROWS * n_passes * sum(each)


def needs_of_rest(kept: int, packages: "Sequence[int]") -> tuple[MemoryNeed, int]:
    """Return the memory and the disk that `kept` bytes of a model take which stages bring into memory from disk.

    `packages` are the bytes of what is made of it; none where further stages are to change it first.
    """
    copies, disk = (COPIES_IN_MEMORY, int(COPIES_ON_DISK * kept)) if packages else (2, 0)
    return MemoryNeed("what the first stages leave", int(copies * kept)), kept + disk + sum(packages)


def _largest_matrices(model: "TorchModel") -> int:
    """Return the bytes of the largest matrices in float32, as many as are rounded beside each other."""
    sizes = sorted((p.nbytes for p in model.module.parameters() if p.dim() == 2), reverse=True)
    return sum(sizes[:AT_ONCE])


def _layers_of(model: "TorchModel") -> "tuple[Family | None, Sequence[LayerParts]]":
    """Return family and layers of a model; none where they are not known, or of a kind that is exported alone."""
    from converter.registry import families

    family = families().get(str(model.config.model_type))
    if family is None or (model.cache is None and family.writes):
        return None, ()
    try:
        return family, family.layers(model.module)
    except SourceError:  # an ALBERT of several groups of layers
        return None, ()


def forecast_of(model: "TorchModel") -> Forecast:
    """Return the forecast of a model to which nothing is done."""
    module = model.module
    table = module.get_input_embeddings()  # type: ignore[operator]
    own = {id(t) for t in table.parameters()}
    rest = [p for p in module.parameters() if id(p) not in own]
    matrices = sum(p.numel() for p in rest if _is_matrix(p))
    rows, width = table.weight.shape
    words = sum(p.numel() for p in table.parameters())
    fixed = sum(b.numel() * b.element_size() for b in table.buffers())
    return Forecast(
        Table(rows, width, words, fixed),
        matrices,
        sum(p.numel() for p in rest) - matrices,
        tuple((p.n_heads, p.n_neurons) for p in _layers_of(model)[1]),
    )


def with_widths(now: Forecast, model: "TorchModel", widths: tuple[tuple[int, int], ...]) -> Forecast:
    """Return the forecast with other heads and neurons in each layer of `model`."""
    from converter.registry import families

    family = families().get(str(model.config.model_type))
    if family is None or not now.widths:
        return now
    if family.writes:
        if family.fixed_heads:
            widths = tuple((heads, neurons) for (heads, _), (_, neurons) in zip(now.widths, widths, strict=True))
        gone = _gone_of_writer(family.layers(model.module), now.widths, widths)
        return replace(now, matrices=now.matrices - gone, widths=widths)
    part = family.layers(model.module)[0]
    hidden = part.attention_output.out_features
    head = 4 * hidden * part.head_dim
    neuron = hidden * (2 + (0 if part.ffn_input.out_features == part.n_neurons else 1))
    gone = sum((h - a) * head + (n - b) * neuron for (h, n), (a, b) in zip(now.widths, widths, strict=True))
    return replace(now, matrices=now.matrices - gone, widths=widths)


def _gone_of_writer(
    parts: "Sequence[LayerParts]", before: "Sequence[tuple[int, int]]", after: "Sequence[tuple[int, int]]"
) -> int:
    """Return the parameters that go with heads and neurons; cross-attention loses the same share."""
    known = parts if len(parts) == len(before) else [parts[-1]] * len(before)
    gone = 0.0
    for part, (heads, neurons), (heads_left, neurons_left) in zip(known, before, after, strict=True):
        attentions: list[LayerParts | CrossParts] = [part, part.cross] if part.cross else [part]
        linears = [m for a in attentions for m in (*a.projections, a.attention_output)]
        sizes = [sum(p.numel() for m in row for p in m.parameters()) for row in (linears, _ffn(part))]
        gone += sizes[0] * (1 - heads_left / max(1, heads)) + sizes[1] * (1 - neurons_left / max(1, neurons))
    return round(gone)


def _ffn(part: "LayerParts") -> "list[torch.nn.Module]":
    return [*part.ffn_inputs, part.ffn_output]


def spent(now: Forecast, *, passes: float = 0.0, note: str = "") -> Forecast:
    """Return the forecast after work of so many passes."""
    notes = (*now.notes, note) if note else now.notes
    return replace(now, passes=now.passes + passes, notes=notes)


def _is_matrix(parameter: "torch.nn.Parameter") -> bool:
    return parameter.dim() == 2 and min(parameter.shape) >= MATRIX
