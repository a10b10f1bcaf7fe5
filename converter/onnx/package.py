"""What the two ONNX targets share: the Hugging Face layout, and how to call it."""

import json
import shutil
from pathlib import Path
from typing import Any

from converter.artifact import Bundle, OnnxModel, TorchModel
from converter.errors import PackageDamaged
from converter.jsonfile import read_json, write_json
from converter.model_folder.files import write_model_files
from converter.onnx.export import output_names

FILES = {
    "none": "onnx/model.onnx",
    "dynamic": "onnx/model_quantized.onnx",
    "static": "onnx/model_quantized.onnx",
    "fp16": "onnx/model_fp16.onnx",
}
"""The names that Optimum and transformers.js look for, by precision."""

DTYPES = {"onnx/model.onnx": "fp32", "onnx/model_quantized.onnx": "q8", "onnx/model_fp16.onnx": "fp16"}
"""What transformers.js calls them; without it in config.json it would look for another file."""

ORT_CLASSES = {
    "text-classification": "ORTModelForSequenceClassification",
    "token-classification": "ORTModelForTokenClassification",
    "question-answering": "ORTModelForQuestionAnswering",
    "feature-extraction": "ORTModelForFeatureExtraction",
    "fill-mask": "ORTModelForMaskedLM",
}


def emit_onnx(given: OnnxModel, source: TorchModel, folder: Path) -> Bundle:
    """Write the model under `onnx/` and everything beside it that loaders look for."""
    precision = "none" if given.precision == "float32" else given.precision
    file = FILES[precision]
    (folder / "onnx").mkdir()
    shutil.copyfile(given.path, folder / file)
    write_model_files(source, folder, {"transformers.js_config": {"dtype": DTYPES[file]}})
    if source.sentence is not None:
        _name_model(folder, file, source.max_length)
    return Bundle(folder, file, source)


def _name_model(folder: Path, file: str, max_length: int) -> None:
    """Tell sentence-transformers the model's name: it looks for `model.onnx` alone, else exports anew and fails."""
    path = folder / "sentence_bert_config.json"
    table: dict[str, Any] = read_json(path) if path.is_file() else {"max_seq_length": max_length}
    write_json(path, table | {"model_args": {**table.get("model_args", {}), "file_name": file}})


def find_model(folder: Path) -> Path:
    """Return the one model of a package.

    Raises:
        PackageDamaged: there is none, or more than one.

    """
    found = sorted((folder / "onnx").glob("*.onnx"))
    if len(found) != 1:
        raise PackageDamaged(f"wanted one model under onnx/, found {len(found)}", where=str(folder))
    return found[0]


def usage(bundle: Bundle, provider: str) -> str:
    """Return the Markdown that shows three ways to call the package (four where it makes embeddings)."""
    source = bundle.source
    parts = [RUNTIME_USAGE, OPTIMUM_USAGE, JAVASCRIPT_USAGE, *([SENTENCE_USAGE] if source.head is not None else [])]
    return "\n".join(parts).format(
        file=bundle.model_file,
        dtype=DTYPES[bundle.model_file],
        provider=provider,
        task=source.task.name,
        loader=ORT_CLASSES[source.task.name],
        max_length=source.max_length,
        names=", ".join(f'"{n}"' for n in source.input_names),
        prompted="  # it puts the prompt before each text itself" if source.task.prompt else "",
        outputs=", ".join(output_names(source)),
        text=json.dumps(source.task.prompt + "A text.", ensure_ascii=False),
    )


RUNTIME_USAGE = """\
### ONNX Runtime

```python
import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("tokenizer.json")
tokenizer.enable_truncation({max_length})
session = ort.InferenceSession("{file}", providers=["{provider}"])
made = tokenizer.encode({text})
rows = {{"input_ids": made.ids, "attention_mask": made.attention_mask, "token_type_ids": made.type_ids}}
feed = {{name: np.array([rows[name]], dtype=np.int64) for name in ({names},)}}
outputs = dict(zip([o.name for o in session.get_outputs()], session.run(None, feed)))  # {outputs}
```
"""
OPTIMUM_USAGE = """\
### Optimum

```python
from optimum.onnxruntime import {loader} as Model
from transformers import AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained("."), Model.from_pretrained(".", file_name="{file}")
outputs = model(**tokenizer({text}, return_tensors="pt"))
```
"""
JAVASCRIPT_USAGE = """\
### transformers.js

```js
import {{ env, pipeline }} from '@huggingface/transformers';

env.localModelPath = '..'; // the folder that holds this package
const run = await pipeline('{task}', 'NAME OF THIS FOLDER'); // config.json asks for dtype '{dtype}'
```
"""
SENTENCE_USAGE = """\
### sentence-transformers

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(".", backend="onnx")  # sentence_bert_config.json names {file}
embeddings = model.encode(["A text."]){prompted}
```
"""
