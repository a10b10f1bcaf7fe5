"""Tables to bytes, with equal vectors and names written once."""

from typing import Any

import flatbuffers
import numpy as np

IDENTIFIER = b"TFL3"


class _Sharing(flatbuffers.Builder):
    """Writes equal vectors and strings once."""

    def __init__(self) -> None:
        super().__init__(1 << 16)
        self._vectors: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: "np.ndarray[Any, Any]") -> int:  # noqa: N802 - flatbuffers' name
        key = (x.dtype.str, x.tobytes())
        if key not in self._vectors:
            self._vectors[key] = super().CreateNumpyVector(x)
        return self._vectors[key]

    def CreateString(self, s: "str | bytes", encoding: str = "utf-8", errors: str = "strict") -> int:  # noqa: N802
        content = s if isinstance(s, bytes) else s.encode(encoding, errors)
        key = ("string", content)
        if key not in self._vectors:
            self._vectors[key] = super().CreateString(content)
        return self._vectors[key]


def packed(model: Any, identifier: bytes = IDENTIFIER) -> bytes:
    """Return the bytes of any object of the schema."""
    builder = _Sharing()
    builder.Finish(model.Pack(builder), file_identifier=identifier)
    return bytes(builder.Output())
