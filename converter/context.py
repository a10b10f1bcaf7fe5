"""What a recipe gives its stages to work from: its text, split once into what is judged and what is learned from."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from converter.examples import JudgedText, Origin, text_key
from converter.model_folder.samples import is_sample
from converter.recipe import aim_of
from converter.stage import Context, Progress

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.examples import Example
    from converter.model_folder.given import GivenText
    from converter.recipe import Recipe


@dataclass(frozen=True)
class RecipeText:
    """The user's text, completed with built-in text."""

    given: "GivenText"
    probes: tuple["Example", ...]
    """What the source and its packages are asked, one by one."""
    calibration: tuple["Example", ...]
    """What stages measure and learn on: never the evaluation text, which would tune on the test."""


def read_text(recipe: "Recipe", source: "TorchModel", progress: Progress) -> RecipeText:
    """Read the recipe's text files, and choose the probes and the calibration text.

    Raises:
        DataError: a file or a row cannot be used; says which and why.

    """
    from converter.data.probes import builtin_examples, calibration_texts, choose_probes
    from converter.model_folder.given import read_given

    given = read_given(recipe, source, progress)
    builtin = builtin_examples(source)
    return RecipeText(
        given,
        choose_probes(given.judged, builtin, min(recipe.n_probes, source.task.most_texts or recipe.n_probes)),
        calibration_texts(given.calibration, builtin, len(given.calibration) + len(builtin)),
    )


def judged_text(recipe: "Recipe", text: RecipeText) -> JudgedText:
    """Say whose text packages are judged on. A bundled sample's own evaluation text is no text of the user's."""
    given = recipe.evaluation or recipe.calibration
    own = given is not None and not is_sample(str(given))
    origin = Origin.BUILT_IN if not own else Origin.OWN if recipe.evaluation else Origin.CALIBRATION
    return JudgedText(
        origin,
        recipe.confidence,
        calibrated=frozenset(text_key(e) for e in text.calibration),
        slices=recipe.slices,
    )


def context_of(
    recipe: "Recipe",
    source: "TorchModel",
    text: RecipeText,
    work: Path,
    progress: Progress,
    *,
    held_out: tuple["Example", ...] = (),
    resume: Path | None = None,
) -> Context:
    """Return the context of the recipe's stages; `work` is their scratch folder."""
    return Context(
        work=work,
        seed=recipe.seed,
        calibration=text.calibration,
        calibration_is_builtin=not text.given.calibration,
        held_out=held_out,
        teacher=source,
        progress=progress,
        aim=aim_of(recipe),
        resume=resume,
    )
