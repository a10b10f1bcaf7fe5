"""Lets Optimum generate with a package as it is; reads a list of
{folder, task, texts, steps, beams, chat}, writes new token ids as JSON.

Runs in Optimum's own environment (an older transformers): nothing of this project is imported here.
"""

import json
import sys
from pathlib import Path
from typing import Any

import optimum.onnxruntime
from transformers import AutoTokenizer


def main(request: str, answer: str) -> None:
    asked = json.loads(Path(request).read_text(encoding="utf-8"))
    Path(answer).write_text(json.dumps([written(one) for one in asked]), encoding="utf-8")


def written(asked: dict[str, Any]) -> dict[str, list[list[int]]]:
    causal = asked["task"] == "text-generation"
    tokenizer = AutoTokenizer.from_pretrained(asked["folder"])
    loader = "ORTModelForCausalLM" if causal else "ORTModelForSeq2SeqLM"
    model = getattr(optimum.onnxruntime, loader).from_pretrained(asked["folder"])

    def write(texts: list[str], beams: int = 1) -> list[list[int]]:
        feed = {k: v for k, v in tokenizer(texts, return_tensors="pt", padding=True).items() if k != "token_type_ids"}
        made = model.generate(**feed, do_sample=False, num_beams=beams, max_new_tokens=asked["steps"])
        return made[:, feed["input_ids"].shape[1] if causal else 1 :].tolist()

    def alone(beams: int) -> list[list[int]]:
        return [write([text], beams)[0] for text in asked["texts"]]

    made = {"alone": alone(1), "batch": write(asked["texts"]), "beams": alone(asked["beams"])}
    if asked["chat"]:
        made["chat"] = [tokenizer.apply_chat_template(asked["chat"], add_generation_prompt=True)]
    return made


if __name__ == "__main__":
    main(*sys.argv[1:])
