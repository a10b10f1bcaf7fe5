"""Imports point only down the layers, and nothing heavy stands between the user and `--help`."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("converter", "targets", "sample_models")
HEAVY = {
    "torch",
    "transformers",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "litert_torch",
    "ai_edge_litert",
    "ai_edge_quantizer",
    "tensorflow",
    "optimum",
    "accelerate",
    "scipy",
    "sklearn",
}
# Section 2 of the design: a module may import its own layer and those below. The longest prefix counts; what is not
# listed is layer 2, where stages, tasks, families and checks live.
LAYERS = {
    "converter.errors": 0,
    "converter.jsonfile": 0,
    "converter.binding": 1,
    "converter.graphs": 1,
    "converter.examples": 1,
    "converter.artifact": 1,
    "converter.stage": 1,
    "converter.forecast": 1,
    "converter.registry": 1,
    "converter.recipe": 3,
    "converter.package.manifest": 3,
    "converter.package.seal": 3,
    "converter.package.golden": 3,
    "converter.package.verify": 3,
    "converter.report": 3,
    "converter.pipeline": 4,
    "converter.planning": 4,
    "converter.api": 4,
    "converter.commands": 5,
    "converter.commands.cli": 5,
    "converter": 2,
    "targets": 3,
    "sample_models": 3,
}


def modules() -> list[str]:
    return sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    )


def file_of(module: str) -> Path:
    path = ROOT / Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def layer(module: str) -> int:
    parts = module.split(".")
    return next(LAYERS[name] for i in range(len(parts), 0, -1) if (name := ".".join(parts[:i])) in LAYERS)


def top_imports(tree: ast.Module) -> Iterator[str]:
    """Yield what an import of the module itself imports: not what stands in functions or under TYPE_CHECKING."""
    yield from _imports(_top_statements(tree.body))


def _top_statements(body: list[ast.stmt]) -> Iterator[ast.AST]:
    for node in body:
        if isinstance(node, ast.If):
            if "TYPE_CHECKING" not in ast.unparse(node.test):
                yield from _top_statements([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            yield from _top_statements([*node.body, *node.orelse, *(s for h in node.handlers for s in h.body)])
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node


def _imports(nodes: Iterator[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def climbs(module: str, imported: str) -> bool:
    return imported.partition(".")[0] in PACKAGES and layer(imported) > layer(module)


@pytest.mark.parametrize("module", modules())
def test_imports_point_only_down_the_layers(module: str) -> None:
    tree = ast.parse(file_of(module).read_text(encoding="utf-8"))
    up = [name for name in top_imports(tree) if climbs(module, name)]
    assert not up, f"{module} (layer {layer(module)}) imports {up[0]} (layer {layer(up[0])})"


def test_an_import_that_climbs_is_seen() -> None:
    tree = ast.parse("import os\nif True:\n    from converter.commands.cli import main\n")
    assert [name for name in top_imports(tree) if climbs("converter.errors", name)] == ["converter.commands.cli.main"]


def test_imports_for_types_or_inside_functions_are_not_top_imports() -> None:
    tree = ast.parse("if TYPE_CHECKING:\n    import torch\ndef f():\n    import torch\n")
    assert list(top_imports(tree)) == []


@pytest.mark.parametrize("module", [m for m in modules() if m.startswith("converter")])
def test_the_converter_names_no_target(module: str) -> None:
    tree = ast.parse(file_of(module).read_text(encoding="utf-8"))
    named = [name for name in _imports(ast.walk(tree)) if name.partition(".")[0] == "targets"]
    assert not named, f"{module} imports {named[0]}: targets are found by their folder"


def loaded_by(code: str) -> set[str]:
    """Return the heavy packages that a fresh interpreter has loaded after `code`."""
    probe = f"import sys\n{code}\nprint(*{{m.split('.')[0] for m in sys.modules}}, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", probe], check=True, capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    return HEAVY & set(done.stderr.split())


@pytest.mark.parametrize(
    "code",
    [
        "import converter",
        "import converter.recipe",
        "import sample_models; sample_models.names()",
        "from converter.registry import *; [stage_class(n) for n in stage_names()]",
        "from converter.registry import *; [target_class(n) for n in target_names()]",
        "from converter.commands.cli import run; run(['--help'])",
        "from converter.commands.cli import run; run(['list', 'samples'])",
        "from converter.recipe import bind_recipe; bind_recipe({'targets': ['tflite', 'cpu-int8', 'ort-gpu']})",
    ],
)
def test_nothing_heavy_is_loaded_by(code: str) -> None:
    assert not loaded_by(code)


def test_a_heavy_import_is_seen() -> None:
    assert loaded_by("import onnx") == {"onnx"}
