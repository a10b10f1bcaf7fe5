"""Lets Optimum generate with a package as it is; reads {folder, task, texts, steps}, writes new token ids as JSON.

Runs in Optimum's own environment (an older transformers): nothing of this project is imported here.
"""

import json
import sys
from pathlib import Path

import optimum.onnxruntime
from transformers import AutoTokenizer

CLASSES = {"text-generation": "ORTModelForCausalLM", "translation": "ORTModelForSeq2SeqLM"}


def main(request: str, answer: str) -> None:
    asked = json.loads(Path(request).read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(asked["folder"])
    model = getattr(optimum.onnxruntime, CLASSES[asked["task"]]).from_pretrained(asked["folder"])
    causal = asked["task"] == "text-generation"

    def write(texts: list[str]) -> list[list[int]]:
        feed = {k: v for k, v in tokenizer(texts, return_tensors="pt", padding=True).items() if k != "token_type_ids"}
        made = model.generate(**feed, do_sample=False, num_beams=1, max_new_tokens=asked["steps"])
        return made[:, feed["input_ids"].shape[1] if causal else 1 :].tolist()

    alone = [write([text])[0] for text in asked["texts"]]
    Path(answer).write_text(json.dumps({"alone": alone, "batch": write(asked["texts"])}), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
