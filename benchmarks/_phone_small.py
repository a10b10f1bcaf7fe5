"""A translator with its vocabulary trimmed beside the whole one, and GPT-2 beside a Llama that litert-torch made."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from decoding import PROMPT, SENTENCE, WRITTEN, seeded

TEXTS, ROWS = 50, 16_000
LLAMA = "llama-124m"
"""As many bytes a token as GPT-2 124M: as wide and deep, with a gated FFN of 2 048 and a tied table of 50 257 rows."""


def trimmed_shape(shape: str) -> tuple[Any, int, list[int]]:
    """Return a translator with the first `ROWS` of its tokens, its pad among them, and the old ids."""
    from converter.surgery.vocabulary import cut_vocabulary

    model, pad = seeded(shape)
    kept = [*range(ROWS - 1), pad]
    cut_vocabulary(model, kept)
    return model, ROWS - 1, kept


def compare_trimmed(whole: Any, cut: Any, kept: list[int], pad: int) -> dict[str, Any]:
    """Continue texts of kept tokens by both, the whole one choosing among kept tokens; each is a run and its specs.

    Random weights write one text about everything, so both are also asked for the next token behind random answers.
    """
    random = np.random.default_rng(0)
    equal = next_equal = 0
    worst, nexts = 0.0, set[int]()
    for _ in range(TEXTS):
        text, answer = random.integers(1, ROWS - 1, (2, 1, SENTENCE))
        mine, theirs = _continued(*cut, text, len(kept) - 1, None), _continued(*whole, text, pad, kept)
        equal += sum(a == b for a, b in zip(mine, theirs, strict=True))
        found, wanted = _forced(*cut, text, answer), _forced(*whole, text, np.array(kept)[answer])[:, kept]
        next_equal += int((found.argmax(-1) == wanted.argmax(-1)).sum())
        nexts |= set(found.argmax(-1).tolist())
        worst = max(worst, float(np.abs(found - wanted).max() / np.ptp(wanted)))
    return {
        "texts": TEXTS,
        "tokens": TEXTS * SENTENCE,
        "equal_tokens": equal,
        "equal_next_tokens": next_equal,
        "different_next_tokens": len(nexts),
        "error": worst,
    }


def _continued(run: Any, specs: Any, text: Any, first: int, kept: "list[int] | None") -> list[int]:
    """Write `SENTENCE` tokens; with `kept`, tokens are numbers in it."""
    from converter.generate.steps import Steps

    steps = Steps(run, specs, {"input_ids": text, "attention_mask": np.ones_like(text)})
    token, written = first, list[int]()
    for _ in range(SENTENCE):
        logits = steps.step(np.array([[token]]))[0, -1]
        written.append(int((logits if kept is None else logits[kept]).argmax()))
        token = written[-1] if kept is None else kept[written[-1]]
    return written


def _forced(run: Any, specs: Any, text: Any, answer: Any) -> Any:
    """Return the logits `[tokens, vocabulary]` behind each token of an answer."""
    from converter.generate.steps import Steps

    return Steps(run, specs, {"input_ids": text, "attention_mask": np.ones_like(text)}).step(answer)[0]


def bundle_of(path: Path, cache: int) -> Path:
    """Write a bundle for LiteRT-LM of a file of GPT-2, with a tokenizer that knows one letter; returns it."""
    from tokenizers import Tokenizer, models

    from converter.tflite.writing.litertlm import write_litertlm

    tokenizer, bundle = path.with_suffix(".json"), path.with_suffix(".litertlm")
    Tokenizer(models.BPE(vocab={"a": 0}, merges=[])).save(str(tokenizer))
    known: Any = SimpleNamespace(
        task=SimpleNamespace(settings=SimpleNamespace(eos_ids=(50256,)), kind="decoder"),
        tokenizer=SimpleNamespace(bos_token_id=None, chat_template=None),
        config=SimpleNamespace(model_type="gpt2"),
    )
    write_litertlm(path, tokenizer, known, cache, bundle)
    return bundle


def litert_lm(client: str, bundle: Path, cache: int, threads: int) -> float:
    """Return tokens per second of a bundle in the litert-lm command line, behind a prompt of the same length."""
    asked = ["-p", str(PROMPT), "-d", str(WRITTEN), "--max-num-tokens", str(cache), "--cpu-thread-count", str(threads)]
    command = [client, "benchmark", str(bundle), *asked]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    return float(re.findall(r"Decode speed:\s+([0-9.]+)", told)[-1])


def make_llama(folder: Path, cache: int) -> Path:
    """Let litert-torch export a Llama of GPT-2's bytes in int8, where that is not done yet; returns its bundle."""
    out = folder / LLAMA
    found = sorted(out.glob("*.litertlm"))
    if not found:
        source = folder / f"{LLAMA}-source"
        _save_llama(source)
        subprocess.run([sys.executable, "-c", EXPORT, str(source), str(out), str(cache), str(PROMPT)], check=True)
        found = sorted(out.glob("*.litertlm"))
    return found[0]


def _save_llama(folder: Path) -> None:
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = 50_257
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=words,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=12,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=words - 1,
        eos_token_id=words - 1,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    letters = pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {c: i for i, c in enumerate(sorted(letters))}
    vocabulary |= {f"word{i}": i for i in range(len(vocabulary), words - 1)} | {"<|end|>": words - 1}
    core: Any = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<|end|>", eos_token="<|end|>")
    made.save_pretrained(folder)


EXPORT = """
import sys
from litert_torch.generative.export_hf import export
source, out, cache, prompt = sys.argv[1:]
export.export(model=source, output_dir=out, cache_length=int(cache), prefill_lengths=[int(prompt)],
              quantization_recipe="dynamic_wi8_afp32", bundle_litert_lm=True, experimental_lightweight_conversion=True)
"""


def peers_row(folder: Path, cache: int, threads: int, rounds: int) -> dict[str, Any]:
    """Time GPT-2 and the Llama in the litert-lm command line, in turns; returns the best of the rounds."""
    client = os.environ["PLM_EXPORT_LITERT_LM"]
    gpt2 = folder / "gpt2-124m" / f"cache-{cache}" / "dynamic.tflite"
    bundles = {"gpt2": bundle_of(gpt2, cache), "llama": make_llama(folder, cache)}
    best = dict.fromkeys(bundles, 0.0)
    for _ in range(rounds):
        for name, bundle in bundles.items():
            best[name] = max(best[name], litert_lm(client, bundle, cache, threads))
    sizes = {f"{name}_mb": round(bundle.stat().st_size / 1e6, 1) for name, bundle in bundles.items()}
    speeds = {f"{name}_tokens_per_second": round(value, 2) for name, value in best.items()}
    return {**sizes, **speeds, "share": round(best["gpt2"] / best["llama"], 3)}
