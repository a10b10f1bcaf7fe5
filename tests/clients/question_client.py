"""Answers questions by the pipeline of transformers 4, which is gone from 5; reads {folder, texts}, writes answers.

Texts are (question, context). It opens a model's own folder, not a package: it is the measure of our reading of it.
"""

import json
import sys
from pathlib import Path

import transformers


def main(request: str, answer: str) -> None:
    asked = json.loads(Path(request).read_text(encoding="utf-8"))
    pipe = transformers.pipeline("question-answering", model=asked["folder"], device="cpu")
    options = {"handle_impossible_answer": True, "align_to_words": False}
    made = [pipe(question=text, context=context, **options)["answer"] for text, context in asked["texts"]]
    version = f"transformers {transformers.__version__}"
    Path(answer).write_text(json.dumps({"version": version, "made": made}), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
