"""Within one run of the tests, PyTorch's exporter and litert-torch work once for the same module and the same inputs.

They take most of the time of most tests, which export the same tiny models. What is shared is what they really made in
this run, and only that: all that this project does with it (rewrites, comparison with PyTorch, writing) is done anew in
every test. Shared is under a digest of all that is traced: class, attributes, configuration and every weight of the
module, the inputs, and the options. A module that does not pickle (one with a test's hook on it) is never shared, and
none is within a test that replaces parts of the code, or is about exporting twice (`exported_anew`).
"""

import fcntl
import hashlib
import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.asked_once import AskedOnce

LARGEST = 256_000_000
"""Bytes of weights up to which a file is kept."""

UNTRACED = {"name_or_path", "_name_or_path", "architectures", "transformers_version", "_weight_conversions"}
"""Where a model was read from, and what saving or loading notes: the same one lies in other folders in many tests."""


class Shared:
    """What was made in this run, in a folder that all its workers know."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.on = True
        self.asked = AskedOnce()
        self.made, self.read = 0, 0

    def patch(self, patch: pytest.MonkeyPatch) -> None:
        """Put this before both exporters, where they are installed."""
        import torch.onnx

        patch.setattr(torch.onnx, "export", self._onnx(torch.onnx.export))
        try:
            import litert_torch
        except ImportError:
            return
        patch.setattr(litert_torch.Converter, "convert", self._tflite(litert_torch.Converter.convert))

    def _onnx(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def export(module: Any, *args: Any, **options: Any) -> Any:
            import onnx
            import onnx_ir
            import torch

            path = self.path_of("onnx", module, (args, options))
            if path is None:
                return real(module, *args, **options)
            with _alone(path):
                if path.is_file():
                    self.read += 1
                    return torch.onnx.ONNXProgram(_aligned(onnx_ir.from_proto(onnx.load(str(path)))), None)  # type: ignore[arg-type]
                made = real(module, *args, **options)
                self.made += 1
                _write(path, onnx_ir.to_proto(made.model).SerializeToString())
                return made

        return export

    def _tflite(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def convert(converter: Any, **options: Any) -> Any:
            from litert_torch.model import LiteRTModel

            signatures = converter._signatures
            inputs = [(s.name, s.sample_args, s.sample_kwargs, s.dynamic_shapes) for s in signatures]
            modules = {id(s.module): s.module for s in signatures}
            path = self.path_of("tflite", list(modules.values()), (inputs, options))
            if path is None:
                return real(converter, **options)
            with _alone(path):
                if path.is_file():
                    self.read += 1
                    return LiteRTModel(path.read_bytes())
                made = real(converter, **options)
                self.made += 1
                _write(path, made.model_content())
                return made

        return convert

    def path_of(self, kind: str, traced: Any, given: Any) -> Path | None:
        """Return where the file is or will be; None where it must not be shared."""
        if not self.on:
            return None
        stream = io.BytesIO()
        digest = _Digest(stream)
        try:
            digest.dump((traced, given))
        except (pickle.PicklingError, AttributeError, TypeError):
            return None
        if digest.n_bytes > LARGEST:
            return None
        return self.folder / f"{kind}-{hashlib.sha256(stream.getvalue()).hexdigest()[:32]}"


class _Digest(pickle._Pickler):  # the one in Python: the one in C asks nobody about sets
    """Pickles a module with a digest in place of each tensor, and sets in order: another process has another one."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, protocol=5)
        self.n_bytes = 0

    def reducer_override(self, value: Any) -> Any:
        import torch
        from transformers import PreTrainedConfig

        if isinstance(value, torch.nn.Module | PreTrainedConfig):
            made = value.__reduce_ex__(5)
            if len(made) < 3 or not isinstance(made[2], dict):
                return made
            # Saving spells a type out.
            told = {k: str(v).removeprefix("torch.") if isinstance(v, torch.dtype) else v for k, v in made[2].items()}
            return *made[:2], {k: v for k, v in told.items() if k not in UNTRACED}, *made[3:]
        if not isinstance(value, torch.Tensor):
            return NotImplemented
        content = value.detach().contiguous()
        self.n_bytes += content.nbytes
        found = hashlib.sha256(content.numpy().tobytes()).hexdigest()
        return str, (f"{type(value).__name__} {value.dtype} {tuple(value.shape)} {value.requires_grad} {found}",)

    def memoize(self, value: Any) -> None:
        """Refer to nothing that is equal wherever it is equal: whether two strings are one object is chance."""
        if not isinstance(value, str | bytes | tuple):
            super().memoize(value)

    def _save_in_order(self, value: Any) -> None:
        self.save((type(value).__name__, sorted(value, key=repr)))

    dispatch: ClassVar[dict[Any, Any]] = {
        **pickle._Pickler.dispatch,
        set: _save_in_order,
        frozenset: _save_in_order,
    }


def _aligned(model: Any) -> Any:
    """Lay every weight where PyTorch would: how sums are rounded depends on where their numbers lie."""
    import onnx_ir
    import torch

    for value in model.graph.initializers.values():
        held = torch.from_numpy(value.const_value.numpy().copy()).clone()
        value.const_value = onnx_ir.tensor(held.numpy(), dtype=value.const_value.dtype, name=value.const_value.name)
    return model


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the file: another worker that wants the same waits, and then reads it."""
    path.parent.mkdir(exist_ok=True)
    with path.with_suffix(".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # given back when the file closes
        yield


def _write(path: Path, content: bytes) -> None:
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    partial.rename(path)
