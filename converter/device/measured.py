"""What a device printed: LiteRT's `benchmark_model` as text (of a terminal or of logcat), JSON or CSV, in one form."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from converter.errors import DataError
from converter.tflite.model import BATCH, SIGNATURE

HINT = "run benchmark_model as samples/README.md of the package says, and keep all that it prints"
PREFIX = re.compile(r"^.*?\btflite\s*(?:\(\s*\d+\))?\s*:\s|^\s*(?:INFO|VERBOSE|WARNING|ERROR):\s")
"""What logcat or the tool's own log puts before a line."""
TIMINGS = re.compile(
    r"Inference timings in us: Init: ([\d.e+]+), First inference: ([\d.e+]+), "
    r"Warmup \(avg\): ([\d.e+]+), Inference \(avg\): ([\d.e+]+)"
)
TROUBLE = re.compile(r"error|fail|not found|no devices|denied", re.IGNORECASE)
RUNS = re.compile(r"count=(\d+)(?: first=\S+)?(?: curr=\S+)? min=([\d.e+]+) max=([\d.e+]+) avg=\S+ std=([\d.e+]+)")
SETTINGS = {
    "signature": re.compile(r"Signature to run: \[([^\]]*)\]"),
    "shapes": re.compile(r"Input shapes: \[1,(\d+)"),
    "threads": re.compile(r"(?:Num threads|#threads used for CPU inference): \[(-?\d+)\]"),
    "model_mb": re.compile(r"The input model file size \(MB\): ([\d.]+)"),
    "peak_mb": re.compile(r"Overall peak memory footprint \(MB\) via periodic monitoring: ([\d.]+)"),
    "gpu": re.compile(r"Use gpu: \[(1)\]|Created TensorFlow Lite (delegate) for GPU"),
}
NAMES = {
    "milliseconds": ("inference_avg", "avg", "average", "milliseconds", "inference", "latency", "median"),
    "init_ms": ("init", "initialization", "load"),
    "first_ms": ("first_inference", "first"),
    "warmup_ms": ("warmup_avg", "average_warm_up", "warmup"),
    "std_ms": ("std", "stddev", "inference_std"),
    "min_ms": ("min",),
    "max_ms": ("max",),
    "peak_mb": ("overall_peak_memory", "peak_mem", "peak_memory", "peak"),
    "runs": ("runs", "count", "num_runs"),
    "threads": ("threads", "num_threads"),
    "length": ("length", "tokens", "seq_len"),
    "model_mb": ("model_size", "model_file_size", "file_size"),
    "batch": ("batch", "batch_size"),
    "texts_per_call": (),
}
"""Names in JSON and CSV, without their units; nested tables are read as one. `bench --json` is understood too."""
GPU = ("gpu", "use_gpu")
YES, NO = {"true", "1", "yes", "gpu"}, {"false", "0", "no", "cpu"}
A_CALL = ("milliseconds", "warmup_ms", "std_ms", "min_ms", "max_ms")
SCALES = {"us": 1e-3, "ms": 1.0, "s": 1e3, "mb": 1.0, "bytes": 1e-6, "kb": 1e-3}


@dataclass(frozen=True)
class Measurement:
    """One run of one length on one device. Times in milliseconds, memory in megabytes; None: not told."""

    milliseconds: float
    """Mean of the steady runs; of a call of several texts, what one takes of it."""
    length: int | None = None
    threads: int | None = None
    init_ms: float | None = None
    first_ms: float | None = None
    warmup_ms: float | None = None
    std_ms: float | None = None
    min_ms: float | None = None
    max_ms: float | None = None
    runs: int | None = None
    peak_mb: float | None = None
    model_mb: float | None = None
    gpu: bool = False
    texts_per_call: int = 1


def read_measurements(path: Path) -> list[Measurement]:
    """Read what a device printed; several runs may stand in one file.

    Raises:
        DataError: the file cannot be read, or holds no measurement; says which line or key is missing.

    """
    try:
        held = path.read_bytes()
        # What `>` writes in Windows PowerShell 5.
        wide = held.startswith((b"\xff\xfe", b"\xfe\xff"))
        text = held.decode("utf-16" if wide else "utf-8-sig", errors="replace")
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path)) from None
    if text.lstrip()[:1] in {"{", "["}:
        found = list(_json(text, path))
    elif "Inference timings in us" in text or "STARTING!" in text or not _looks_like_csv(text):
        found = list(_printed(text, path))
    else:
        found = [_row(row, f"{path}, line {i + 2}") for i, row in enumerate(csv.DictReader(io.StringIO(text)))]
    if not found:
        raise DataError("there is no measurement in it", where=str(path), hint=HINT)
    return found


def _looks_like_csv(text: str) -> bool:
    head = text.lstrip().split("\n", 1)[0]
    return "," in head and not re.search(r"\d", head.split(",")[0])


def _printed(text: str, path: Path) -> Iterator[Measurement]:
    """Every line of timings ends a run; memory is told after it, all else before."""
    lines = [PREFIX.sub("", line) for line in text.splitlines()]
    ends = [i for i, line in enumerate(lines) if TIMINGS.search(line)]
    if not ends:
        wrong = next((line for line in lines if TROUBLE.search(line)), "")
        why = f'; it says "{wrong.strip()[:120]}"' if wrong else ""
        raise DataError(f"there is no line of inference timings in it{why}", where=str(path), hint=HINT)
    starts = [0, *(_next_start(lines, end) for end in ends[:-1]), len(lines)]
    for begin, end, after in zip(starts, ends, starts[1:], strict=False):
        yield _one_run(lines[begin:after], lines[end])


