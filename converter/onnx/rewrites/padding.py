"""Which attention biases are nothing but the padding mask: found by trying, as their graphs differ in every family.

A mask is computed by some twenty nodes and has a row for every query. Where it only hides padding, the operator's own
`key_padding_mask` says the same from `attention_mask` itself.
"""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from converter.graphs import BATCH, SEQUENCE, GraphSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

HIDDEN = -1e4
"""A bias at or below this hides a token: `exp` of it is 0 beside any score."""
MAX_CELLS = 2**22
"""A mask of 2048 × 2048 is still tried at full length; beyond that nothing is claimed."""


def padding_masks(path: Path, names: Collection[str], spec: GraphSpec, max_length: int) -> frozenset[str]:
    """Return those of the values `names` of the file that equal the padding mask, up to `max_length`.

    Each is computed for several batches and lengths, the longest too, where a sliding window would show. A value that
    the sub-graph of `attention_mask` and `input_ids` alone does not make (a learned position bias) is none.
    """
    if not names or max_length**2 > MAX_CELLS:
        return frozenset()
    from converter.onnx.runner import open_session

    small = path.with_name("masks.onnx")
    try:
        _extract(path, small, sorted(names))
        session = open_session(small)
    finally:
        small.unlink(missing_ok=True)
    kept = set(names)
    random = np.random.default_rng(0)
    for batch, length in ((1, 1), (2, 7), (3, min(40, max_length)), (1, max_length)):
        mask = np.ones((batch, length), dtype=np.int64)
        for row in range(1 if batch > 1 else 0, batch):
            mask[row, random.integers(1, length + 1) :] = 0
        dummy = spec.dummy({BATCH: batch, SEQUENCE: length}) | {"attention_mask": mask}
        feed = {i.name: dummy[i.name] for i in session.get_inputs()}
        for name, found in zip(sorted(names), session.run(sorted(names), feed), strict=True):
            if not _is_padding(found, mask):
                kept.discard(name)
    return frozenset(kept)


def _is_padding(found: "NDArray[np.float32]", mask: "NDArray[np.int64]") -> bool:
    if found.ndim != 4 or found.shape[1] != 1 or found.shape[3] != mask.shape[1]:
        return False  # the last: fewer tokens are left than there were
    shown = np.broadcast_to(
        mask[:, None, None, :] == 1, np.broadcast_shapes(found.shape, (len(mask), 1, 1, mask.shape[1]))
    )
    found = np.broadcast_to(found, shown.shape)
    return bool((found[shown] == 0).all() and (found[~shown] <= HIDDEN).all())


def _extract(path: Path, made: Path, names: list[str]) -> None:
    """Write the part of the graph that computes `names`."""
    import onnx

    from converter.onnx.read import read_proto

    model, _ = read_proto(path)
    graph = model.graph
    makers = {output: node for node in graph.node for output in node.output}
    needed: set[str] = set()
    queue = list(names)
    while queue:
        name = queue.pop()
        if name not in needed:
            needed.add(name)
            queue += makers[name].input if name in makers else []
    nodes = [n for n in graph.node if needed.intersection(n.output)]
    outputs = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names]
    part = onnx.helper.make_graph(
        nodes,
        "masks",
        [i for i in graph.input if i.name in needed],
        outputs,
        [t for t in graph.initializer if t.name in needed],
    )
    onnx.save(onnx.helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version), made)
