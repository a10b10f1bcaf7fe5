"""What several contract tests start from: packages for devices, and a teacher with its student."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from converter.artifact import TorchModel
from converter.graphs import MODEL
from converter.stage import Context
from tests.contract.device_packages import (
    LENGTHS,
    MODELS,
    Made,
    OfTorch,
    make_package_files,
    open_source,
    tokenizers_asked_once,
)
from tests.contract.phone_writers import PhoneWriter, make_phone_writer
from tests.distilling import TEXTS
from tests.tiny import SENTENCES, make_tiny_sentence_transformer

BATCH = 4


@pytest.fixture(scope="session")
def packages(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """A classifier as it ships, lowered once for real: a graph a length, one for all, any length, several texts."""
    from converter.device.gpu_forecast import forecast_gpu
    from converter.examples import Example
    from converter.model_folder.load import load_source
    from converter.stage import Context, run_stage
    from converter.tflite.lower.lower import LowerTflite
    from targets.tflite import Tflite

    source = load_source(str(tiny("bert", layers=1)))
    work = tmp_path_factory.mktemp("work")
    ctx = Context(work=work, calibration=tuple(Example(s) for s in SENTENCES))
    lowered, _ = run_stage(LowerTflite(LENGTHS), source, ctx)
    targets = {
        "separate": Tflite(seq_len=LENGTHS, graphs="separate"),
        "shared": Tflite(seq_len=LENGTHS, graphs="shared"),
        "any": Tflite(seq_len=LENGTHS, any_length=True),
        "batch": Tflite(seq_len=LENGTHS, batch=BATCH),
    }
    made = {}
    with tokenizers_asked_once():
        for name, target in targets.items():
            folder = tmp_path_factory.mktemp(name)
            bundle = target.emit(lowered, source, folder, ctx)
            facts = forecast_gpu(folder / bundle.files[MODEL]).facts()
            made[name] = make_package_files(folder, source, target.open(folder, source.specs), facts)
    return made


@pytest.fixture(scope="session")
def package(packages: dict[str, Made]) -> Made:
    """The same with a graph a length."""
    return packages["separate"]


@pytest.fixture(scope="session")
def every_kind(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """The samples of every kind of model, each with what PyTorch answers as its golden vectors."""
    from converter.device import package_files
    from converter.model_folder.load import load_source

    made = {}
    with tokenizers_asked_once() as patch:
        # Both stand in a file that is not made here.
        patch.setattr(package_files, "least_runtime", lambda _folder: {"model.tflite": "2.9.0"})
        patch.setattr(package_files, "inputs_in_order", lambda _folder: ("input_ids",))
        for name, (family, task, options) in MODELS.items():
            source = open_source(name, tiny(family, task, layers=1, **options))
            made[name] = make_package_files(tmp_path_factory.mktemp(name), source, OfTorch(source))
        folder = make_tiny_sentence_transformer(tmp_path_factory.mktemp("sentences") / "model", layers=1)
        source = load_source(str(folder))
        made["embedding"] = make_package_files(tmp_path_factory.mktemp("embedding"), source, OfTorch(source))
    return made


@pytest.fixture(scope="session")
def phone_writer(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], PhoneWriter]:
    """Return what converts a tiny GPT-2 or Marian for phones, each once."""

    @cache
    def make(kind: str) -> PhoneWriter:
        return make_phone_writer(kind, tmp_path_factory.mktemp(f"phone_{kind}"))

    return make


@pytest.fixture(scope="module")
def source(tiny: Callable[..., Path]) -> TorchModel:
    """A small classifier, which is a teacher where something is distilled."""
    from converter.model_folder.load import load_source

    return load_source(str(tiny("bert")))


@pytest.fixture(scope="module")
def student(tiny: Callable[..., Path]) -> TorchModel:
    from converter.model_folder.load import load_source

    return load_source(str(tiny("bert", seed=1, layers=2)))


@pytest.fixture
def ctx(tmp_path: Path, source: TorchModel) -> Context:
    return Context(work=tmp_path, calibration=TEXTS, teacher=source, resume=tmp_path / "resume")
