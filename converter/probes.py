"""Text to judge by where the user gives none."""

from collections.abc import Sequence

from converter.artifact import TorchModel
from converter.examples import Example


def builtin_examples(model: TorchModel) -> tuple[Example, ...]:
    return tuple(
        Example(t) for t in ("A good film.", "Terrible, a waste of time.", "", "I do not know what to say about this.")
    )


def choose_probes(given: Sequence[Example], builtin: Sequence[Example], limit: int) -> tuple[Example, ...]:
    return tuple(given[:limit]) if given else tuple(builtin)
