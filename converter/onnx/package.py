"""What the two ONNX targets share: the Hugging Face layout, and how to call it."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from converter.artifact import Bundle, TorchModel
from converter.data.encode import STRIDE
from converter.errors import PackageDamaged
from converter.graphs import MODEL
from converter.jsonfile import read_json, write_json
from converter.model_folder.files import write_model_files
from converter.onnx.branches import write_branches
from converter.onnx.external import copy_onnx, data_counts
from converter.onnx.model import OnnxModel
from converter.precision import Precision
from converter.tasks.question_answering import MAX_ANSWER_TOKENS


def emit_onnx(given: OnnxModel, source: TorchModel, folder: Path, menu: Mapping[str, Precision]) -> Bundle:
    """Write the model under `onnx/` and everything beside it that loaders look for; `menu`: the target's."""
    precision = menu["none" if given.precision == "float32" else given.precision]
    files = {name: f"onnx/{name}{precision.suffix}.onnx" for name in given.files}
    (folder / "onnx").mkdir()
    for name, path in given.files.items():
        if given.source.leaves_early:
            write_branches(path, folder / files[name])
        else:
            copy_onnx(path, folder / files[name])
    counts = data_counts({name: folder / file for name, file in files.items()})
    told = {"dtype": precision.client_dtype} | ({"use_external_data_format": counts} if counts else {})
    write_model_files(source, folder, {"transformers.js_config": told})
    if source.cache is not None:
        _write_settings(source, folder, files)
    if source.sentence is not None:
        _name_model(folder, files[MODEL], source.max_length)
    return Bundle(folder, files, source)


def _write_settings(source: TorchModel, folder: Path, files: Mapping[str, str]) -> None:
    """Write how the model generates, where clients look for it."""
    from converter.generate.read_settings import FILE
    from converter.onnx import genai_config as genai

    task: Any = source.task
    write_json(folder / FILE, dict(task.generation_table))
    if genai.why_not_genai(source) is None:
        write_json(folder / genai.FILE, genai.genai_config(source, files[MODEL]))


def _name_model(folder: Path, file: str, max_length: int) -> None:
    """Tell sentence-transformers the model's name: it looks for `model.onnx` alone, else exports anew and fails."""
    path = folder / "sentence_bert_config.json"
    table: dict[str, Any] = read_json(path) if path.is_file() else {"max_seq_length": max_length}
    write_json(path, table | {"model_args": {**table.get("model_args", {}), "file_name": file}})


def find_models(folder: Path, graphs: Collection[str] = (MODEL,)) -> dict[str, Path]:
    """Return the file of each graph of a package, which is named after the graph.

    Raises:
        PackageDamaged: one has none, or more than one; or there are others.

    """
    found = sorted((folder / "onnx").glob("*.onnx"))
    made = {}
    for name in graphs:
        own = [path for path in found if path.stem == name or path.stem.startswith(f"{name}_")]
        if len(own) != 1:
            raise PackageDamaged(
                f"wanted one file of the graph {name} under onnx/, found {len(own)}", where=str(folder)
            )
        made[name] = own[0]
    if len(found) > len(made):
        raise PackageDamaged(f"wanted {len(made)} model(s) under onnx/, found {len(found)}", where=str(folder))
    return made


