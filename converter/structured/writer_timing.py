"""Sublayers of models that write text, timed on this machine: alone, and then put right by whole stacks."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.structured.timing import COPIES, ascending, milliseconds, open_session, plane
from converter.structured.writer_kernels import Phase, WriterChain, WriterDimensions, WriterProducts

if TYPE_CHECKING:
    from converter.stage import Progress

WIDTHS = (1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)
"""Shares of the widest that are timed, alone and in a whole stack."""
ROUNDS = 8
"""So many that the least of them is free of what else the machine does."""
MOST_WEIGHTS = 2e8
"""Bytes of a stack that is timed whole: more than caches hold, so that further layers take as much as these."""
BYTES: Mapping[WriterProducts, float] = {"int8": 1.03, "int4": 0.53, "dynamic": 1.0, "float": 4.0}
"""Of a weight."""
OUTPUT = "output"


@dataclass(frozen=True)
class PhaseTimer:
    """One phase of one stack: a decoder behind an encoder reads no prompt, but makes keys and values of the text."""

    size: WriterDimensions
    products: WriterProducts
    widest: tuple[int, int]
    length: int
    """Tokens of the prompt, or in the cache."""
    phase: Phase

    @property
    def reads(self) -> bool:
        return not (self.size.crosses and self.phase == "prefill")

    def widths(self) -> dict[str, list[int]]:
        """Return the widths that are timed, ascending."""
        heads = sorted({max(1, round(self.widest[0] * w)) for w in WIDTHS})
        least = min(32, self.widest[1])
        neurons = sorted({max(least, round(self.widest[1] * w / least) * least) for w in WIDTHS})
        return {"heads": heads, "neurons": neurons} if self.reads else {"heads": heads}

    def sublayers(self, rows: Sequence[tuple[str, int]]) -> WriterChain:
        """Return a chain of these sublayers: their kind and width."""
        made = WriterChain(self.size, self.products, 0 if self.phase == "prefill" else self.length)
        made.bias_only()
        for kind, width in rows:
            if kind == OUTPUT:
                made.output()
            elif kind == "neurons":
                made.ffn(width)
            elif self.reads:
                made.attention(width)
            else:
                made.cross_keys(width)
        return made

    @property
    def n_layers(self) -> int:
        """Layers of a stack that is timed whole."""
        size, (heads, neurons) = self.size, self.widest
        weights = 2 * heads * (size.head_dim + size.key_dim) + (size.ffn_blocks + 1) * neurons * self.reads
        return min(size.layers, max(1, round(MOST_WEIGHTS / (size.hidden * weights * BYTES[self.products]))))

    def stack(self, share: float) -> list[tuple[str, int]]:
        """Return the sublayers of a stack with this share of the widths."""
        layer = [(kind, nearest(row, row[-1] * share)) for kind, row in self.widths().items()]
        return layer * self.n_layers

    def take(self, progress: "Progress") -> dict[str, Any]:
        """Return milliseconds by width, what no pruning removes, and of it the output layer, of one text on one thread.

        `cpu_share` tells how much of a CPU there was: times of a busy machine say little.
        """
        points = [(kind, width) for kind, row in self.widths().items() for width in row]
        graphs: dict[Any, WriterChain] = {"none": self.sublayers([])}
        graphs |= {point: self.sublayers([point] * COPIES) for point in points}
        behind = [(OUTPUT, 0)] if self.phase == "decode" else []
        graphs |= {share: self.sublayers([*self.stack(share), *behind]) for share in WIDTHS}
        if behind:
            graphs[OUTPUT] = self.sublayers(behind)
        started, busy = time.perf_counter(), time.thread_time()
        found = self._least(graphs, progress)
        cpu_share = (time.thread_time() - busy) / (time.perf_counter() - started)
        alone = {point: max(0.0, found[point] - found["none"]) / COPIES for point in points}
        sums = [(sum(alone[row] for row in self.stack(share)), 0.0) for share in WIDTHS]
        fixed, (slope, _) = plane(sums, [found[share] for share in WIDTHS])
        rows = {
            kind: ascending([(0, 0.0), *((n, slope * alone[kind, n]) for n in row)])
            for kind, row in self.widths().items()
        }
        output = max(0.0, found[OUTPUT] - found["none"]) if OUTPUT in found else 0.0
        return {"neurons": [(0, 0.0)], **rows, "fixed": fixed, "output": output, "cpu_share": cpu_share}

    def _least(self, graphs: Mapping[Any, WriterChain], progress: "Progress") -> dict[Any, float]:
        """Return milliseconds, the least of several runs; all graphs take turns."""
        tokens = self.length if self.phase == "prefill" else 1
        stream = np.random.default_rng(0).standard_normal((1, tokens, self.size.hidden)).astype(np.float32)
        sessions = {name: open_session(chain) for name, chain in graphs.items()}
        found = dict.fromkeys(sessions, np.inf)
        with progress.task(f"Timing sublayers: {self.phase}", total=ROUNDS) as ticker:
            for _ in range(ROUNDS):
                for name, session in sessions.items():
                    found[name] = min(found[name], milliseconds(session, {"stream": stream}))
                ticker.advance()
        return {name: float(value) for name, value in found.items()}


def nearest(row: Sequence[int], width: float) -> int:
    return min(row, key=lambda n: abs(n - width))
