"""Models that write text, exported to ONNX: do they write what transformers writes, on 100 prompts a family?

    python benchmarks/generation.py [--only FAMILY] [--prompts N]

Tiny seeded models of every family (`tests/tiny_text.py`): what is compared are tokens, and a model that was taught
nothing still has one next token. Writes `benchmarks/results/generation.json` after every family.
"""

import argparse
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

from _measure import known, machine, save

from tests.tiny_text import (
    CAUSAL,
    ENCODER_DECODER,
    POSITIONS,
    batch_for,
    continue_in_transformers,
    make_text_model,
    pad_of,
    prompts,
    settings_of,
)

NAME = "generation"
NEW = 16
BEAM_PROMPTS = 20
"""Beam search costs four times as much, and is compared in one padded batch."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[*CAUSAL, *ENCODER_DECODER])
    parser.add_argument("--prompts", type=int, default=100)
    given = parser.parse_args()
    results = known(NAME)
    for family in given.only:
        row = measure(family, given.prompts)
        print(family, row, flush=True)
        results = {**results, "machine": machine(), "families": {**results.get("families", {}), family: row}}
        save(NAME, results)


def measure(family: str, count: int) -> dict[str, Any]:
    """Return how many prompts of `count` are continued alike: alone, in one padded batch, and by beam search."""
    from converter.generate.loop import Generated, generate
    from converter.generate.modules import graph_specs
    from converter.onnx.runner import OnnxRunner
    from converter.onnx.text_equality import check_text_graphs
    from converter.onnx.text_export import export_text_graphs

    model = make_text_model(family)
    specs = graph_specs(model, pad_id=pad_of(model))
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        files = export_text_graphs(model, specs, Path(folder))
        seconds = time.perf_counter() - started
        size = sum(f.stat().st_size for f in files.values())
        run = OnnxRunner(files).run
        facts = check_text_graphs(model, specs, run, POSITIONS)
        texts, settings = prompts(count, seed=7), settings_of(model, max_new_tokens=NEW)

        def equal(batch: list[list[int]], beams: int = 1) -> tuple[int, set[int]]:
            own = replace(settings, beams=beams)
            feed = batch_for(model, batch)
            found = generate(run, specs, feed, own)
            theirs = continue_in_transformers(model, feed, max_new_tokens=NEW, num_beams=beams)
            wanted = Generated(theirs, found.prompt).texts(own)
            pairs = list(zip(found.texts(own), wanted, strict=True))
            return sum(a == b for a, b in pairs), {token for text in wanted for token in text}

        alone = [equal([text]) for text in texts]
        batch, tokens = equal(texts)
        beams, _ = equal(texts[:BEAM_PROMPTS], 4)
    return {
        "prompts": count,
        "alone": sum(n for n, _ in alone),
        "batch": batch,
        "beams_of_4": f"{beams} of {min(count, BEAM_PROMPTS)}",
        "different_tokens": len(tokens),
        "logits_error": facts["max_relative_error"],
        "export_seconds": round(seconds, 1),
        "bytes": size,
    }


if __name__ == "__main__":
    main()
