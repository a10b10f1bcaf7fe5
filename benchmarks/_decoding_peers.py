"""CTranslate2 and onnxruntime-genai on the shapes of `benchmarks/decoding.py`: made once, timed in its run.

They are not among the project's dependencies: run the benchmark with the Python of an environment that has them.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CT2 = "ct2"


def make_ct2(shape: str, model: Any, folder: Path) -> None:
    """Write a model as CTranslate2 reads it, in float32: it rounds to int8 when it loads."""
    if (folder / CT2 / "model.bin").is_file():
        return
    spec = _gpt2_spec(model) if shape == "gpt2-124m" else _marian_spec(model)
    spec.validate()
    spec.optimize(quantization=None)
    (folder / CT2).mkdir(exist_ok=True)
    spec.save(str(folder / CT2))


def _array(tensor: Any) -> Any:
    return tensor.detach().numpy()


def _gpt2_spec(model: Any) -> Any:
    from ctranslate2.specs import common_spec, transformer_spec

    config = model.config
    spec = transformer_spec.TransformerDecoderModelSpec.from_config(
        config.n_layer, config.n_head, pre_norm=True, activation=common_spec.Activation.GELUTanh
    )
    made, given = spec.decoder, model.transformer
    made.scale_embeddings = False
    made.embeddings.weight = _array(given.wte.weight)
    made.position_encodings.encodings = _array(given.wpe.weight)
    made.projection.weight = made.embeddings.weight
    _norm(made.layer_norm, given.ln_f)
    for layer, block in zip(made.layer, given.h, strict=True):
        _norm(layer.self_attention.layer_norm, block.ln_1)
        _norm(layer.ffn.layer_norm, block.ln_2)
        for linear, conv in (
            (layer.self_attention.linear[0], block.attn.c_attn),
            (layer.self_attention.linear[1], block.attn.c_proj),
            (layer.ffn.linear_0, block.mlp.c_fc),
            (layer.ffn.linear_1, block.mlp.c_proj),
        ):
            linear.weight, linear.bias = np.ascontiguousarray(_array(conv.weight).T), _array(conv.bias)
    end = config.vocab_size - 1
    spec.register_vocabulary([f"t{i}" for i in range(config.vocab_size)])
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = f"t{end}"
    return spec


def _norm(made: Any, given: Any) -> None:
    made.gamma, made.beta = _array(given.weight), _array(given.bias)


def _marian_spec(model: Any) -> Any:
    from ctranslate2.converters.transformers import MarianMTLoader

    spec = MarianMTLoader().get_model_spec(model)
    words = [f"t{i}" for i in range(model.config.vocab_size - 1)]  # the loader drops the pad token
    spec.register_source_vocabulary(words)
    spec.register_target_vocabulary(words)
    spec.config.eos_token = spec.config.bos_token = spec.config.decoder_start_token = "t0"
    spec.config.unk_token = "t1"
    return spec


def ct2_timer(shape: str, folder: Path, threads: int, sizes: tuple[int, int, int]) -> Callable[[], dict[str, float]]:
    """Return what times CTranslate2 in int8; `sizes`: tokens of a prompt, written after it, and of a sentence."""
    import ctranslate2

    how: dict[str, Any] = {"device": "cpu", "compute_type": "int8", "inter_threads": 1, "intra_threads": threads}
    prompt, written, sentence = sizes
    if shape == "gpt2-124m":
        writer = ctranslate2.Generator(str(folder / CT2), **how)
        ids = np.random.default_rng(0).integers(0, 50256, prompt)
        given = [f"t{i}" for i in ids]

        def took(n: int) -> float:
            started = time.perf_counter()
            made = writer.generate_batch(
                [given], max_length=n, min_length=n, sampling_topk=1, include_prompt_in_result=False
            )
            assert len(made[0].sequences[0]) == n
            return (time.perf_counter() - started) * 1e3

        def decode() -> dict[str, float]:
            first = took(1)
            return {"ms_a_token": (took(written + 1) - first) / written, "prefill_ms": first}

        return decode
    translator = ctranslate2.Translator(str(folder / CT2), **how)
    text = [f"t{i}" for i in np.random.default_rng(0).integers(2, 58099, sentence)]

    def translate() -> dict[str, float]:
        made = {}
        for what, beams in (("greedy_ms", 1), ("beams_of_4_ms", 4)):
            started = time.perf_counter()
            found = translator.translate_batch(
                [text], beam_size=beams, max_decoding_length=sentence, min_decoding_length=sentence
            )
            made[what] = (time.perf_counter() - started) * 1e3
            assert len(found[0].hypotheses[0]) == sentence
        return made

    return translate


def genai_timer(folder: Path, threads: int, prompt: int, written: int) -> Callable[[], dict[str, float]]:
    """Return what times onnxruntime-genai on the file in `folder`, which gets its settings written beside it."""
    import onnxruntime_genai as og

    own = folder / f"genai_{threads}"
    own.mkdir(exist_ok=True)
    if not (own / "model.onnx").exists():
        os.link(folder / "model.onnx", own / "model.onnx")
    (own / "genai_config.json").write_text(json.dumps(_genai_config(threads)))
    model = og.Model(str(own))
    ids = np.random.default_rng(0).integers(0, 50256, prompt).astype(np.int32)

    def timed() -> dict[str, float]:
        given, most = og.GeneratorParams(model), prompt + written + 2
        given.set_search_options(max_length=most, min_length=most, do_sample=False)
        writer = og.Generator(model, given)
        started = time.perf_counter()
        writer.append_tokens(ids)
        writer.generate_next_token()
        first = time.perf_counter()
        for _ in range(written):
            writer.generate_next_token()
        return {"ms_a_token": (time.perf_counter() - first) * 1e3 / written, "prefill_ms": (first - started) * 1e3}

    return timed


def _genai_config(threads: int) -> dict[str, Any]:
    names = {"past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value"}
    made = {"present_key_names": "present.%d.key", "present_value_names": "present.%d.value"}
    decoder = {
        # The environment does not tell it: without this it takes all cores.
        "session_options": {"log_id": "genai", "provider_options": [], "intra_op_num_threads": threads},
        "filename": "model.onnx",
        "head_size": 64,
        "hidden_size": 768,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "num_hidden_layers": 12,
        "inputs": {n: n for n in ("input_ids", "attention_mask", "position_ids")} | names,
        "outputs": {"logits": "logits"} | made,
    }
    ends = {"bos_token_id": 50256, "eos_token_id": 50256, "pad_token_id": 50256}
    return {
        "model": {"type": "decoder", "context_length": 1024, "vocab_size": 50257, "decoder": decoder} | ends,
        "search": {"past_present_share_buffer": False, "max_length": 1024},
    }
