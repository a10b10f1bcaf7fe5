"""What a model was asked for one package of a run, kept for the others: the same question has the same answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING

from converter.examples import Encoding
from converter.reference import Probe
from converter.task import Judged

if TYPE_CHECKING:
    from converter.artifact import TorchModel

MOST_VALUES = 16_000_000
"""Numbers that are kept (64 MB): what a wide vocabulary answers is asked again instead."""
Ids = tuple[bytes, ...]
Key = tuple[int, int, str, tuple[Ids, ...]]


@dataclass
class Asked:
    """Answers by model, by how it was asked, and by token ids.

    Only the same texts together have the same answers to the last bit: texts that are asked in other batches are summed
    in another order, and a package would have other bytes where it is made again alone.
    """

    known: dict[Key, tuple[Judged, ...]] = field(default_factory=dict)
    models: "list[TorchModel]" = field(default_factory=list)
    """Held, so that no other model can take the place of one in memory."""
    n_values: int = 0
    _lock: Lock = field(default_factory=Lock, repr=False)

    def again(
        self, model: "TorchModel", how: str, probes: Sequence[Probe], ask: Callable[[Sequence[Probe]], Sequence[Judged]]
    ) -> list[Judged]:
        """Return the answers to `probes` in order; `ask` is called where these were not asked before.

        `how` names what is done with the model, such as rounding its weights.
        """
        key = id(model.module), id(model.head), how, tuple(ids_of(p.encoding) for p in probes)
        found = self.known.get(key)
        if found is None:
            found = tuple(ask(probes))
            n_values = sum(v.size for j in found for v in j.outputs.values())
            with self._lock:  # questions may be asked beside each other
                if self.n_values + n_values <= MOST_VALUES:
                    self.known[key] = found
                    self.n_values += n_values
                    self.models.append(model)
        # Two texts may have the same tokens.
        return [Judged(p.example, p.encoding, j.outputs) for p, j in zip(probes, found, strict=True)]


def ids_of(encoding: Encoding) -> Ids:
    """Return what tells texts apart that a model reads alike: all of its ids."""
    return tuple(ids.tobytes() for _, ids in sorted(encoding.inputs.items()))
