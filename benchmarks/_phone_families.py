"""Every family as a float32 TFLite file: greedy texts beside those of transformers, up to the cache's last position."""

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from tests.fixed_caches import WINDOWED, family_model, sizes_of, to_the_end
from tests.tiny_text import batch_for, continue_in_transformers, prompts, settings_of

TEXTS = 50


def family_row(family: str) -> dict[str, Any]:
    """Lower a tiny model of a family and continue `TEXTS` prompts by both; what does not lower says why."""
    from converter.errors import StageFailed
    from converter.generate.loop import generate
    from converter.stage import Context
    from converter.tflite.writing.lower import LowerWriter

    source = family_model(family)
    cache, lengths = sizes_of(source)
    started = time.perf_counter()
    with TemporaryDirectory() as work:
        try:
            outcome = LowerWriter(cache, lengths).run(source, Context(work=Path(work)))
        except StageFailed as error:
            return {"refused": f"{error}"}
        seconds = time.perf_counter() - started
        run = outcome.made.open_writer(xnnpack=True).run
        settings = settings_of(source.module, **({"max_new_tokens": None} | to_the_end(source)))
        equal, texts = 0, set()
        for prompt in prompts(TEXTS, longest=30):
            feed = batch_for(source.module, [prompt])
            wanted = continue_in_transformers(source.module, feed, **to_the_end(source))
            equal += np.array_equal(generate(run, source.specs, feed, settings).sequences, wanted)
            texts.add(wanted[0][-8:].tobytes())
        return {
            "texts": TEXTS,
            "equal": equal,
            "different_texts": len(texts),
            "cache": cache,
            "window": source.module.config.sliding_window if family in WINDOWED else None,
            "error": float(f"{outcome.facts['max_relative_error']:.1e}"),
            "kilobytes": round(outcome.made.size_bytes / 1e3),
            "seconds": round(seconds, 1),
        }
