"""The tables of a TFLite file, as `ai_edge_litert.schema_py_generated` makes objects of them (`ModelT`, `TensorT`, …).

That module has no types of its own. These name the fields that are read or written here; numbers of tensors, buffers
and operations are places in the lists of their model or graph.
"""

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.int32] | list[int]

Name = bytes | str | None
"""`bytes` where it was read from a file."""


class Packable(Protocol):
    """Any object of the schema."""

    def Pack(self, builder: Any) -> int: ...  # noqa: N802


class Buffer(Protocol):
    """`BufferT`: the bytes of constants, here or (`offset` above 1) behind the tables."""

    data: "NDArray[np.uint8] | None"
    offset: int
    size: int


class Quantization(Protocol):
    """`QuantizationParametersT`: a scale a tensor, a row, or (in `details`) a block."""

    min: "NDArray[np.float32] | None"
    max: "NDArray[np.float32] | None"
    scale: "NDArray[np.float32] | None"
    zeroPoint: "NDArray[np.int64] | None"  # noqa: N815
    quantizedDimension: int  # noqa: N815
    details: Any
    detailsType: int  # noqa: N815


class Tensor(Protocol):
    """`TensorT`. `type` is a number of `TensorType`; a `shapeSignature` has -1 where the length may change."""

    name: Name
    shape: "Numbers | None"
    shapeSignature: "Numbers | None"  # noqa: N815
    type: int
    buffer: int
    quantization: Quantization | None
    isVariable: bool  # noqa: N815
    hasRank: bool  # noqa: N815


class Operator(Protocol):
    """`OperatorT`. Inputs that are left out are -1; `builtinOptions` is a table of the operation's own."""

    opcodeIndex: int  # noqa: N815
    inputs: "Numbers | None"
    outputs: "Numbers | None"
    builtinOptionsType: int  # noqa: N815
    builtinOptions: Any  # noqa: N815
    builtinOptions2Type: int  # noqa: N815
    builtinOptions2: Any  # noqa: N815
    customOptions: "NDArray[np.uint8] | None"  # noqa: N815


class OperatorCode(Protocol):
    """`OperatorCodeT`: a built-in operation, and the version of it that the file needs."""

    builtinCode: int  # noqa: N815
    deprecatedBuiltinCode: int  # noqa: N815
    customCode: Name  # noqa: N815
    version: int


class Graph(Protocol):
    """`SubGraphT`: operators in the order in which they run."""

    name: Name
    tensors: list[Tensor]
    operators: list[Operator]
    inputs: "Numbers"
    outputs: "Numbers"


class TensorMap(Protocol):
    """`TensorMapT`: a tensor by the name that callers use."""

    name: Name
    tensorIndex: int  # noqa: N815


class Signature(Protocol):
    """`SignatureDefT`: a graph as callers see it."""

    signatureKey: Name  # noqa: N815
    inputs: list[TensorMap]
    outputs: list[TensorMap]
    subgraphIndex: int  # noqa: N815


class Metadata(Protocol):
    """`MetadataT`: bytes by a name."""

    name: Name
    buffer: int


class Model(Packable, Protocol):
    """`ModelT`: a whole file."""

    version: int
    description: Name
    operatorCodes: list[OperatorCode]  # noqa: N815
    subgraphs: list[Graph]
    buffers: list[Buffer]
    metadata: list[Metadata] | None
    signatureDefs: list[Signature]  # noqa: N815
