"""What a manifest may hold, key by key and type by type: whatever else stands in one is refused.

Anyone can compute a digest, so nothing of a manifest is trusted but its form, and its size is bounded before it is
read. Tables of facts and options are free, as each stage and check has its own; nobody decides by them.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from converter.bounds.files import UnfitFileError, read_bounded
from converter.errors import PackageDamaged

MOST_BYTES = 8 * 2**20
"""Of a manifest: one of 100 000 labels has about three million."""

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
Text = Annotated[str, msgspec.Meta(max_length=1_000_000)]
Word = Annotated[str, msgspec.Meta(max_length=100)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Size = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Count = Annotated[int, msgspec.Meta(ge=1, le=2**31)]
Whole = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
Table = Annotated[dict[str, Any], msgspec.Meta(max_length=10_000)]
"""Free: any JSON values."""
Numbers = Annotated[dict[Name, float | None], msgspec.Meta(max_length=10_000)]


class _Closed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key that is not declared is refused."""


class File(_Closed, frozen=True, kw_only=True):
    sha256: Sha256
    size_bytes: Size


class Tensor(_Closed, frozen=True, kw_only=True):
    """What a graph declares of an input or output."""

    name: Name
    dtype: Word
    axes: Annotated[list[Size | Name], msgspec.Meta(max_length=16)]
    fill: Whole
    side: Literal["left", "right"]
    draw: Annotated[list[Whole], msgspec.Meta(min_length=2, max_length=2)]


class OpenedTensor(_Closed, frozen=True, kw_only=True):
    """What the opened file says of an input or output; None is a dynamic dimension."""

    name: Name
    dtype: Word
    shape: Annotated[list[Size | None], msgspec.Meta(max_length=16)]


Tensors = Annotated[list[Tensor], msgspec.Meta(min_length=1, max_length=10_000)]
OpenedTensors = Annotated[list[OpenedTensor], msgspec.Meta(min_length=1, max_length=10_000)]


class Signature(_Closed, frozen=True, kw_only=True):
    inputs: OpenedTensors
    outputs: OpenedTensors


class Graph(_Closed, frozen=True, kw_only=True):
    file: Name
    signature: Signature
    inputs: Tensors
    outputs: Tensors


class Tool(_Closed, frozen=True, kw_only=True):
    name: Name
    version: Name


class Prompt(_Closed, frozen=True, kw_only=True):
    name: Text | None
    text: Text


class Source(_Closed, frozen=True, kw_only=True):
    id: Name
    revision: Text | None
    weights_sha256: Annotated[dict[Name, Sha256], msgspec.Meta(max_length=10_000)]
    licence: Text | None
    dtype: Word
    size_bytes: Size
    max_length: Count


class Record(_Closed, frozen=True, kw_only=True):
    """One stage."""

    stage: Name
    options: Table
    facts: Table
    size_bytes_given: Size
    size_bytes_made: Size
    digest_given: Sha256 | None = None
    digest_made: Sha256 | None = None


class TimedRecord(Record, frozen=True, kw_only=True):
    seconds: float
    peak_memory_bytes: Size
    cached: bool = False


class Check(_Closed, frozen=True, kw_only=True):
    """`status` is any word here: one that is no verdict is no PASS, which is for whoever judges to say."""

    name: Name
    status: Word
    value: float | None = None
    limit: float | None = None
    detail: Text = ""


class Deviation(_Closed, frozen=True, kw_only=True):
    output: Name
    max_error: float | None
    mean_error: float | None
    cosine: float | None
    p99_error: float | None = None


class Gate(_Closed, frozen=True, kw_only=True):
    status: Word
    checks: Annotated[list[Check], msgspec.Meta(max_length=1000)]
    deviations: Annotated[list[Deviation], msgspec.Meta(max_length=10_000)]
    agreement: float | None
    metric: Numbers
    source_metric: Numbers
    n_probes: Size
    facts: Table


class TimedGate(Gate, frozen=True, kw_only=True):
    milliseconds: Numbers


