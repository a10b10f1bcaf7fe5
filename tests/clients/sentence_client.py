"""Opens a package as it is with sentence-transformers (ONNX backend); reads {folder, kind, texts}, writes answers."""

import json
import sys
from pathlib import Path

import sentence_transformers


def main(request: str, answer: str) -> None:
    asked = json.loads(Path(request).read_text(encoding="utf-8"))
    model = getattr(sentence_transformers, asked["kind"])(asked["folder"], backend="onnx", device="cpu")
    # One text at a time: dynamic int8 has one scale a batch.
    if asked["kind"] == "CrossEncoder":
        made = [model.predict([(text, pair)])[0].tolist() for text, pair in asked["texts"]]
    else:
        made = [model.encode(text).tolist() for text, _ in asked["texts"]]
    version = f"sentence-transformers {sentence_transformers.__version__}"
    Path(answer).write_text(json.dumps({"version": version, "made": made}), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
