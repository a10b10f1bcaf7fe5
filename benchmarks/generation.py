"""Models that write text, exported to ONNX: do they write what transformers writes, and how good are the trained ones?

    python benchmarks/generation.py [--only FAMILY] [--prompts N]
    python benchmarks/generation.py --samples [NAME] [--precision NAME]

Tiny seeded models of every family (`tests/tiny_text.py`): what is compared are tokens, and a model that was taught
nothing still has one next token. `--samples` exports the trained samples in every precision that the target offers for
them, or in those named, and takes from their evaluation what the gate measured: agreement of the next token,
perplexity, and BLEU against references. Writes `benchmarks/results/generation.json` after every row.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
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
CALIBRATION = {"translator": "train.tsv", "storyteller": "train.txt"}
SAMPLES = tuple(CALIBRATION)
BEAM_PROMPTS = 20
"""Beam search costs four times as much, and is compared in one padded batch."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[*CAUSAL, *ENCODER_DECODER])
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--samples", nargs="*", default=None, help=f"of {', '.join(SAMPLES)}; none named: all")
    parser.add_argument("--precision", nargs="*", default=[])
    given = parser.parse_args()
    if given.samples is not None:
        measure_samples(given.samples or SAMPLES, given.precision)
        return
    results = known(NAME)
    for family in given.only:
        row = measure(family, given.prompts)
        print(family, row, flush=True)
        results = {**results, "machine": machine(), "families": {**results.get("families", {}), family: row}}
        save(NAME, results)


def measure_samples(names: Sequence[str], precisions: Sequence[str]) -> None:
    from targets.cpu_int8 import CpuInt8

    for name in names:
        for precision in precisions or CpuInt8.writes:
            row = measure_sample(name, precision)
            print(name, precision, row, flush=True)
            results = known(NAME)
            rows = results.get("samples", {})
            rows = {**rows, name: {**rows.get(name, {}), precision: row}}
            save(NAME, {**results, "machine": machine(), "samples": rows})


def measure_sample(name: str, precision: str) -> dict[str, Any]:
    """Return what the gate measured on a sample's own evaluation file, whether it passed or not."""
    from converter.api import convert

    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        recipe = {"model": f"sample:{name}", "targets": ["cpu-int8"], "quantize": {"cpu-int8": precision}}
        recipe |= {"calibration": f"sample:{name}/{CALIBRATION[name]}"}
        (made,) = convert(recipe, Path(folder) / "out").targets
    found = made.evaluation
    if found is None:
        return {"status": made.status, "error": made.error}
    checks = {check.name: check for check in found.checks}
    main = next(iter(found.source_metric))
    before, after = found.source_metric[main], found.metric.get(main)
    fell = None if after is None else round(100 * (before - after), 3) if main != "perplexity" else None
    return {
        "status": made.status,
        "bytes": made.size_bytes,
        "next_token_agreement": found.agreement,
        "perplexity_ratio": checks["perplexity"].value,
        "points_of_bleu_lost": fell,
        "metric": found.metric,
        "source_metric": found.source_metric,
        "scored": found.facts["n_scored"],
        "logits_error": {"worst": found.deviations[0].max_error, "p99": found.deviations[0].p99_error},
        "sequences_equal": f"{found.facts['generation']['equal']} of {found.facts['generation']['texts']}",
        "ties": found.facts["generation"]["ties"],
        "cache": checks["cache"].value,
        "seconds": round(time.perf_counter() - started, 1),
    }


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
