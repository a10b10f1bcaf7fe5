"""What is shared is stored once, in every file that ships."""

from collections.abc import Callable
from pathlib import Path

from converter.artifact import TorchModel
from converter.examples import Example
from converter.export import ExportOnnx
from converter.quantize.static import StaticInt8
from converter.source import load_source
from converter.stage import Context, run_stages
from tests.tiny import SENTENCES

PLAIN = tuple(Example(t) for t in SENTENCES)


def int8_bytes(model: TorchModel, work: Path) -> int:
    work.mkdir()
    made, _ = run_stages([ExportOnnx(), StaticInt8(samples=8)], model, Context(work=work, calibration=PLAIN))
    return made.size_bytes


def test_albert_stays_shared_in_int8(tiny: Callable[..., Path], tmp_path: Path) -> None:
    wide = {"hidden_size": 128, "intermediate_size": 512}
    sizes = [int8_bytes(load_source(str(tiny("albert", layers=n, **wide))), tmp_path / str(n)) for n in (1, 3)]
    weights = 4 * 128 * 128 + 2 * 128 * 512  # of the one layer, a byte each
    assert sizes[0] < 2 * weights  # int8, not float
    assert sizes[1] - sizes[0] < weights / 2  # two more passes: nodes, biases and ranges, no weights
