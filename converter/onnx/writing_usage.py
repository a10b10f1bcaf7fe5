"""How to call a package that writes text."""

from converter.artifact import Bundle
from converter.jsonfile import read_json

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
made = model.generate(**tokenizer("Good morning", return_tensors="pt"), max_new_tokens=40)
print(tokenizer.decode(made[0], skip_special_tokens=True))
```

### transformers.js

```js
import {{ env, pipeline }} from '@huggingface/transformers';

env.localModelPath = '..'; // the folder that holds this package
const write = await pipeline('{task}', 'NAME OF THIS FOLDER'); // config.json asks for dtype '{dtype}'
console.log(await write('Good morning', {{ max_new_tokens: 40 }}));
```
"""


def writing_usage(bundle: Bundle) -> str:
    """Return the Markdown that shows three ways to call the package."""
    dtype = read_json(bundle.folder / "config.json")["transformers.js_config"]["dtype"]
    task = bundle.source.task
    return USAGE.format(task=task.name, loader=task.client_class, dtype=dtype)
