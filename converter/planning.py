"""What a recipe would do, before it does it: sizes, speed where this machine has a table, time and memory."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from converter.bounds.watch import NO_LIMITS
from converter.context import check_loading, context_of, memory_of, read_text
from converter.errors import ExportError
from converter.forecast import Forecast, forecast_of
from converter.recipe import tried
from converter.stage import SILENT, Context, Progress

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.recipe import Recipe

TIMED_TEXTS = 6
ASKED_BY_A_PACKAGE = 2
"""Times that a package's proof reads every probe (alone, and with other padding) at about the source's pace."""


@dataclass(frozen=True)
class Step:
    """The model after a step. `megabytes` by target, weights alone; `milliseconds` of one text where it is known."""

    step: str
    parameters: int
    megabytes: dict[str, float]
    milliseconds: float | None
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """All steps, from the source on."""

    model: str
    task: str
    texts: int
    """Of calibration."""
    steps: tuple[Step, ...]
    proof_seconds: float
    """Running the source model, and proving each package."""
    memory_megabytes: float
    """Above what the libraries take, at most."""
    memory_by_part: dict[str, float]
    """What each part of the run takes of it, in megabytes."""

    @property
    def seconds(self) -> float:
        return self.proof_seconds + sum(s.seconds for s in self.steps)

    def table(self) -> dict[str, Any]:
        return asdict(self) | {"seconds": round(self.seconds, 1)}


def plan_recipe(recipe: "Recipe", *, progress: Progress = SILENT) -> Plan:
    """Load the source and tell what each stage of `recipe` would make of it; nothing is made.

    Raises:
        ExportError: what a run of the recipe would refuse before work.

    """
    from converter.context import check_options
    from converter.model_folder.given import load_model, with_usual_precisions

    check_loading(recipe, NO_LIMITS)
    source = load_model(recipe, progress)
    recipe = with_usual_precisions(recipe, source)
    check_options(recipe, source)
    with TemporaryDirectory(prefix="plm-plan-") as work:
        text = read_text(recipe, source, progress)
        ctx = context_of(recipe, source, text, Path(work), progress)
        n_probes = max(len(text.probes), len(text.given.evaluation))
        pace = seconds_a_text(source, ctx)
        steps = _steps(recipe, source, ctx, pace)
    proof = pace * n_probes * (1 + ASKED_BY_A_PACKAGE * len(recipe.targets))
    memory = {need.part: round(need.bytes / 1e6, 1) for need in memory_of(recipe, source)}
    if recipe.compress:
        memory["compression"] = round(_compressing(recipe, [then for _, then in steps]) / 1e6, 1)
    made = tuple(step for step, _ in steps)
    return Plan(
        source.provenance.id,
        source.task.name,
        len(ctx.calibration),
        made,
        round(proof, 1),
        max(memory.values()),
        memory,
    )


def _compressing(recipe: "Recipe", sizes: "Sequence[Forecast]") -> float:
    """Return the bytes that the most demanding stage holds, given what the source and each stage leave."""
    stages = zip(recipe.compress, sizes, strict=False)
    # What is not the source itself lies in memory beside it.
    return max(stage.copies * now.bytes(4) + (sizes[0].bytes(4) if i else 0) for i, (stage, now) in enumerate(stages))


def _steps(recipe: "Recipe", source: "TorchModel", ctx: Context, pace: float) -> list[tuple[Step, Forecast]]:
    now = forecast_of(source)
    speed = speed_of(recipe, source, ctx)
    made = [(_step("source", now, now, recipe, speed, pace), now)]
    for stage in recipe.compress:
        then = stage.forecast(now, source, ctx)
        made.append((_step(stage.name, now, then, recipe, speed, pace), then))
        now = then
    return made


def _step(name: str, before: Forecast, now: Forecast, recipe: "Recipe", speed: Any, pace: float) -> Step:
    sizes = {
        t.name: round(now.bytes(t.menu()[tried(t, p)[0].name].bytes_a_weight) / 1e6, 3)
        for t, p in zip(recipe.targets, recipe.precisions, strict=True)
    }
    notes = now.notes[len(before.notes) :]
    if name != "source" and now == before:
        notes = (*notes, "its size does not change, or is known only when it runs")
    seconds = round(pace * (now.passes - before.passes), 1)
    return Step(name, now.parameters, sizes, speed(now), seconds, notes)


def speed_of(recipe: "Recipe", source: "TorchModel", ctx: Context) -> Any:
    """Return what tells the milliseconds of a forecast; None where there is no table for model and target."""
    if not recipe.targets[0].timed or not forecast_of(source).widths or not ctx.calibration:
        return lambda _: None
    from converter.structured.forecast import table_of

    try:
        table = table_of(source, ctx)
    except ExportError:
        return lambda _: None
    return lambda then: round(table.total(then.widths), 3) if then.widths else None


def seconds_a_text(source: "TorchModel", ctx: Context) -> float:
    """Return the time that the source takes for a calibration text, alone, on this machine."""
    from converter.data.probes import even_sample
    from converter.reference import encode_probes, run_probe, torch_run

    run = torch_run(source)
    probes = encode_probes(source, even_sample(ctx.calibration, TIMED_TEXTS))
    if not probes:
        return 0.0
    run_probe(source, probes[0], run)  # the first run allocates
    started = time.perf_counter()
    for probe in probes:
        run_probe(source, probe, run)
    return (time.perf_counter() - started) / len(probes)
