"""Packages with samples for devices, made small: what the tests of samples and of second opinions start from."""

import importlib.util
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.artifact import TorchModel
from converter.device import package_files
from converter.device.facts import DeviceFacts, facts_of
from converter.device.package_files import PackageFiles
from converter.device.samples import write_samples
from converter.device.tables import read_tables
from converter.examples import Example
from converter.graphs import MODEL
from converter.model_folder.load import load_source
from converter.package.golden import record_golden, write_golden
from converter.reference import Reference, capture_reference, torch_run
from converter.stage import SILENT
from converter.target import GraphInfo, Runner, TensorInfo
from tests.tiny import SENTENCES

STUBS = Path(__file__).parent / "stubs"
LENGTHS = (12, 24)
TOLERANCE = 1e-4
N_TEXTS = 12
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "classes": ("bert", "text-classification", {}),
    "multi": ("bert", "text-classification", {"problem_type": "multi_label_classification"}),
    "score": ("bert", "text-classification", {"problem_type": "regression"}),
    "tags": ("bert", "token-classification", {"num_labels": 7}),
    "span": ("bert", "question-answering", {}),
    "mask": ("bert", "fill-mask", {}),
    "tokens": ("distilbert", "feature-extraction", {}),
    "library": ("roberta", "token-classification", {}),
    "bytes": ("roberta", "question-answering", {}),
    "pieces": ("xlm-roberta", "token-classification", {"num_labels": 7}),
}
KINDS = (*MODELS, "embedding")
MASKED = (
    "the <mask> was wonderful",
    "Anna Miller   <mask>  moved",
    "<mask> <mask>",
    "in\u3000<mask> town",
    "no mask here",
)
QUESTIONS = ("How many live in the old town? Who wrote?", "about 4000 people live in the old town near the lake")


class OfTorch(Runner):
    """Runs the source: what is generated is tested with it, not what was lowered."""

    runtime = "PyTorch"
    lengths = LENGTHS
    max_length = LENGTHS[-1]

    def __init__(self, source: TorchModel) -> None:
        self._run = torch_run(source)
        self._shown = ("sentence_embedding",) if source.head is not None else source.specs[MODEL].output_names
        made = self.run(MODEL, {n: np.ones((1, LENGTHS[0]), dtype=np.int64) for n in source.input_names})
        inputs = tuple(TensorInfo(n, "int32", (1, LENGTHS[0])) for n in source.input_names)
        self.graphs = {
            MODEL: GraphInfo(inputs, tuple(TensorInfo(n, "float32", v.shape) for n, v in sorted(made.items())))
        }

    def run(self, graph: str, feed: Mapping[str, Any]) -> dict[str, Any]:
        return {n: v for n, v in self._run(graph, feed).items() if n in self._shown}


@dataclass(frozen=True)
class Made:
    """A package's files beside the model, and what they were made from."""

    folder: Path
    source: TorchModel
    reference: Reference
    runner: Runner

    @property
    def samples(self) -> Path:
        return self.folder / "samples"

    def write(self, folder: Path, **changes: Any) -> Path:
        """Write the samples of this model with other facts."""
        facts: DeviceFacts = facts_of(
            self.source,
            self.runner,
            why_not="" if (self.samples / "assets" / "vocab.txt").is_file() else "of a library",
            runtime={},
            graph_inputs=self.source.input_names,
        )
        write_samples(replace(facts, **changes), folder)
        return folder


def python_sample(made: Made) -> Any:
    """Import the Python sample."""
    spec = importlib.util.spec_from_file_location("text_model", made.samples / "python" / "text_model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_package_files(
    folder: Path,
    source: TorchModel,
    runner: Runner,
    facts: Mapping[str, Any] | None = None,
    texts: Sequence[str] = (*SENTENCES[:8], *QUESTIONS, "Größe 🙂 café", ""),
) -> Made:
    """Write into `folder` all that a package holds beside the model."""
    pair = QUESTIONS[1] if source.task.name == "question-answering" else None
    examples = [Example(s, pair) for s in texts]
    reference = capture_reference(replace(source, max_length=LENGTHS[-1]), examples, SILENT)
    files = PackageFiles(folder)
    files.write_tokenizer(source)
    _, known = files.check(source, reference, LENGTHS[-1])
    golden = record_golden(source, source, reference, runner)
    write_golden(golden, folder)
    files.complete(source, golden, runner, {**known, **(facts or {})}, TOLERANCE)
    return Made(folder, source, reference, runner)


def open_source(kind: str, folder: Path) -> TorchModel:
    """Return the source of one of `MODELS`; that of `library` has a token that the tables cannot express."""
    from tokenizers import AddedToken

    source = load_source(str(folder))
    if kind == "library":
        mask = AddedToken("<mask>", single_word=True, normalized=False, special=True)
        source.tokenizer.backend_tokenizer.add_special_tokens([mask])
    return source


def lstrip_tagger(folder: Path) -> TorchModel:
    """Return a tagger of words with a token that takes the white space before it along, as MPNet's `<mask>` does."""
    from tokenizers import AddedToken

    source = load_source(str(folder))
    mask = AddedToken("<mask>", lstrip=True, rstrip=False, normalized=False, special=True)
    source.tokenizer.backend_tokenizer.add_special_tokens([mask])
    return source


@contextmanager
def tokenizers_asked_once() -> Iterator[pytest.MonkeyPatch]:
    """Read equal tokenizers' tables once: most of the models share theirs."""
    asked: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            package_files,
            "read_tables",
            lambda backend: asked[k] if (k := backend.to_str()) in asked else asked.setdefault(k, read_tables(backend)),
        )
        yield patch


def compiler(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)


def build_demo(samples: Path, folder: Path) -> Path:
    """Compile the C++ sample against the library of the Python package."""
    import ai_edge_litert

    library = Path(ai_edge_litert.__path__[0]) / "libLiteRt.so"
    if not library.is_file():
        pytest.skip("this ai-edge-litert brings no libLiteRt.so")
    flags = ("-std=c++17", "-O0", "-Wall", "-Wextra", "-Werror", f"-Wl,-rpath,{library.parent}")
    done = run(compiler("g++"), *flags, samples / "cpp" / "main.cpp", library, "-o", folder / "demo")
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "demo"


def build_check(samples: Path, folder: Path, rest: str, *flags: str) -> Path:
    """Compile the C++ sample with a LiteRT that is none; `rest`: the dimensions of its output behind the first."""
    include = ("-I", samples / "cpp", "-I", STUBS / "cpp")
    strict = ("-std=c++17", "-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined")
    source = STUBS / "cpp" / "check.cpp"
    done = run(compiler("g++"), *strict, *flags, f"-DREST={rest}", *include, source, "-o", folder / "check")
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "check"