def _next_start(lines: list[str], end: int) -> int:
    """Return where the next run begins: at its banner, else at the line after the last one's timings."""
    return next((i for i in range(end, len(lines)) if "STARTING!" in lines[i]), end + 1)


def _one_run(lines: list[str], timings: str) -> Measurement:
    told: dict[str, str] = {}
    for line in lines:
        for name, pattern in SETTINGS.items():
            found = pattern.search(line)
            if found:
                told[name] = next(g for g in found.groups() if g is not None)
    counts = [m for line in lines if (m := RUNS.search(line))]
    # The tool tells of the warm-up first, of the steady runs last.
    steady = counts[-1].groups() if counts else (None, None, None, None)
    init, first, warmup, average = (float(x) / 1000 for x in TIMINGS.search(timings).groups())  # type: ignore[union-attr]
    length, batch = _signature(told.get("signature", ""))
    call = Measurement(
        milliseconds=average,
        length=length or (int(told["shapes"]) if "shapes" in told else None),
        threads=int(told["threads"]) if int(told.get("threads", -1)) > 0 else None,
        init_ms=init,
        first_ms=first,
        warmup_ms=warmup,
        runs=None if steady[0] is None else int(steady[0]),
        min_ms=_milliseconds(steady[1]),
        max_ms=_milliseconds(steady[2]),
        std_ms=_milliseconds(steady[3]),
        peak_mb=float(told["peak_mb"]) if "peak_mb" in told else None,
        model_mb=float(told["model_mb"]) if "model_mb" in told else None,
        gpu="gpu" in told,
    )
    return _a_text(call, batch)


def _milliseconds(microseconds: str | None) -> float | None:
    return None if microseconds is None else float(microseconds) / 1000


def _signature(name: str) -> tuple[int | None, int]:
    """Return the length that a signature is named after, if it is, and the texts that it takes at once."""
    length, _, texts = name.removeprefix(SIGNATURE).partition(BATCH)
    return (int(length), int(texts) if texts.isdigit() else 1) if length.isdigit() else (None, 1)


def _a_text(call: Measurement, batch: int) -> Measurement:
    """Tell a call of several texts as one text's share: the reports say what one text takes."""
    if batch <= 1:
        return call
    shares = {name: value / batch for name in A_CALL if (value := getattr(call, name)) is not None}
    return replace(call, texts_per_call=batch, **shares)


def _json(text: str, path: Path) -> Iterator[Measurement]:
    try:
        table = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"not a JSON file ({error})", where=str(path), hint=HINT) from None
    for i, row in enumerate(table if isinstance(table, list) else [table]):
        if not isinstance(row, dict):
            raise DataError(f"wanted a table, found {type(row).__name__}", where=f"{path}, entry {i + 1}", hint=HINT)
        yield _row(dict(_flat(row)), f"{path}, entry {i + 1}")


def _flat(table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value)
        else:
            yield str(key), value


def _row(row: Mapping[str, Any], where: str) -> Measurement:
    """Read one row of names with units: `inference_avg_us`, `init_ms`, `peak_mem_mb`."""
    found: dict[str, float] = {}
    gpu = False
    for key, value in row.items():
        spelled = str(key).strip().lower().replace("-", "_").replace(" ", "_")
        name, scale = _unit(spelled)
        field = next((f for f, names in NAMES.items() if name in names or spelled == f), None)
        if value in (None, ""):
            continue
        if field is not None:
            found[field] = _number(value, f"{where}, {key}") * scale
        gpu |= _on_gpu(spelled, str(value).strip().lower(), f"{where}, {key}")
    if "milliseconds" not in found:
        raise DataError(
            "there is no inference time in it", where=where, hint=f"wanted inference_avg_us or avg_ms. Else {HINT}"
        )
    length, batch = _signature(str(row.get("signature", "")))
    length, batch = int(found.pop("length", length or 0)) or None, int(found.pop("batch", batch))
    whole = {name: int(found.pop(name)) for name in ("threads", "runs", "texts_per_call") if name in found}
    return _a_text(Measurement(**found, **whole, length=length, gpu=gpu), batch)  # type: ignore[arg-type]


def _on_gpu(name: str, word: str, where: str) -> bool:
    if name == "delegate":
        return "gpu" in word
    if name in GPU and word not in YES | NO:
        raise DataError(f"wanted true or false, found {word!r}", where=where, hint='"gpu": true')
    return name in GPU and word in YES


def _unit(name: str) -> tuple[str, float]:
    head, _, unit = name.rpartition("_")
    return (head, SCALES[unit]) if head and unit in SCALES else (name, 1.0)


def _number(value: Any, where: str) -> float:
    try:
        made = float(value)
    except (TypeError, ValueError):
        raise DataError(f"wanted a number, found {value!r}", where=where, hint=HINT) from None
    if not 0 <= made < float("inf"):
        raise DataError(f"wanted a number from 0 on, found {value!r}", where=where, hint=HINT)
    return made