def usage(bundle: Bundle, provider: str) -> str:
    """Return the Markdown that shows three ways to call the package (four where it makes embeddings)."""
    source = bundle.source
    if source.cache is not None:
        from converter.onnx.writing_usage import writing_usage

        return writing_usage(bundle)
    file = bundle.files[MODEL]
    spec = source.specs[MODEL]
    runtime = WINDOWS_USAGE if source.task.windowed else RUNTIME_USAGE
    scores = source.task.name == "text-classification" and not source.task.label_kind
    javascript = SCORES_JAVASCRIPT_USAGE if scores else JAVASCRIPT_USAGE
    parts = [runtime, OPTIMUM_USAGE, javascript, *([SENTENCE_USAGE] if source.head is not None else [])]
    return "\n".join(parts).format(
        file=file,
        dtype=read_json(bundle.folder / "config.json")["transformers.js_config"]["dtype"],
        provider=provider,
        task=source.task.name,
        loader=source.task.client_class,
        max_length=source.max_length,
        direction=', direction="left"' if source.tokenizer.truncation_side == "left" else "",
        stride=min(STRIDE, source.max_length // 2),
        longest_span=MAX_ANSWER_TOKENS - 1,
        names=", ".join(f'"{n}"' for n in spec.input_names),
        prompted="  # it puts the prompt before each text itself" if source.task.prompt else "",
        outputs=", ".join(spec.output_names),
        text=json.dumps(source.task.prompt + "A text.", ensure_ascii=False),
    )


RUNTIME_USAGE = """\
### ONNX Runtime

```python
import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("tokenizer.json")
tokenizer.enable_truncation({max_length}{direction})
session = ort.InferenceSession("{file}", providers=["{provider}"])
made = tokenizer.encode({text})
rows = {{"input_ids": made.ids, "attention_mask": made.attention_mask, "token_type_ids": made.type_ids}}
feed = {{name: np.array([rows[name]], dtype=np.int64) for name in ({names},)}}
outputs = dict(zip([o.name for o in session.get_outputs()], session.run(None, feed)))  # {outputs}
```
"""
WINDOWS_USAGE = """\
### ONNX Runtime

A context longer than {max_length} tokens is read in overlapping windows, and the likeliest of their answers is taken,
as the pipeline of transformers does; "no answer" where that is likelier in every window.

```python
import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

question, context = "Who came?", "Anna came on Monday."
tokenizer = Tokenizer.from_file("tokenizer.json")
session = ort.InferenceSession("{file}", providers=["{provider}"])
asked = tokenizer.encode(question, add_special_tokens=False)
room = {max_length} - tokenizer.num_special_tokens_to_add(True) - len(asked)
stride = {stride} if {stride} < room * 3 // 4 else room // 2  # tokens that two windows share
tokenizer.enable_truncation({max_length}, stride=stride, strategy="only_second")
first = tokenizer.encode(question, context)
answers, nothing = {{}}, 1.0
for made in [first, *first.overflowing]:
    rows = {{"input_ids": made.ids, "attention_mask": made.attention_mask, "token_type_ids": made.type_ids}}
    feed = {{name: np.array([rows[name]], dtype=np.int64) for name in ({names},)}}
    logits = session.run(["start_logits", "end_logits"], feed)
    tokens = [0] + [i for i, text in enumerate(made.sequence_ids) if text == 1]  # the first says "no answer"
    start, end = (np.exp(row[0, tokens] - row[0, tokens].max()) for row in logits)
    scores = np.outer(start / start.sum(), end / end.sum())
    spans = np.triu(np.tril(scores[1:, 1:], {longest_span}))
    i, k = np.unravel_index(spans.argmax(), spans.shape)
    text = context[made.offsets[tokens[1 + i]][0] : made.offsets[tokens[1 + k]][1]].strip()
    answers[text] = answers.get(text, 0.0) + spans[i, k]
    nothing = min(nothing, scores[0, 0])
answer = max(answers, key=answers.get)
print(answer if answers[answer] >= nothing else "no answer")
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
SCORES_JAVASCRIPT_USAGE = """\
### transformers.js

```js
import {{ env, AutoModelForSequenceClassification, AutoTokenizer }} from '@huggingface/transformers';

env.localModelPath = '..'; // the folder that holds this package
const folder = 'NAME OF THIS FOLDER'; // config.json asks for dtype '{dtype}'
const tokenizer = await AutoTokenizer.from_pretrained(folder);
const model = await AutoModelForSequenceClassification.from_pretrained(folder);
// No pipeline: it gives probabilities of classes, which for a single score are always 1.
const {{ logits }} = await model(tokenizer('A text.', {{ truncation: true }})); // of a pair: {{ text_pair: 'B', … }}
console.log(logits.tolist());
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
