"""Opens a file with a task of MediaPipe as it is; reads {file, task, texts}, writes scores by label, or vectors.

Runs in MediaPipe's own environment: nothing of this project is imported here.
"""

import json
import sys
from pathlib import Path
from typing import Any

from mediapipe.tasks.python import BaseOptions, text


def main(request: str, answer: str) -> None:
    asked = json.loads(Path(request).read_text(encoding="utf-8"))
    base = BaseOptions(model_asset_path=asked["file"])
    made = {"classify": scores, "embed": embeddings}[asked["task"]](base, asked["texts"])
    Path(answer).write_text(json.dumps(made), encoding="utf-8")


def scores(base: Any, texts: list[str]) -> list[dict[str, float]]:
    with text.TextClassifier.create_from_options(text.TextClassifierOptions(base_options=base)) as client:
        rows = [client.classify(t).classifications[0].categories for t in texts]
    return [{c.category_name: c.score for c in row} for row in rows]


def embeddings(base: Any, texts: list[str]) -> list[list[float]]:
    with text.TextEmbedder.create_from_options(text.TextEmbedderOptions(base_options=base)) as client:
        return [[float(x) for x in client.embed(t).embeddings[0].embedding] for t in texts]


if __name__ == "__main__":
    main(*sys.argv[1:])
