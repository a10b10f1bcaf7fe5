"""Small TFLite graphs built by hand, for the rewrites that change them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converter.tflite.file import add_buffer, add_tensor, code_of, opcode, outputs_of, write_flat
from converter.tflite.lower.narrow import operation_names


class Built:
    """One model with one graph, operation by operation, under the signature `main`."""

    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._schema = schema
        self.model, self.graph = schema.ModelT(), schema.SubGraphT([], None, None, [], "main")
        self.model.buffers, self.model.operatorCodes, self.model.subgraphs = [schema.BufferT()], [], [self.graph]
        self.model.version = 3

    def tensor(self, name: str, shape: Sequence[int]) -> int:
        return add_tensor(self.graph, name, tuple(shape), self._schema.TensorType.FLOAT32)

    def constant(self, name: str, values: Any) -> int:
        """Add a constant: int32 where its numbers are whole by type, else float32."""
        held = np.asarray(values)
        whole = held.dtype.kind == "i"
        held = held.astype(np.int32 if whole else np.float32)
        kind = self._schema.TensorType.INT32 if whole else self._schema.TensorType.FLOAT32
        return add_tensor(self.graph, name, held.shape, kind, add_buffer(self.model, held))

    def add(self, kind: str, inputs: Sequence[int], shape: Sequence[int], options: Any = None) -> int:
        """Add an operation; returns what it makes. `options`: an object of the schema, set by its class's name."""
        made = self.tensor(f"{kind.lower()}.{len(self.graph.operators)}", shape)
        code = opcode(self.model, getattr(self._schema.BuiltinOperator, kind))
        op = self._schema.OperatorT(code, np.array(inputs, np.int32), np.array([made], np.int32))
        if options is not None:
            op.builtinOptions = options
            op.builtinOptionsType = getattr(self._schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self.graph.operators.append(op)
        return made

    def binary(self, kind: str, a: int, b: int, shape: Sequence[int]) -> int:
        return self.add(kind, [a, b], shape, getattr(self._schema, f"{kind.title()}OptionsT")())

    def linear(self, given: int, weights: int, bias: int, shape: Sequence[int]) -> int:
        options = self._schema.FullyConnectedOptionsT(keepNumDims=True)
        return self.add("FULLY_CONNECTED", [given, weights, bias], shape, options)

    def close(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        self.graph.inputs, self.graph.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        sides = [
            [self._schema.TensorMapT(f"{word}{i}", int(t)) for i, t in enumerate(side)]
            for word, side in (("x", inputs), ("y", outputs))
        ]
        self.model.signatureDefs = [self._schema.SignatureDefT(*sides, "main", 0)]

    def kinds(self) -> list[str]:
        return [operation_names()[code_of(self.model, op)] for op in self.graph.operators]

    def maker(self, tensor: int) -> Any:
        return next(op for op in self.graph.operators if tensor in outputs_of(op))

    def run(self, path: Path, *feed: "np.ndarray[Any, Any]") -> list["np.ndarray[Any, Any]"]:
        """Write the graph as it is now, and run it."""
        from ai_edge_litert.interpreter import Interpreter

        inputs, outputs = [int(t) for t in self.graph.inputs], [int(t) for t in self.graph.outputs]
        write_flat(self.model, path)
        # Writing numbers tensors anew, in the order that they had.
        self.close(self.graph.inputs, self.graph.outputs)
        assert (len(inputs), len(outputs)) == (len(self.graph.inputs), len(self.graph.outputs))
        made = Interpreter(str(path)).get_signature_runner("main")(**{f"x{i}": x for i, x in enumerate(feed)})
        return [made[f"y{i}"] for i in range(len(outputs))]
