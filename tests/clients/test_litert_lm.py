"""`model.litertlm`, opened by the litert-lm command line: it writes what transformers writes with the source."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_text import save_causal

CACHE = 40
TEXTS = ("the cat sat", "Anna went home")

pytestmark = pytest.mark.client


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_litert_lm_writes_what_the_source_writes_up_to_the_end_of_the_cache(
    family: str, litert_lm: Path, tmp_path: Path
) -> None:
    from converter.model_folder.load import load_source
    from converter.stage import Context, run_stages
    from targets.tflite import Tflite

    source = load_source(str(save_causal(tmp_path / "source", family)))
    target = Tflite(cache=CACHE, seq_len=(8,))
    ctx = Context(work=tmp_path)
    made, _ = run_stages(target.stages("none", {}, source), source, ctx)
    (tmp_path / "package").mkdir()
    bundle = target.emit(made, source, tmp_path / "package", ctx)
    assert not bundle.left_out
    assert "litert-lm run model.litertlm" in target.usage(bundle)
    for text in TEXTS:
        command = [str(litert_lm), "run", "model.litertlm", "--prompt", text, "--no-template", "--top-k", "1"]
        done = subprocess.run(command, cwd=bundle.folder, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert letters(done.stdout) == letters(transformers_writes(source, text)), text


def transformers_writes(source: Any, text: str) -> str:
    import torch

    ids = source.tokenizer(text, return_tensors="pt")["input_ids"]
    more = CACHE - ids.shape[1]
    with torch.inference_mode():
        made = source.module.generate(ids, do_sample=False, max_new_tokens=more, attention_mask=torch.ones_like(ids))
    return str(source.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))


def letters(text: str) -> str:
    """Leave out what terminals and streams of bytes show otherwise: a model that was taught nothing writes anything."""
    return "".join(c for c in text if c.isascii() and c.isalnum())
