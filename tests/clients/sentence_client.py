"""Opens a package with sentence-transformers (`backend="onnx"`) as it is; reads {folder, texts}, writes embeddings."""

import json
import sys
from pathlib import Path

import sentence_transformers


def main(request: str, answer: str) -> None:
    asked = json.loads(Path(request).read_text(encoding="utf-8"))
    model = sentence_transformers.SentenceTransformer(asked["folder"], backend="onnx", device="cpu")
    texts = [text for text, _ in asked["texts"]]
    # One text at a time: dynamic int8 has one scale a batch.
    made = [model.encode(text).tolist() for text in texts]
    version = f"sentence-transformers {sentence_transformers.__version__}"
    Path(answer).write_text(json.dumps({"version": version, "made": made}), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
