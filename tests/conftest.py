"""Fixtures that every kind of test shares, and what is done once for all of them."""

import fcntl
import gc
import importlib
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.asked_once import collect_of_jax_seldom
from tests.exported_once import Shared
from tests.tiny import SENTENCES, make_tiny, make_tiny_sentence_transformer
from tests.warm import Warm

# A busy machine is no counterexample.
settings.register_profile("plm-export", deadline=None)
settings.load_profile("plm-export")

LIBRARIES = (
    "torch.onnx",
    "torch._dynamo",
    "transformers",
    "onnxscript",
    "onnxruntime",
    "sklearn.metrics",
    "litert_torch",
)
"""What nearly every test outside tests/unit imports."""


COLLECT_AFTER = 10_000, 10, 10
"""Objects made before the young are looked at, and how many times that is done before older ones are: tracing makes
millions, and at each collection JAX, which litert-torch imports, looks for garbage of its own."""
FROZEN_AT = 100_000
"""Objects beside the frozen ones from which a collection of all takes noticeably long."""


FIRST = ("e2e", "clients", "contract")
"""The folders whose tests take longest: what takes a minute must not begin last, while another worker has no more."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: FIRST.index(kind) if (kind := item.path.parent.name) in FIRST else len(FIRST))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Import the libraries once, before any test is timed or interrupted."""
    if any("/unit/" not in item.nodeid for item in session.items):
        for name in LIBRARIES:
            with suppress(ImportError):
                importlib.import_module(name)
        _freeze()
        collect_of_jax_seldom()
        gc.set_threshold(*COLLECT_AFTER)


def pytest_runtest_logfinish() -> None:
    if len(gc.get_objects()) > FROZEN_AT:
        _freeze()


def _freeze() -> None:
    """Take what libraries keep for good, a million objects, out of the garbage collector's sight.

    A collection looks at every object that is in sight: 0.3 seconds with these libraries, and an export asks for ten.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: Any) -> Iterator[None]:
    """Say at the very end which clients were not there: a skipped test is easily overlooked."""
    yield
    skipped = [
        report for report in terminalreporter.stats.get("skipped", []) if "client" in getattr(report, "keywords", ())
    ]
    for reason, number in Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped).items():
        terminalreporter.write_line(f"NOT TESTED IN A CLIENT: {number} tests, {reason}", yellow=True, bold=True)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Return a folder that all workers of this run share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def exporters(run_folder: Path) -> Iterator[Shared]:
    """Let PyTorch's exporter and litert-torch work once in this run for the same module: see tests/exported_once.py."""
    with pytest.MonkeyPatch.context() as patch:
        shared = Shared(run_folder / "exported")
        shared.patch(patch)
        shared.asked.patch(patch)
        yield shared


@pytest.fixture(autouse=True)
def _exported_once(request: pytest.FixtureRequest) -> Iterator[None]:
    """Share exports, but not in a test that replaces code, nor in one that exports twice to compare.

    What libraries are asked is shared in the former: no test replaces code of theirs that answers.
    """
    if "/unit/" in request.node.nodeid:
        yield
        return
    exporters: Shared = request.getfixturevalue("exporters")
    exporters.on = not {"monkeypatch", "exported_anew"} & set(request.fixturenames)
    exporters.asked.on = "exported_anew" not in request.fixturenames
    yield
    exporters.on = exporters.asked.on = True


@pytest.fixture
def exported_anew() -> None:
    """Have every export of a test really done: it is about exporting twice."""


@pytest.fixture(scope="session")
def tiny(run_folder: Path) -> Callable[..., Path]:
    """Return `tiny(family, task, **options)`: the folder of a tiny model, made once a run. Do not write into it."""

    def folder(family: str = "bert", task: str = "text-classification", **options: Any) -> Path:
        named = (re.sub(r"[^\w.]", "", f"{name}{value}") for name, value in sorted(options.items()))
        wanted = run_folder / "-".join((family, task, *named))
        return _once(wanted, lambda partial: make_tiny(partial, family, task, **options))

    return folder


@pytest.fixture(scope="session")
def tiny_sentence_transformer(run_folder: Path) -> Path:
    """Return the folder of a tiny sentence-transformers model. Do not write into it."""
    return _once(run_folder / "sentences", lambda partial: make_tiny_sentence_transformer(partial, layers=1))


@pytest.fixture(scope="session")
def plain_package(run_folder: Path, tiny: Callable[..., Path]) -> Path:
    """Return the package of a tiny model in float32 for CPUs, proven on `SENTENCES`. Do not write into it."""
    from converter import convert

    def make(partial: Path) -> Path:
        partial.mkdir()
        texts = partial / "texts.txt"
        texts.write_text("".join(f"{s}\n" for s in SENTENCES), encoding="utf-8")
        recipe = {"model": str(tiny()), "targets": ["cpu-int8"], "quantize": {"cpu-int8": "none"}, "eval": str(texts)}
        result = convert(recipe, partial / "out")
        assert result.exit_code == 0, result.targets[0].error
        return partial

    return _once(run_folder / "plain", make) / "out" / "cpu-int8"


@pytest.fixture(scope="session")
def plm_export() -> Iterator[list[str]]:
    """Return the first words of a command line that runs `plm-export` in a process of its own: see tests/warm.py."""
    if sys.platform != "linux":
        yield [sys.executable, "-m", "converter.commands.cli"]
        return
    warm = Warm()
    yield warm.command
    warm.close()


def _once(wanted: Path, make: Callable[[Path], Path]) -> Path:
    """Return a folder: the first worker that wants it makes it, another one waits."""
    with wanted.with_name(f".{wanted.name}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not wanted.is_dir():
            partial = wanted.with_name(f".{wanted.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            make(partial).rename(wanted)
    return wanted
