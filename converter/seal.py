"""Golden vectors, README and manifest of a finished bundle."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import converter
from converter.package import Package, plain, seal

if TYPE_CHECKING:
    from converter.artifact import Bundle, TorchModel
    from converter.recipe import Precision, Recipe
    from converter.stage import Record
    from converter.target import Target
    from converter.validate.checks import Evaluation


def seal_package(
    target: "Target",
    precision: "Precision",
    bundle: "Bundle",
    evaluation: "Evaluation",
    records: "Sequence[Record]",
    recipe: "Recipe",
    source: "TorchModel",
) -> Package:
    """Complete and seal `bundle`."""
    return seal(
        bundle,
        {
            "tool": {"name": "plm-export", "version": converter.__version__},
            "target": target.name,
            "precision": str(precision),
            "model_file": bundle.model_file,
            "task": source.task.name,
            "source": plain(source.provenance),
            "records": [plain(r) for r in records],
            "gate": {"status": evaluation.status, **plain(evaluation)},
        },
    )
