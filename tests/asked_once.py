"""Within one process of the tests, what exporters ask their libraries is asked once for the same question.

None of it is of this project, none of it depends on a model, and together it is a third of an export of a tiny one. For
each operator of a graph litert-torch has JAX write a function of these shapes; before each step PyTorch looks up all
operators that it knows, once for each of its name spaces, and spells out a type for each of them; for each export
onnxscript reads the source code of all its functions. Where a test is about exporting twice (`exported_anew`) all of
it is asked each time, and so it is in processes that tests start. Where a test replaces code, it is this project's, and
the libraries answer as ever.
"""

import gc
from collections.abc import Callable
from typing import Any

import pytest

OPTIONS = ("undefined", "autoescape", "finalize", "trim_blocks", "lstrip_blocks", "keep_trailing_newline")
"""Of Jinja's, on which depends what becomes of a template; nothing here changes its marks, or extends it."""


class AskedOnce:
    """Answers of this process."""

    def __init__(self) -> None:
        self.on = True
        """Off: every question goes to its library, and nothing is kept of its answer."""
        self.written: dict[Any, str] = {}
        """What JAX wrote, by the function, the shapes and types of what it takes, and all other arguments."""
        self._known: list[str] = []

    def patch(self, patch: pytest.MonkeyPatch) -> None:
        import jinja2
        import torch._export.utils
        from onnxscript._internal.values import TracedOnnxFunction

        of_torch = torch._export.utils
        patch.setattr(of_torch, "_materialize_cpp_cia_ops", self._found(of_torch._materialize_cpp_cia_ops))
        patch.setattr(torch._ops, "Callable", _Spelled(self))
        patch.setattr(jinja2.Environment, "compile", self._translated(jinja2.Environment.compile))
        read = self.once(TracedOnnxFunction.function_ir.fget, by=id)
        patch.setattr(TracedOnnxFunction, "function_ir", property(read))
        try:
            from litert_torch.backend.jax_bridge import _wrap as bridge
        except ImportError:
            return
        patch.setattr(bridge, "_lower_to_ir_text", self._lowered(bridge._lower_to_ir_text, bridge))
        patch.setattr(bridge, "_stablehlo_to_vhlo", self.once(bridge._stablehlo_to_vhlo))

    def once(self, real: Callable[[Any], Any], by: Callable[[Any], Any] = lambda given: given) -> Callable[[Any], Any]:
        """Return a function of one argument that is called once for each, known `by` itself or what names it."""
        known: dict[Any, tuple[Any, Any]] = {}

        def ask(given: Any) -> Any:
            if not self.on:
                return real(given)
            if (key := by(given)) not in known:
                known[key] = given, real(given)  # kept, so that no other object gets its `id`
            return known[key][1]

        return ask

    def _found(self, real: Callable[[], None]) -> Callable[[], None]:
        """Look every operator up again only where a library has brought more."""
        import torch

        def materialize() -> None:
            if not self.on:
                real()
                return
            known = torch._C._dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd")
            if known != self._known:
                real()
                self._known = known

        return materialize

    def _translated(self, real: Callable[..., Any]) -> Callable[..., Any]:
        known: dict[Any, tuple[Any, Any]] = {}

        def compile_template(environment: Any, source: Any, *given: Any, **named: Any) -> Any:
            if not self.on or not isinstance(source, str):
                return real(environment, source, *given, **named)
            options = [getattr(environment, name) for name in OPTIONS]
            asked = source, given, *named.items(), *map(id, options), *map(id, environment.filters.values())
            if asked not in known:
                # With the options, so that nothing else gets their `id`.
                kept = options, list(environment.filters.values())
                known[asked] = kept, real(environment, source, *given, **named)
            return known[asked][1]

        return compile_template

    def _lowered(self, real: Callable[..., Any], bridge: Any) -> Callable[..., Any]:
        def lower(function: Any, args: Any, kwargs: Any, ir_input_names: Any = None) -> Any:
            ask, inputs = real(function, args, kwargs, ir_input_names=ir_input_names)
            asked = bridge.get_cache_fingerprint((function, args, kwargs, ir_input_names)) if self.on else None
            if asked is None or (asked := typed(asked)) is None:
                return ask, inputs

            def written() -> str:
                if asked not in self.written:
                    self.written[asked] = ask()
                return self.written[asked]

            return written, inputs

        return lower


class _Spelled:
    """`Callable`, which spells the same type out once."""

    def __init__(self, asked: AskedOnce) -> None:
        self._asked = asked
        self._known: dict[Any, Any] = {}

    def __getitem__(self, of: Any) -> Any:
        if not self._asked.on:
            return Callable[of]
        key = repr(of)
        if key not in self._known:
            self._known[key] = Callable[of]
        return self._known[key]

    def __instancecheck__(self, value: Any) -> bool:
        return callable(value)


def typed(value: Any) -> Any:
    """Tell 1 from 1.0 and True, 0.0 from -0.0; None for what belongs to one conversion."""
    if isinstance(value, tuple):
        made = tuple(typed(item) for item in value)
        return None if None in made else made
    if "mlir" in type(value).__module__:
        return None
    return type(value), repr(value) if isinstance(value, float) else value


def collect_of_jax_seldom() -> None:
    """Let JAX look for garbage of its own at the end of a collection of all objects, not twice at each of the young."""

    def seldom(collect: Callable[..., None]) -> Callable[..., None]:
        def callback(phase: str, info: dict[str, int]) -> None:
            if phase == "stop" and info["generation"] == 2:
                collect(phase, info)

        return callback

    # In place: Python keeps this very list.
    gc.callbacks[:] = [seldom(c) if getattr(c, "__name__", "") == "_xla_gc_callback" else c for c in gc.callbacks]
