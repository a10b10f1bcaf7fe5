"""Models that write text in half precision: what overflows is found on text and stays in float32."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from converter.api import convert, verify
from converter.examples import Encoding
from converter.graphs import GraphSpec, Run
from converter.onnx.model import OnnxModel
from converter.onnx.runner import OnnxRunner
from converter.stage import Context
from converter.validate.checks import Status
from tests.tiny_text import make_text_model, pad_of, save_causal, settings_of

LARGE = 2e5
"""What T5's `wo` is multiplied by: its output then passes 65504, the largest number of half precision."""


@dataclass
class Loud:
    """A T5 whose feed-forward layers give what half precision cannot hold."""

    given: OnnxModel
    specs: dict[str, GraphSpec]
    texts: list[Encoding]

    def logits(self, run: Run) -> np.ndarray:
        task: Any = self.given.source.task
        return np.concatenate([task.answer(self.specs, run, task.feed(self.specs, [t]))["logits"] for t in self.texts])


@pytest.fixture(scope="module")
def loud(tmp_path_factory: pytest.TempPathFactory) -> Loud:
    from converter.generate.modules import graph_specs
    from converter.onnx.text_export import export_text_graphs
    from converter.tasks.text2text_generation import TextToText

    model = make_text_model("t5", d_kv=8)  # other tests export it too
    specs = graph_specs(model, pad_id=pad_of(model))
    files = export_text_graphs(model, specs, tmp_path_factory.mktemp("loud"))
    grow([p.detach().numpy() for name, p in model.named_parameters() if name.endswith("wo.weight")], files)
    task = TextToText(model.config)
    task.settings = settings_of(model)
    random = np.random.default_rng(0)
    texts = []
    for _ in range(3):
        ids, answer = random.integers(5, 118, (2, 9))
        texts.append(task.with_answer(Encoding({"input_ids": ids, "attention_mask": np.ones_like(ids)}), answer))
    source: Any = SimpleNamespace(cache=True, specs=specs, task=task, provenance=SimpleNamespace(id="loud"))
    return Loud(OnnxModel(files, source), specs, texts)


def grow(weights: list[np.ndarray], files: dict[str, Path]) -> None:
    """Write the weights that the graphs hold `LARGE` times as large; each lies there once, as it is or turned."""
    import onnx

    grown = 0
    for path in files.values():
        proto = onnx.load(path)
        for held in proto.graph.initializer:
            value = onnx.numpy_helper.to_array(held)
            if any(np.array_equal(value, w) or np.array_equal(value, w.T) for w in weights):
                held.CopyFrom(onnx.numpy_helper.from_array(value * np.float32(LARGE), held.name))
                grown += 1
        onnx.save(proto, path)
    assert grown == len(weights)


def in_numpy(files: dict[str, Path]) -> Run:
    """Run graphs as they are written: ONNX Runtime computes half precision in float32 on a CPU."""
    from onnx.reference import ReferenceEvaluator

    opened = {name: ReferenceEvaluator(str(path)) for name, path in files.items()}
    return lambda name, feed: dict(zip(opened[name].output_names, opened[name].run(None, dict(feed)), strict=True))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_t5_that_overflows_half_precision_is_written_without_a_nan(loud: Loud, tmp_path: Path) -> None:
    from converter.quantize.fp16 import write_half

    files, kept = {}, {}
    for graph in loud.specs:
        files[graph] = tmp_path / f"{graph}.onnx"
        facts = write_half(loud.given, graph, loud.texts, files[graph], Context(work=tmp_path))
        kept[graph] = facts["kept_float32"]
        assert facts["largest_activation"] > 65504
    wanted, found = loud.logits(OnnxRunner(loud.given.files).run), loud.logits(in_numpy(files))
    assert np.isfinite(found).all()
    assert np.abs(wanted - found).max() < 0.01 * np.ptp(wanted)
    # The feed-forward layers and what adds them up, not the whole graph.
    assert all(0 < len(names) < 50 for names in kept.values())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_same_t5_in_half_precision_throughout_says_nothing(loud: Loud, tmp_path: Path) -> None:
    from converter.quantize.fp16 import write_half

    files = {}
    for graph in loud.specs:
        files[graph] = tmp_path / f"{graph}.onnx"
        # Nobody looked at a text.
        write_half(loud.given, graph, [], files[graph], Context(work=tmp_path))
    assert not np.isfinite(loud.logits(in_numpy(files))).all()


def test_a_package_in_half_precision_is_proven_and_half_the_size(tmp_path: Path) -> None:
    folder = save_causal(tmp_path / "model")
    (made,) = convert({"model": str(folder), "targets": ["ort-gpu"]}, tmp_path / "out").targets
    assert made.status is Status.PASS, made.error
    package = tmp_path / "out" / "ort-gpu"
    assert [p.name for p in (package / "onnx").iterdir()] == ["model_fp16.onnx"]
    found = verify(package)
    assert found["same_answers"] == found["golden_texts"]
    # Its interface is the float one: what a client keeps between tokens it hands back as it came.
    assert {t.dtype for t in OnnxRunner({"model": package / "onnx" / "model_fp16.onnx"}).graphs["model"].inputs} == {
        "int64",
        "float32",
    }