class Manifest(_Closed, frozen=True, kw_only=True):
    """What every format has; each adds how it tells of graphs."""

    format: int
    tool: Tool
    target: Name
    target_options: Table
    precision: Name
    task: Name
    labels: Annotated[list[Text], msgspec.Meta(max_length=1_000_000)]
    prompt: Prompt | None = None
    source: Source
    recipe: Table
    rebuild: Annotated[list[Text], msgspec.Meta(max_length=100)]
    versions: Annotated[dict[Name, Name], msgspec.Meta(max_length=1000)]
    platform: Name
    records: Annotated[list[Record], msgspec.Meta(max_length=1000)]
    limits: Annotated[dict[Name, float], msgspec.Meta(max_length=100)]
    relaxed: Annotated[list[Text], msgspec.Meta(max_length=100)]
    gate: Gate
    runtime: Name
    max_length: Count
    max_batch: Count | None
    lengths: Annotated[list[Count], msgspec.Meta(max_length=10_000)]
    replay_tolerance: Annotated[float, msgspec.Meta(ge=0, le=1)]
    beside: Table = {}
    files: Annotated[dict[Text, File], msgspec.Meta(min_length=1, max_length=100_000)]
    manifest_sha256: Sha256

    @property
    def graph_files(self) -> dict[str, str]:
        """Return the file of each graph, by the graph's name."""
        raise NotImplementedError

    @property
    def precision_name(self) -> str:
        """The entry of the target's menu, without its options."""
        return self.precision.partition(":")[0]


class Format1(Manifest, frozen=True, kw_only=True):
    """Of one graph alone: its file, and what the runtime said of it."""

    records: Annotated[list[TimedRecord], msgspec.Meta(max_length=1000)]  # type: ignore[assignment]
    gate: TimedGate
    model_file: Name
    signature: Signature

    @property
    def graph_files(self) -> dict[str, str]:
        from converter.graphs import MODEL

        return {MODEL: self.model_file}


class Format2(Manifest, frozen=True, kw_only=True):
    """Graphs by name. Times and memory stand in it, so that no two runs gave the same bytes."""

    records: Annotated[list[TimedRecord], msgspec.Meta(max_length=1000)]  # type: ignore[assignment]
    gate: TimedGate
    graphs: Annotated[dict[Name, Graph], msgspec.Meta(min_length=1, max_length=100)]

    @property
    def graph_files(self) -> dict[str, str]:
        return {name: graph.file for name, graph in self.graphs.items()}


class Aim(_Closed, frozen=True, kw_only=True):
    target: Name
    precision: Name


class Resolved(_Closed, frozen=True, kw_only=True):
    """What the run found out for itself: with it, the recipe gives the same bytes again."""

    threads: Count | None = None
    aim: Aim | None = None
    measured: Table


class GoldenCounts(_Closed, frozen=True, kw_only=True):
    texts: Count
    same_answers: Size
    sums: Size = 0
    """Weights that are held by sums."""
    calls: Size = 0
    """Of the sweep over the vocabulary."""


class Format3(Manifest, frozen=True, kw_only=True):
    """Nothing of time and memory, and the recipe of this package alone: the same run gives the same bytes."""

    graphs: Annotated[dict[Name, Graph], msgspec.Meta(min_length=1, max_length=100)]
    resolved: Resolved
    golden: GoldenCounts

    @property
    def graph_files(self) -> dict[str, str]:
        return {name: graph.file for name, graph in self.graphs.items()}


FORMATS: dict[int, type[Manifest]] = {1: Format1, 2: Format2, 3: Format3}


def read_manifest_text(path: Path) -> str:
    """Read a manifest's text, its size looked at first.

    Raises:
        PackageDamaged: it is missing, larger than `MOST_BYTES`, no regular file, or no UTF-8.

    """
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise PackageDamaged("the manifest is a link, or no regular file", where=str(path))
        return read_bounded(path, MOST_BYTES).decode()
    except (FileNotFoundError, NotADirectoryError):
        raise PackageDamaged("there is no manifest.json: not a sealed package", where=str(path.parent)) from None
    except UnfitFileError:  # its kind was looked at
        raise PackageDamaged(f"the manifest has more than {MOST_BYTES // 2**20} MB", where=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise PackageDamaged(f"the manifest cannot be read ({error})", where=str(path)) from None


def parse(text: str, path: Path) -> dict[str, Any]:
    """Return the table of a manifest's text: JSON without NaN and infinities.

    Raises:
        PackageDamaged: it is not that.

    """
    try:
        table = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise PackageDamaged(f"the manifest cannot be read ({error})", where=str(path)) from None
    if not isinstance(table, dict) or type(table.get("format")) is not int or table["format"] not in FORMATS:
        raise PackageDamaged("the manifest has a format that this version does not read", where=str(path))
    return table


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def check_manifest(text: str, path: Path, number: int) -> Manifest:
    """Return a manifest's text of format `number`, typed.

    Raises:
        PackageDamaged: names the first entry that is missing, unknown, of another type or out of bounds.

    """
    try:
        return msgspec.json.decode(text, type=FORMATS[number])
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError) as error:
        raise PackageDamaged(
            f"required entries are missing from the manifest, or it has others ({error})",
            where=str(path),
            hint="download the package again, or rebuild it",
        ) from None
