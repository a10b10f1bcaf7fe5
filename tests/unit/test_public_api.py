"""`converter.__all__` is the whole promise."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import converter

PROMISED = {
    "ExportError",
    "Recipe",
    "Result",
    "__version__",
    "convert",
    "load_recipe",
    "open_package",
    "sign",
    "verify",
}
"""Written out: a name joins or leaves the promise only by changing this line too."""


def test_the_promise_is_what_is_written_here() -> None:
    assert set(converter.__all__) == PROMISED
    assert len(converter.__all__) == len(PROMISED)


@pytest.mark.parametrize("name", sorted(PROMISED))
def test_every_promised_name_can_be_had_and_says_what_it_is(name: str) -> None:
    value = getattr(converter, name)
    assert name == "__version__" or inspect.getdoc(value), f"converter.{name} has no docstring"


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = converter.no_such_name


def test_a_fresh_interpreter_offers_nothing_else_in_public() -> None:
    code = "import converter; print([n for n in vars(converter) if not n.startswith('_')])"
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    # Modules that the package's own top imports; everything promised comes by __getattr__.
    assert set(ast.literal_eval(listed)) <= {"os", "TYPE_CHECKING", "Any"} | PROMISED


def test_functions_of_the_promise_are_typed() -> None:
    for name in ("convert", "load_recipe", "open_package", "sign", "verify"):
        signature = inspect.signature(getattr(converter, name))
        untyped = [p.name for p in signature.parameters.values() if p.annotation is inspect.Parameter.empty]
        assert not untyped, f"{name}: {untyped}"
        assert signature.return_annotation is not inspect.Signature.empty, name


def test_the_package_is_marked_as_typed() -> None:
    assert (Path(converter.__file__).parent / "py.typed").is_file()
