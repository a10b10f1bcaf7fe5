"""`sample:NAME` as a model: made by `sample_models/`, which is imported only when asked for."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from converter.stage import Progress

PREFIX = "sample:"


def resolve_model(model: str, progress: "Progress") -> str:
    """Return the folder of `sample:NAME`, making it first where needed; anything else is returned as it is."""
    if not model.startswith(PREFIX):
        return model
    import sample_models

    return str(sample_models.folder(model.removeprefix(PREFIX), progress))
