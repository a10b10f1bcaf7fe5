"""Lets onnxruntime-genai write with a package as it is; reads a list of
{folder, texts, steps, chat}, writes new token ids as JSON.

Runs in its own environment: nothing of this project is imported here.
"""

import json
import sys
from pathlib import Path
from typing import Any

import onnxruntime_genai as og


def main(request: str, answer: str) -> None:
    asked = json.loads(Path(request).read_text(encoding="utf-8"))
    Path(answer).write_text(json.dumps([written(one) for one in asked]), encoding="utf-8")


def written(asked: dict[str, Any]) -> dict[str, list[list[int]]]:
    config = og.Config(asked["folder"])
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": 1}}}}))
    model = og.Model(config)
    tokenizer = og.Tokenizer(model)

    def write(text: str) -> list[int]:
        ids = tokenizer.encode(text)
        settings = og.GeneratorParams(model)
        settings.set_search_options(max_length=len(ids) + asked["steps"], do_sample=False)
        generator = og.Generator(model, settings)
        generator.append_tokens(ids)
        while not generator.is_done():
            generator.generate_next_token()
        return generator.get_sequence(0).tolist()[len(ids) :]

    made = {"alone": [write(text) for text in asked["texts"]]}
    if asked["chat"]:
        said = tokenizer.apply_chat_template(json.dumps(asked["chat"]), add_generation_prompt=True)
        made["chat"] = [tokenizer.encode(said).tolist()]
    return made


if __name__ == "__main__":
    main(*sys.argv[1:])
