"""Within one process of the tests, what exporters ask their libraries is asked once for the same question.

None of it is of this project, none of it depends on a model, and each export of a tiny one spends half a second on it.
Before each step PyTorch looks up all operators that it knows, once for each of its name spaces, and spells out a type
for each of them; for each export onnxscript reads the source code of all its functions. Processes that tests start ask
for everything.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import pytest


class AskedOnce:
    """Answers of this process."""

    def __init__(self) -> None:
        self._known: list[str] = []

    def patch(self, patch: pytest.MonkeyPatch) -> None:
        import torch._export.utils
        from onnxscript._internal.values import TracedOnnxFunction

        of_torch = torch._export.utils
        patch.setattr(of_torch, "_materialize_cpp_cia_ops", self._found(of_torch._materialize_cpp_cia_ops))
        patch.setattr(torch._ops, "Callable", _Spelled())
        read = cached_property(TracedOnnxFunction.function_ir.fget)
        read.__set_name__(TracedOnnxFunction, "function_ir")
        patch.setattr(TracedOnnxFunction, "function_ir", read)

    def _found(self, real: Callable[[], None]) -> Callable[[], None]:
        """Look every operator up again only where a library has brought more."""
        import torch

        def materialize() -> None:
            known = torch._C._dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd")
            if known != self._known:
                real()
                self._known = known

        return materialize


class _Spelled:
    """`Callable`, which spells the same type out once."""

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}

    def __getitem__(self, of: Any) -> Any:
        key = repr(of)
        if key not in self._known:
            self._known[key] = Callable[of]
        return self._known[key]

    def __instancecheck__(self, value: Any) -> bool:
        return callable(value)
