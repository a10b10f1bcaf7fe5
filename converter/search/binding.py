"""What trials are made from, on this machine or on a worker: the recipe's text, bound recipes, and a bench."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.context import RecipeText, check_options, read_text
from converter.recipe import Recipe, bind_recipe
from converter.reference import capture_reference
from converter.search.goal import Goal
from converter.search.workbench import Workbench
from converter.stage import SILENT, OutcomeCache, Progress
from converter.stage_cache.identity import artifact_key

if TYPE_CHECKING:
    from converter.artifact import TorchModel


@dataclass(frozen=True)
class Binding:
    """Makes whole recipes of what a search varies."""

    base: Mapping[str, Any]
    """A recipe without stages and precisions."""
    goal: Goal
    source: "TorchModel"
    learning: Path
    held_back: Path

    @property
    def base_of_trials(self) -> dict[str, Any]:
        """Return what another process is told of the recipe: `eval` stays where it is, no trial may see it."""
        return {k: v for k, v in self.base.items() if k != "eval"}

    def bound(self, varied: Mapping[str, Any], *, whole: bool = False) -> Recipe:
        """Return the recipe; `whole`: with the gate's text and limits.

        Raises:
            ExportError: the model refuses a stage or a precision.

        """
        table: dict[str, Any] = {**self.base, **varied, "calibration": str(self.learning)}
        (name,) = varied["targets"]
        options = {k: v for k, v in dict(self.base.get("target", {})).items() if k.replace("_", "-") == name}
        table |= {"target": options}
        table["eval"] = table.get("eval", str(self.held_back))
        limits = self.goal.gate_limits()
        if whole and limits:
            table["limits"] = limits
        made = bind_recipe({k: v for k, v in table.items() if v != {}}, where="search")
        if not whole:
            check_options(made, self.source)
        return made


def model_digest(source: "TorchModel") -> str:
    """Return a digest of a model with its tokenizer and settings, wherever its folder lies."""
    return artifact_key(replace(source, provenance=replace(source.provenance, id="")))


def read_halves(recipe: Recipe, source: "TorchModel", learning: Path, held_back: Path) -> tuple[Recipe, RecipeText]:
    """Return the recipe with the two parts of the text, and what is read of them."""
    halves = replace(recipe, calibration=learning, evaluation=held_back)
    return halves, read_text(halves, source, SILENT)


def bench_of(
    source: "TorchModel",
    text: RecipeText,
    work: Path,
    progress: Progress,
    *,
    seed: int,
    threads: int,
    cache: OutcomeCache | None = None,
) -> Workbench:
    """Ask the source about the tuning text; `threads` are those of what compresses the model."""
    given = text.given
    reference = capture_reference(source, given.evaluation, progress, given.evaluation, given.notes)
    return Workbench(
        source, given.calibration, reference, work, seed=seed, threads=threads, progress=SILENT, cache=cache
    )
