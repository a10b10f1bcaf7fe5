"""What the TFLite target does otherwise for models that write text: stages, files, and how the package is called."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from converter.artifact import Bundle, TorchModel
from converter.binding import bind
from converter.errors import RecipeError
from converter.generate.read_settings import FILE
from converter.jsonfile import write_json
from converter.model_folder.files import write_model_files
from converter.registry import quantizers
from converter.resources import link_or_copy
from converter.stage import Stage
from converter.tflite.writing.layout import DECODE, ENCODE, PREFILL
from converter.tflite.writing.litertlm import LITERTLM_FILE, why_not_litertlm, write_litertlm
from converter.tflite.writing.lower import LowerWriter, layout_of
from converter.tflite.writing.model import TfliteWriter

MODEL_FILE = "model.tflite"
FITS = ("smooth", "texts")
"""Options of quantizers that fit weights to what they are multiplied with."""


def writer_stages(
    target: str, precision: str, options: Mapping[str, Any], model: TorchModel, cache: int, lengths: tuple[int, ...]
) -> Sequence[Stage[Any, Any]]:
    """Return the stages from the model to what `emit_writer` takes.

    Raises:
        UsageError: a cache or a length is longer than the model takes.
        RecipeError: an option is unknown.

    """
    layout_of(model, cache, lengths)  # refused now, not after the conversion
    lower = LowerWriter(cache, lengths)
    where = f"quantize.{target}"
    if precision != "none":
        if fit := next((name for name in FITS if name in options), None):
            raise RecipeError(
                f"{fit} fits weights of encoders to text; those of models that write text are rounded to nearest",
                where=f"{where} {precision}",
                hint=f"leave {fit} out",
            )
        made: Any = bind(quantizers(target)[precision], options, where)
        return (lower, replace(made, **{name: 0 for name in FITS if hasattr(made, name)}))
    if options:
        raise RecipeError(
            f"precision none has no option {next(iter(options))!r}",
            where=where,
            hint="the cache is an option of the target: --target tflite:cache=512",
        )
    return (lower,)


def emit_writer(given: TfliteWriter, source: TorchModel, folder: Path, *, litertlm: bool) -> Bundle:
    """Write the model and all that must lie beside it but manifest, golden vectors and README.

    `litertlm`: a bundle for LiteRT-LM too, where that runs the model.
    """
    path = folder / MODEL_FILE
    link_or_copy(given.path, path)  # the float file may serve another precision of this run
    longest = given.open_writer().max_length
    write_model_files(source, folder, {}, max_length=longest)
    task: Any = source.task
    write_json(folder / FILE, dict(task.generation_table))
    why = why_not_litertlm(source) if litertlm else "disabled: litertlm=false"
    if not why:
        write_litertlm(path, folder / "tokenizer.json", source, given.layout.cache, folder / LITERTLM_FILE)
    left_out = {LITERTLM_FILE: why} if why else {}
    return Bundle(folder, dict.fromkeys(source.specs, MODEL_FILE), source, left_out)


def writer_usage(bundle: Bundle, layout: Any) -> str:
    """Return the Markdown that shows how the file is called: what each signature takes, and the loop."""
    source = bundle.source
    text = json.dumps(source.task.prompt + "Good morning", ensure_ascii=False)
    kind = PREFILL if layout.causal else ENCODE
    named = {
        "signatures": ", ".join(f"`{kind}{n}`" for n in layout.lengths),
        "first": f"{kind}{layout.lengths[0]}",
        "decode": DECODE,
        "cache": layout.cache,
        "longest": layout.lengths[-1],
        "text": text,
    }
    usage = (USAGE_CAUSAL if layout.causal else USAGE_PAIR).format(**named)
    if LITERTLM_FILE in bundle.left_out:
        return f"{usage}\nThis package has no file for LiteRT-LM: {bundle.left_out[LITERTLM_FILE]}.\n"
    return usage + USAGE_LITERTLM.format(**named)


USAGE_CAUSAL = """\
`model.tflite` has one signature for each length of a piece of a prompt ({signatures}) and `{decode}` for one token; all
share the same weights. They take int32 `tokens` `[1, n]` and `input_pos` `[n]`, a float32 `mask` `[1, 1, n, {cache}]`
(0 where a token may look, -1e9 where not), and the cache, `kv_cache_k_0`, `kv_cache_v_0` and so on. They give the cache
back, the tokens written at their positions; `{decode}` gives `logits` too. The cache holds {cache} tokens, prompt and
answer together.

```
plm-export run . {text}
```

```python
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
interpreter = Interpreter("model.tflite", num_threads=4)
decode = interpreter.get_signature_runner("{decode}")
cache = {{n: np.zeros(d["shape"], np.float32) for n, d in decode.get_input_details().items() if "cache" in n}}
ids, place = tokenizer({text})["input_ids"], 0
for step in range(len(ids) + 20):  # a prompt is read faster by `{first}`
    seen = np.where(np.arange({cache}) <= place, 0, -1e9).astype(np.float32)
    made = decode(tokens=np.array([[ids[place]]], np.int32), input_pos=np.array([place], np.int32),
                  mask=seen[None, None, None], **cache)
    cache, place = {{n: made[n] for n in cache}}, place + 1
    if place == len(ids):
        ids.append(int(made["logits"][0, 0].argmax()))
        if ids[-1] == tokenizer.eos_token_id or place == {cache}:
            break
print(tokenizer.decode(ids))
```
"""
USAGE_LITERTLM = """
`model.litertlm` is the same file with the tokenizer, for LiteRT-LM (Android, iOS, desktop):

```
pip install litert-lm
litert-lm run model.litertlm --prompt {text}
```
"""
USAGE_PAIR = """\
`model.tflite` has one signature for each length of a text ({signatures}), which makes the cross keys and values once,
and `{decode}` for one token of the answer; all share the same weights. `{first}` takes int32 `tokens` and
`source_mask` `[1, n]` (1 for a token, 0 for padding) and gives `cross_k_0`, `cross_v_0` and so on. `{decode}` takes
those, `source_mask` `[1, {longest}]`, the last token `tokens` `[1, 1]`, its place `input_pos` `[1]`, a float32 `mask`
`[1, 1, 1, {cache}]` (0 up to that place, -1e9 behind it) and the cache `kv_cache_k_0`, `kv_cache_v_0` and so on; it
gives the cache back, and `logits`. Texts have at most {longest} tokens, answers {cache}.

```
plm-export run . {text}
```
"""
