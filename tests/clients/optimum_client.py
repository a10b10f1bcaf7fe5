"""Opens a package with Optimum as it is; reads {folder, task, file, texts} and writes ids and outputs as JSON.

Runs in Optimum's own environment (an older transformers): nothing of this project is imported here.
"""

import json
import sys
from pathlib import Path

import optimum.onnxruntime
import transformers
from transformers import AutoTokenizer

CLASSES = {
    "text-classification": "ORTModelForSequenceClassification",
    "token-classification": "ORTModelForTokenClassification",
    "question-answering": "ORTModelForQuestionAnswering",
    "feature-extraction": "ORTModelForFeatureExtraction",
    "fill-mask": "ORTModelForMaskedLM",
}


def main(request: str, answer: str) -> None:
    asked = json.loads(Path(request).read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(asked["folder"])
    model = getattr(optimum.onnxruntime, CLASSES[asked["task"]]).from_pretrained(asked["folder"])
    made = []
    for text, pair in asked["texts"]:
        feed = tokenizer(text, pair, truncation=True, return_tensors="pt")
        found = model(**feed)
        made.append(
            {
                "inputs": {k: v[0].tolist() for k, v in feed.items()},
                "outputs": {
                    k: {"dims": list(v.shape), "data": v.reshape(-1).tolist()}
                    for k, v in found.items()
                    if v is not None
                },
            }
        )
    version = f"transformers {transformers.__version__}"
    Path(answer).write_text(json.dumps({"version": version, "made": made}), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
