"""A TFLite file that writes text as an app runs it: nothing of the cache is copied from one token to the next."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from decoding import PROMPT, SENTENCE, WRITTEN


class InPlace:
    """A file in LiteRT's CompiledModel, the cache in one buffer that is input and output of every call."""

    def __init__(self, path: Path, threads: int) -> None:
        from ai_edge_litert.compiled_model import CompiledModel
        from ai_edge_litert.cpu_options import CpuOptions
        from ai_edge_litert.options import Options

        options = Options(cpu_options=CpuOptions(num_threads=threads))
        self.model = CompiledModel.from_file(str(path), options=options)
        given, gives = (self._details("decode", side) for side in ("input", "output"))
        self.inputs = {name: self.model.create_input_buffer_by_name("decode", name) for name in given}
        self.outputs = {
            n: self.inputs[n] if n in self.inputs else self.model.create_output_buffer_by_name("decode", n)
            for n in gives
        }
        for name, detail in given.items():
            if "cache" in name:
                self.inputs[name].write(np.zeros(detail["shape"], np.float32))
        self.cache, self.words = int(given["mask"]["shape"][-1]), int(np.prod(gives["logits"]["shape"]))

    def _details(self, signature: str, side: str) -> dict[str, Any]:
        details: dict[str, Any] = getattr(self.model, f"get_{side}_tensor_details")(signature)
        return details

    def encode(self, text: Any, length: int, longest: int) -> None:
        """Read a text; its cross keys and values lie where the decoder looks for them."""
        signature = f"encode_{length}"
        rows = np.zeros((2, 1, length), np.int32)
        rows[0, 0, : text.shape[1]], rows[1, 0, : text.shape[1]] = text[0], 1
        given = {n: self.model.create_input_buffer_by_name(signature, n) for n in self._details(signature, "input")}
        given["tokens"].write(rows[0])
        given["source_mask"].write(rows[1])
        gives = {
            n: self.inputs[n] if n in self.inputs else self.model.create_output_buffer_by_name(signature, n)
            for n in self._details(signature, "output")
        }
        self.model.run_by_name(signature, given, gives)
        mask = np.zeros((1, longest), np.int32)
        mask[0, : text.shape[1]] = 1
        self.inputs["source_mask"].write(mask)

    def step(self, token: int, place: int) -> int:
        seen = np.where(np.arange(self.cache) <= place, 0, -1e9).astype(np.float32)[None, None, None]
        self.inputs["tokens"].write(np.array([[token]], np.int32))
        self.inputs["input_pos"].write(np.array([place], np.int32))
        self.inputs["mask"].write(seen)
        self.model.run_by_name("decode", self.inputs, self.outputs)
        return int(self.outputs["logits"].read(self.words, np.float32).argmax())


def in_place(shape: str, path: Path, threads: int) -> dict[str, float]:
    """Return milliseconds a token, or those of a whole translation, with one buffer for the cache on both sides."""
    opened = InPlace(path, threads)
    made: dict[str, float] = {}
    for _ in range(2):
        token = 58100 if shape == "opus-mt" else 5
        taken: list[float] = []
        began = time.perf_counter()
        if shape == "opus-mt":
            opened.encode(np.random.default_rng(0).integers(1, 58100, (1, SENTENCE)), 32, 64)
            for place in range(SENTENCE):
                token = opened.step(token, place)
            made = {"in_place_greedy_ms": (time.perf_counter() - began) * 1e3}
            continue
        for place in range(PROMPT + WRITTEN):
            started = time.perf_counter()
            token = opened.step(token, place)
            taken.append(time.perf_counter() - started)
        made = {"in_place_ms_a_token": float(np.mean(taken[PROMPT:])) * 1e3}
    return made
