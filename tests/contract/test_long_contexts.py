"""What packages show of long contexts: the README's code and the Python sample answer as the proof does."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from converter.artifact import Bundle, TorchModel
from converter.examples import Example
from converter.graphs import MODEL
from converter.model_folder.load import load_source
from converter.onnx.export import ExportOnnx
from converter.onnx.package import usage
from converter.reference import capture_reference
from converter.stage import SILENT, Context, run_stage
from tests.contract.device_packages import Made
from tests.tiny import SENTENCES

QUESTION = "who wrote the letter?"
CONTEXTS = (" ".join(SENTENCES), " ".join(reversed(SENTENCES)), SENTENCES[4])


@pytest.fixture(scope="module")
def source(tiny: Callable[..., Path]) -> TorchModel:
    return load_source(str(tiny("bert", "question-answering", layers=1)))


def answers(source: TorchModel) -> list[str]:
    """Return what the source answers, by the reference that packages are held to."""
    reference = capture_reference(source, [Example(QUESTION, c, where=c) for c in CONTEXTS], SILENT)
    assert len(reference.judged) > 5
    spans = {j.example.where: d for j, d in zip(reference.judged, reference.decisions, strict=True)}
    return ["no answer" if spans[c].null else spans[c].text for c in CONTEXTS]


def test_the_code_of_an_onnx_packages_readme_reads_all_windows(source: TorchModel, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    made, _ = run_stage(ExportOnnx(), source, Context(work=work, calibration=(Example(QUESTION, CONTEXTS[2]),)))
    (tmp_path / "onnx").mkdir()
    shutil.copyfile(made.files[MODEL], tmp_path / "onnx" / "model.onnx")
    source.tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"transformers.js_config": {"dtype": "fp32"}}))
    text = usage(Bundle(tmp_path, {MODEL: "onnx/model.onnx"}, source), "CPUExecutionProvider")
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    asked = "for question, context in " + repr([(QUESTION, c) for c in CONTEXTS]) + ":\n"
    body = code.replace('question, context = "Who came?", "Anna came on Monday."\n', "")
    (tmp_path / "sample.py").write_text(asked + "".join(f"    {line}\n" for line in body.splitlines()))
    done = subprocess.run(
        [sys.executable, "sample.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr[-1000:]
    assert done.stdout.splitlines() == answers(source)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_code_of_an_onnx_packages_readme_cuts_a_text_where_its_tokenizer_does(
    side: str, tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = load_source(str(tiny("bert", "text-classification", layers=1)))
    source.tokenizer.truncation_side = side
    source.tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"transformers.js_config": {"dtype": "fp32"}}))
    text = usage(Bundle(tmp_path, {MODEL: "onnx/model.onnx"}, source), "CPUExecutionProvider")
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0].replace('"A text."', repr(CONTEXTS[0]))
    shown = [line for line in code.splitlines() if line.startswith(("from tokenizers", "tokenizer", "made"))]
    assert len(shown) == 4
    monkeypatch.chdir(tmp_path)
    known: dict[str, Any] = {}
    exec("\n".join(shown), known)
    wanted = source.tokenizer(CONTEXTS[0], truncation=True, max_length=source.max_length)["input_ids"]
    assert len(wanted) == source.max_length
    assert known["made"].ids == wanted


def test_the_python_sample_reads_all_windows(every_kind: dict[str, Made], source: TorchModel) -> None:
    """The sample's own tokenizer, windows and choice; the model under it is the source."""
    from converter.reference import torch_run

    spec = importlib.util.spec_from_file_location("text_model", every_kind["span"].samples / "python" / "text_model.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    run = torch_run(source)

    def outputs(ids: list[int], types: list[int]) -> dict[str, np.ndarray]:
        rows = {"input_ids": ids, "attention_mask": [1] * len(ids), "token_type_ids": types}
        made = run(MODEL, {n: np.array([rows[n]], dtype=np.int64) for n in source.input_names})
        return {n: v[0] for n, v in made.items()}

    model = object.__new__(module.QuestionAnswerer)
    model.tokenizer, model.run = module.Tokenizer.from_str(source.tokenizer.backend_tokenizer.to_str()), outputs
    cut = replace(source, max_length=module.MAX_LENGTH)
    assert [model.answer(QUESTION, c).text or "no answer" for c in CONTEXTS] == answers(cut)
    assert SimpleNamespace(**model.answer(QUESTION, "")._asdict()).text == ""
