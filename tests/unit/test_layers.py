"""Every folder has a floor, imports point only down, and nothing heavy stands between the user and `--help`."""

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
    "sentence_transformers",
    "peft",
    "ray",
    "optuna",
    "sqlalchemy",
}
# The building, from the ground up. A room imports what lies below it, and itself: late imports count, imports for
# type checkers do not. Rooms of one floor do not know each other. Modules at the top of `converter/` are one room
# where they stand in one row: the contracts know each other.
FLOORS: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("errors",),),
    (("bounds",),),
    (("jsonfile", "binding", "resources", "graphs", "examples", "family", "rewrite"),),
    (("data",), ("cache",), ("generate",)),
    (("forward", "task", "artifact", "target", "stage", "forecast", "registry", "reference", "score", "precision"),),
    (("model_folder",),),
    (("surgery",),),
    (("families",), ("training",)),
    (("scoring",),),
    (("tasks",), ("owner",)),
    (("validate",),),
    (("onnx",),),
    (("tflite",), ("structured",)),
    (("prune",), ("trim",), ("quantize",)),
    (("distill",), ("share",), ("adapt",)),
    (("factorize",),),
    (("recipe", "context"), ("sample_models",), ("stage_cache",)),
    (("package",), ("ranks",)),
    (("report",), ("timing",)),
    (("device",),),
    (("pipeline",), ("targets",)),
    (("planning", "api"), ("explain",), ("fleet",)),
    (("search",),),
    (("commands",),),
)
HEIGHTS = {name: height for height, rooms in enumerate(FLOORS) for room in rooms for name in room}
ROOMS = {name: room for rooms in FLOORS for room in rooms for name in room}


def modules() -> list[str]:
    return sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    )


MODULES = frozenset(modules())


def file_of(module: str) -> Path:
    path = ROOT / Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def name_of_room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if parts[0] == "converter" and len(parts) > 1 else parts[0]


def imports(tree: ast.Module, *, late: bool = True) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of what is imported; `late`: inside functions too, never under TYPE_CHECKING."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif late or not isinstance(node, (ast.FunctionDef, ast.Lambda)):
            waiting += list(ast.iter_child_nodes(node))


def module_behind(name: str) -> str | None:
    """Return the module of this project that an imported name is, or is in."""
    parts = name.split(".")
    return next((m for i in (len(parts), len(parts) - 1) if (m := ".".join(parts[:i])) in MODULES), None)


def climbs(module: str, imported: str) -> bool:
    """Whether importing `imported` goes up, or across a floor. The package itself only says what is public."""
    below, above = name_of_room(module), name_of_room(imported)
    if imported == "converter" or module == "converter" or ROOMS[below] == ROOMS[above]:
        return False
    return HEIGHTS[above] >= HEIGHTS[below]


def faults_of(module: str, tree: ast.Module) -> list[str]:
    found = []
    for line, name in imports(tree):
        imported = module_behind(name)
        if imported is None:
            continue
        if climbs(module, imported):
            found.append(f"{module}:{line} imports {imported}, which lies above it or beside it")
        private = any(part.startswith("_") for part in imported.split("."))
        if private and imported.rpartition(".")[0] != module.rpartition(".")[0] and not imported.startswith(module):
            found.append(f"{module}:{line} imports {imported}, which is private to its folder")
        if module.startswith("converter") and imported.partition(".")[0] == "targets":
            found.append(f"{module}:{line} imports {imported}: targets are found by their folder")
    return found


def test_every_module_has_a_floor() -> None:
    assert {name_of_room(m) for m in MODULES if m != "converter"} == set(HEIGHTS)


def test_the_document_names_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    missing = [name for name in HEIGHTS if f"`{name}`" not in text and f"`{name}/`" not in text]
    assert not missing


def test_imports_point_only_down_the_floors() -> None:
    faults = [f for m in sorted(MODULES) for f in faults_of(m, ast.parse(file_of(m).read_text(encoding="utf-8")))]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("module", "code", "fault"),
    [
        ("converter.errors", "if True:\n    from converter.commands.cli import main", "above it"),
        ("converter.data.files", "def late():\n    from converter.package.seal import seal_package", "above it"),
        ("converter.onnx.read", "from converter.quantize import static", "above it"),
        ("converter.prune.layers", "from converter.trim.vocabulary import VocabularyTrimming", "beside it"),
        ("converter.distill.gradual", "from converter.prune._mask import zeros", "private"),
        ("converter.api", "import targets.tflite", "found by their folder"),
    ],
)
def test_an_import_that_climbs_is_seen(module: str, code: str, fault: str) -> None:
    assert any(fault in found for found in faults_of(module, ast.parse(code)))


def test_imports_for_type_checkers_do_not_count() -> None:
    tree = ast.parse("if TYPE_CHECKING:\n    import torch\ndef f():\n    import numpy\n")
    assert [name for _, name in imports(tree)] == ["numpy"]
    assert not list(imports(tree, late=False))


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
        "import converter.api",
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
