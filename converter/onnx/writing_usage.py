"""How to call a package that writes text."""

import json
from typing import Any

from converter.artifact import Bundle
from converter.generate.chat import has_chat
from converter.generate.settings import GenerationSettings
from converter.jsonfile import read_json
from converter.onnx.genai_config import ignored_settings, why_not_genai

USAGE = """\
### This tool

```
plm-export run . "Good morning"
```

### Optimum

```python
from optimum.onnxruntime import {loader} as Model
from transformers import AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained("."), Model.from_pretrained(".")
asked = tokenizer({text}, return_tensors="pt")
made = model.generate(**asked, max_new_tokens=40, do_sample=False)  # num_beams=4 searches
print(tokenizer.decode(made[0], skip_special_tokens=True))
```

### transformers.js

```js
import {{ env, pipeline }} from '@huggingface/transformers';

env.allowLocalModels = true; // in a browser it is false by default
env.localModelPath = '..'; // the folder that holds this package
const write = await pipeline('{task}', 'NAME OF THIS FOLDER'); // config.json asks for dtype '{dtype}'
console.log(await write({text}, {{ max_new_tokens: 40 }}));
```

### onnxruntime-genai

{genai}
"""
GENAI = """\
`genai_config.json` is for onnxruntime-genai 0.18 or later: Python, C++, C#, Java, Android and iOS. One text at a time:
it does not read the padding of a batch.

```python
import onnxruntime_genai as og

config = og.Config(".")  # threads: intra_op_num_threads in genai_config.json, or
config.overlay('{{"model": {{"decoder": {{"session_options": {{"intra_op_num_threads": 4}}}}}}}}')
model = og.Model(config)
tokenizer, settings = og.Tokenizer(model), og.GeneratorParams(model)
asked = tokenizer.encode({text})
settings.set_search_options(max_length=len(asked) + 40, do_sample=False)
generator = og.Generator(model, settings)
generator.append_tokens(asked)
while not generator.is_done():
    generator.generate_next_token()
print(tokenizer.decode(generator.get_sequence(0)))
```
"""


CHAT = """\

### Chats

The model has a chat template, in `tokenizer_config.json`. `plm-export run . --chat "Good morning"` puts a text into it;
so does, of the messages `[{"role": "user", "content": "Good morning"}]`,

- Optimum: `tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")`
- transformers.js: `write(messages)`
- onnxruntime-genai: `tokenizer.apply_chat_template(json.dumps(messages), add_generation_prompt=True)`
"""

GROWING = """\

### Long texts

Texts of more than {turn} tokens have other positions than shorter ones. A text that grows past them is read again there
by this tool and by `samples/python`, as transformers does; other clients go on with a cache that is of no use any more.
Ask them for at most {turn} tokens of text and answer together, or for a text that is longer from the start.
"""


def writing_usage(bundle: Bundle) -> str:
    """Return the Markdown that shows how each client calls the package, or why one cannot."""
    dtype = read_json(bundle.folder / "config.json")["transformers.js_config"]["dtype"]
    task: Any = bundle.source.task
    # A prompt of the model belongs to the text; this tool puts it there itself.
    text = json.dumps(f"{task.prompt}Good morning", ensure_ascii=False)
    genai = _genai(bundle, text)
    usage = USAGE.format(task=task.name, loader=task.client_class, dtype=dtype, text=text, genai=genai).rstrip()
    settings: GenerationSettings = task.settings
    if settings.rope_switches_at is not None:
        usage += f"\n{GROWING.format(turn=settings.rope_switches_at)}".rstrip()
    return f"{usage}\n{CHAT}".rstrip() if has_chat(bundle.source.tokenizer) else usage


def _genai(bundle: Bundle, text: str) -> str:
    why = why_not_genai(bundle.source)
    if why is not None:
        return f"It does not run this package: {why}."
    task: Any = bundle.source.task
    ignored = ", ".join(ignored_settings(task.settings))
    note = f"\nIt does not follow these settings of `generation_config.json`: {ignored}.\n" if ignored else ""
    return GENAI.format(text=text) + note
