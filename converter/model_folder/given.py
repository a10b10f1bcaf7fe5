"""What a recipe gives a run to work from: the source model at its length, and the user's text."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from converter.errors import UsageError

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.examples import Example
    from converter.model_folder.offload import Placement
    from converter.recipe import Recipe
    from converter.stage import Progress
    from converter.task import Task


@dataclass(frozen=True)
class GivenText:
    """Text of the user's own; empty where there is none."""

    evaluation: tuple["Example", ...] = ()
    calibration: tuple["Example", ...] = ()
    notes: tuple[str, ...] = ()
    """How the files were read, a sentence each."""

    @property
    def judged(self) -> tuple["Example", ...]:
        """What the source and its packages are asked."""
        return self.evaluation or self.calibration


def most_compared(recipe: "Recipe", task: "Task") -> int:
    """Return how many texts are compared at most: what the recipe says, less for a task whose texts take long.

    Not less of a user's evaluation text. Its bounds decide, and those of few texts decide nothing: 48 without any other
    answer prove an agreement of 0.94.
    """
    from converter.model_folder.samples import is_sample

    own = recipe.evaluation is not None and not is_sample(str(recipe.evaluation))
    return recipe.n_probes if own else min(recipe.n_probes, task.most_texts or recipe.n_probes)


def load_model(recipe: "Recipe", progress: "Progress", placement: "Placement | None" = None) -> "TorchModel":
    """Load the source, held to the recipe's length; `placement`: what has no room in memory stays on disk.

    Raises:
        SourceError: it cannot be read, or is refused.
        UsageError: the recipe asks for more tokens than the model takes.

    """
    from converter.model_folder.load import load_source
    from converter.model_folder.samples import resolve_model

    source = load_source(
        resolve_model(recipe.model, progress),
        revision=recipe.revision,
        task=recipe.task,
        prompt=recipe.prompt,
        language=recipe.language,
        placement=placement,
        longest=recipe.max_length,
    )
    return at_max_length(source, recipe.max_length)


def refuse_absent(recipe: "Recipe") -> None:
    """Refuse a recipe that names a folder or a file that is not there; nothing is opened, and no Hub is asked.

    Raises:
        SourceError: there is no such model folder.
        DataError: there is no such file of texts.

    """
    from converter.data.files import check_present
    from converter.model_folder.locate import check_local
    from converter.model_folder.samples import is_sample

    if not is_sample(recipe.model):
        check_local(recipe.model)
    for file in (recipe.evaluation, recipe.calibration):
        if file is not None and not is_sample(str(file)):
            check_present(file)


def with_usual_precisions(recipe: "Recipe", source: "TorchModel") -> "Recipe":
    """Return the recipe as it is for this kind of model: a precision that nobody named is one that it can have."""
    if source.cache is None:
        return recipe
    made = [
        replace(p, name=t.writes[0], options={}) if not p.named and t.writes else p
        for t, p in zip(recipe.targets, recipe.precisions, strict=True)
    ]
    return replace(recipe, precisions=tuple(made))


def at_max_length(source: "TorchModel", wanted: int | None) -> "TorchModel":
    """Return the model that reads at most `wanted` tokens of a text; None: what its task reads at once."""
    limit = source.max_length
    if wanted is not None and wanted > limit:
        raise UsageError(
            f"the model takes {limit} tokens at most, not {wanted}",
            where="--max-length",
            hint=f"give {limit} or less, or leave it out",
        )
    usual = wanted or source.task.usual_length or limit
    return source if usual >= limit else replace(source, max_length=usual)


def read_given(recipe: "Recipe", source: "TorchModel", progress: "Progress") -> GivenText:
    """Read the recipe's files as the source's task needs them.

    Raises:
        DataError: a file or a row cannot be used; says which and why.

    """
    from converter.data.files import Data, read_data
    from converter.data.survey import DataOptions
    from converter.model_folder.samples import resolve_data

    def read(file: Path | None, *, judged: bool) -> Data:
        if file is None:
            return Data(())
        options = DataOptions(recipe.columns, recipe.label_map, strict=judged)
        return read_data(resolve_data(file, progress), source.task, options, judged=judged)

    evaluation = read(recipe.evaluation, judged=True)
    calibration = read(recipe.calibration, judged=recipe.evaluation is None)
    notes = tuple(dict.fromkeys((*evaluation.notes, *calibration.notes)))
    for note in notes:
        progress.note(note)
    return GivenText(evaluation.examples, calibration.examples, notes)
