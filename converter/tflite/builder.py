"""Tables to bytes, with equal vectors and names written once."""

from typing import TYPE_CHECKING, Any

import flatbuffers
import numpy as np

if TYPE_CHECKING:
    from converter.tflite.schema import Packable

IDENTIFIER = b"TFL3"
BYTES_ALIGNED = 16
"""The schema's own demand on a buffer's data."""


class _Sharing(flatbuffers.Builder):
    """Writes equal vectors and strings once."""

    def __init__(self) -> None:
        super().__init__(1 << 16)
        self._vectors: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: "np.ndarray[Any, Any]") -> int:  # noqa: N802 - flatbuffers' name
        if x.dtype == np.uint8:
            return self._weights(x)
        key = (x.dtype.str, x.tobytes())
        if key not in self._vectors:
            self._vectors[key] = super().CreateNumpyVector(x)
        return self._vectors[key]

    def _weights(self, x: "np.ndarray[Any, Any]") -> int:
        """Write a buffer's bytes where kernels may load numbers from; they are equal to no other's already."""
        self.StartVector(1, x.size, BYTES_ALIGNED)
        self.head -= x.size
        self.Bytes[self.head : self.head + x.size] = x.tobytes()
        self.vectorNumElems = x.size
        return int(self.EndVector())

    def CreateString(self, s: "str | bytes", encoding: str = "utf-8", errors: str = "strict") -> int:  # noqa: N802
        content = s if isinstance(s, bytes) else s.encode(encoding, errors)
        key = ("string", content)
        if key not in self._vectors:
            self._vectors[key] = super().CreateString(content)
        return self._vectors[key]


def packed(packable: "Packable", identifier: bytes = IDENTIFIER) -> bytes:
    """Return the bytes of any object of the schema."""
    builder = _Sharing()
    builder.Finish(packable.Pack(builder), file_identifier=identifier)
    return bytes(builder.Output())
