"""How a TFLite package is called: what its README shows, for this very file."""

import json

from converter.artifact import Bundle
from converter.graphs import MODEL
from converter.tflite.file import signature_names
from converter.tflite.lengths.shared import has_shared_graph
from converter.tflite.mediapipe.variant import MEDIAPIPE_FILE
from converter.tflite.model import lengths_of, mobile_outputs


def usage_of(bundle: Bundle, batch: int) -> str:
    """Return the Markdown; `batch`: the texts a call that signatures were asked for."""
    path = bundle.folder / bundle.files[MODEL]
    lengths, up_to = lengths_of(signature_names(path))
    output = mobile_outputs(bundle.source)[0]
    given = json.dumps(bundle.source.task.prompt + "Your text", ensure_ascii=False)
    mediapipe = MEDIAPIPE_NONE.format(why=bundle.left_out.get(MEDIAPIPE_FILE, ""))
    if (bundle.folder / MEDIAPIPE_FILE).is_file():
        task, call = MEDIAPIPE_EMBEDS if bundle.source.head is not None else MEDIAPIPE_CLASSIFIES
        mediapipe = MEDIAPIPE_USAGE.format(task=task, call=call.format(text=given), longest=up_to or lengths[-1])
    if up_to is not None:
        return USAGE_ANY.format(longest=up_to, output=output, text=given) + mediapipe
    batches = USAGE_BATCH.format(batch=batch, first=lengths[0]) if batch > 1 else ""
    named = {"lengths": ", ".join(map(str, lengths)), "first": lengths[0], "longest": lengths[-1]}
    graphs = USAGE_SHARED if has_shared_graph(path) else ""
    return USAGE.format(**named, output=output, text=given) + graphs + batches + mediapipe


MEDIAPIPE_NONE = """
This package has no file for MediaPipe Tasks: {why}.
"""
MEDIAPIPE_CLASSIFIES = "TextClassifier", "classify({text}).classifications[0].categories"
MEDIAPIPE_EMBEDS = "TextEmbedder", "embed({text}).embeddings[0].embedding"
MEDIAPIPE_USAGE = """
`model-mediapipe.tflite` is the same model for MediaPipe Tasks (`{task}`), with the tokenizer inside: it takes text and
returns the answer. MediaPipe tokenizes some text differently (accents, non-ASCII capitals, Hangul, control characters):
normalize text first, with `tokenizer.backend_tokenizer.normalizer.normalize_str(text)`. MediaPipe does not truncate:
beyond {longest} tokens its answers are wrong, so shorten long text before.

```python
from mediapipe.tasks.python import BaseOptions, text

options = text.{task}Options(base_options=BaseOptions(model_asset_path="model-mediapipe.tflite"))
print(text.{task}.create_from_options(options).{call})
```
"""
USAGE_ANY = """\
`model.tflite` has one signature, `serving_up_to_{longest}`, for 1 to {longest} tokens: int32 inputs
`[1, length]`, without padding. Truncate longer text to {longest} tokens.

```python
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
run = Interpreter("model.tflite").get_signature_runner("serving_up_to_{longest}")

ids = tokenizer({text}, truncation=True, max_length={longest})
print(run(**{{name: np.array([row], dtype=np.int32) for name, row in ids.items()}})["{output}"])
```
"""
USAGE_BATCH = """
For many texts, `serving_{first}_batch_{batch}` and similar signatures take {batch} texts per call, `[{batch}, length]`;
fill unused rows with padding. Each signature that is used keeps its own packed copy of the weights in memory.
"""
USAGE_SHARED = """
All signatures call one graph that takes any length (a `WHILE` operation), so its weights are in memory once. GPU and
NPU delegates need graphs of fixed shapes: export with `--target tflite:graphs=separate` for them.
"""
USAGE = """\
`model.tflite` has one signature per length ({lengths} tokens), `serving_{first}` to `serving_{longest}`; all share
the same weights. Inputs are int32 `[1, length]`. Use the shortest signature that fits the text, and pad to its length:
token ids with the tokenizer's padding id, the attention mask with 0.

```python
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
interpreter = Interpreter("model.tflite")
lengths = sorted({{int(name.split("_")[1]) for name in interpreter.get_signature_list()}})

ids = tokenizer({text}, truncation=True, max_length=lengths[-1])
length = next(n for n in lengths if n >= len(ids["input_ids"]))
padded = tokenizer.pad(ids, padding="max_length", max_length=length)
feed = {{name: np.array([row], dtype=np.int32) for name, row in padded.items()}}
print(interpreter.get_signature_runner(f"serving_{{length}}")(**feed)["{output}"])
```

On Android, call `interpreter.runSignature(inputs, outputs, "serving_{longest}")` with the input names above; on iOS,
`interpreter.signatureRunner(with: "serving_{longest}")`. `samples/` has complete code for both, with the tokenizer.
Without a signature name, the interpreter runs `serving_{longest}`.
"""
