"""A second reading of the shipped file: TensorFlow's own interpreter with reference kernels, on a few texts."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.errors import ExportError
from converter.examples import pad_batch
from converter.graphs import MODEL, SEQUENCE
from converter.scoring.relative_error import REPLAY_FLOOR, relative_error
from converter.tflite.file import in_blocks
from converter.tflite.model import SIGNATURE
from converter.validate.checks import Check, Status

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.reference import Probe, Reference
    from converter.target import Runner

CHECK = "second opinion"
TEXTS = 4
FLOAT_LIMIT = 1e-3
"""Of the output range: 6e-7 was measured."""
INTEGER_LIMIT = 0.25
"""Reference kernels round activations to one scale a row, XNNPACK to a scale and a zero point: 0.04 was measured on
MiniLM. What this is to find (a scale, a transposition, a wrong sign) is off by the whole range."""
SECONDS = 120
CHILD = Path(__file__).with_name("_reference.py")


def second_opinion(
    model: Path, source: "TorchModel", reference: "Reference", runner: "Runner", work: Path
) -> tuple[Check, dict[str, Any]]:
    """Compare the package's runtime with TensorFlow's on texts of the shortest lengths; NOT_RUN where it is absent.

    Reference kernels are slow: a handful of short texts tells a kernel that reads the file otherwise as well as all do.
    """
    if not runner.lengths:
        return Check(CHECK, Status.NOT_RUN, detail="it needs fixed sequence lengths, and the file takes any"), {}
    if in_blocks(model):
        detail = "TensorFlow's reference kernels do not support block-wise quantized weights"
        return Check(CHECK, Status.NOT_RUN, detail=detail), {}
    if importlib.util.find_spec("tensorflow") is None:
        detail = "TensorFlow is not installed: pip install 'plm-export[tensorflow]'"
        return Check(CHECK, Status.NOT_RUN, detail=detail), {}
    chosen = sorted(reference.probes, key=lambda p: p.encoding.length)[:: max(1, len(reference.probes) // 8)][:TEXTS]
    if not chosen:
        return Check(CHECK, Status.NOT_RUN, detail="there are no texts to compare"), {}
    limit = INTEGER_LIMIT if _has_integers(model) else FLOAT_LIMIT
    with TemporaryDirectory(dir=work) as folder:
        said = _ask(Path(folder), model, source, chosen, runner)
        if said:
            return Check(CHECK, Status.NOT_RUN, None, limit, f"TensorFlow's interpreter does not run it: {said}"), {}
        with np.load(Path(folder) / "made.npz") as opened:
            worst = _worst(dict(opened), chosen, source, reference, runner)
        warnings = _warnings((Path(folder) / "forecast.txt").read_text(encoding="utf-8"))
    # Written so that NaN fails.
    status = Status.PASS if worst <= limit else Status.FAIL
    detail = (
        f"TensorFlow's interpreter with reference kernels is within {worst:.2g} of the output range on {len(chosen)} "
        f"texts; at most {limit:g} wanted"
    )
    return Check(CHECK, status, worst, limit, detail), {"gpu_analyzer": warnings} if warnings else {}


def _ask(folder: Path, model: Path, source: "TorchModel", probes: "Sequence[Probe]", runner: "Runner") -> str:
    """Run the child; returns what went wrong in a line, empty where nothing did."""
    feeds: dict[str, Any] = {}
    texts = {}
    for i, probe in enumerate(probes):
        length = next(n for n in runner.lengths if n >= probe.encoding.length)
        texts[str(i)] = f"{SIGNATURE}{length}"
        batch = pad_batch([probe.encoding], source.specs[MODEL], {SEQUENCE: length})
        feeds |= {f"{i}.{name}": rows.astype(np.int32) for name, rows in batch.items()}
    (folder / "job.json").write_text(json.dumps({"model": str(model.resolve()), "texts": texts}), encoding="utf-8")
    np.savez(folder / "feeds.npz", **feeds)
    try:
        done = subprocess.run(  # noqa: S603 - our own file, by the interpreter that runs us
            [sys.executable, str(CHILD), str(folder)], capture_output=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it took more than {SECONDS} seconds"
    except OSError as error:
        raise ExportError(f"cannot start a process for the second opinion ({error.strerror})") from None
    if done.returncode == 0:
        return ""
    lines = [x for x in done.stderr.decode(errors="replace").splitlines() if ": " in x and not x.startswith(" ")]
    return lines[-1][:200] if lines else f"it ended with {done.returncode}"


def _worst(
    made: dict[str, Any], probes: "Sequence[Probe]", source: "TorchModel", reference: "Reference", runner: "Runner"
) -> float:
    """Return the largest distance between both runtimes over the output range, on the texts' own tokens."""
    worst = 0.0
    for i, probe in enumerate(probes):
        spec = source.specs[MODEL]
        mine = runner.run(MODEL, pad_batch([probe.encoding], spec))
        others = spec.own_of({name: made[f"{i}.{name}"] for name in mine}, probe.encoding.lengths)
        for name, value in mine.items():
            error = relative_error(others[name], value, reference.output_range.get(name, 0.0), REPLAY_FLOOR)
            worst = error if not error <= worst else worst
    return worst


def _has_integers(model: Path) -> bool:
    """Tell whether weights are stored as integers: kernels then round activations, each runtime its own way."""
    import mmap

    from ai_edge_litert.schema_py_generated import Model, TensorType

    small = {TensorType.INT8, TensorType.INT4, TensorType.UINT8, TensorType.INT16}
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        made = Model.GetRootAs(content, 0)
        graphs = (made.Subgraphs(i) for i in range(made.SubgraphsLength()))
        return any(g.Tensors(i).Type() in small for g in graphs for i in range(g.TensorsLength()))


def _warnings(text: str) -> list[str]:
    """Return what TensorFlow's analyzer says of the GPU, each sentence once."""
    lines = [line.split("GPU COMPATIBILITY WARNING:")[1].strip() for line in text.splitlines() if "GPU COMP" in line]
    return list(dict.fromkeys(lines))[:20]
