"""What a step costs: how far a smaller model answers from the one it was made of, on calibration text."""

from typing import TYPE_CHECKING, Any

import numpy as np

from converter.data.probes import even_sample
from converter.reference import encode_probes, judge_batched, torch_run
from converter.scoring.relative_error import RANGE_FLOOR

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.stage import Context

TEXTS = 64


def cost_of(given: "TorchModel", made: "TorchModel", ctx: "Context") -> dict[str, Any]:
    """Return agreement of decisions and mean error over the output range; both read the same tokens."""
    examples = even_sample(ctx.calibration, TEXTS)
    if not examples:
        return {"texts": 0}
    probes = encode_probes(given, examples)
    wanted = judge_batched(given, probes, torch_run(given), ctx.progress, "Running the model before the stage")
    found = judge_batched(made, probes, torch_run(made), ctx.progress, "Running the model after the stage")
    task = given.task
    errors = []
    for name in wanted[0].outputs:
        low, high = min(j.outputs[name].min() for j in wanted), max(j.outputs[name].max() for j in wanted)
        errors += [
            float(np.abs(a.outputs[name] - b.outputs[name]).mean()) / max(float(high - low), RANGE_FLOOR)
            for a, b in zip(wanted, found, strict=True)
        ]
    return {
        "texts": len(examples),
        "agreement": round(task.agreement(task.decisions(wanted), task.decisions(found)), 4),
        "mean_error": round(float(np.mean(errors)), 6),
    }
