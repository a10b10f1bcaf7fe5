"""Where the clients' environments are: in `$PLM_EXPORT_CLIENTS`, which `make clients` fills, or named one by one."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.asking import Client
from tests.clients.environments import why_absent

FOLDER = Path(os.environ.get("PLM_EXPORT_CLIENTS") or "~/.cache/plm-export-clients").expanduser()


@pytest.fixture(scope="session")
def node_modules() -> Path:
    return _place("transformers.js", "PLM_EXPORT_NODE_MODULES", "js", "node_modules")


@pytest.fixture(scope="session")
def client_python() -> Path:
    """Optimum, sentence-transformers and an older transformers."""
    return _place("Optimum and sentence-transformers", "PLM_EXPORT_OPTIMUM_PYTHON", "python", "bin/python")


@pytest.fixture(scope="session")
def client(client_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    yield from _running(client_python, tmp_path_factory)


@pytest.fixture(scope="session")
def mediapipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    python = _place("MediaPipe", "PLM_EXPORT_MEDIAPIPE_PYTHON", "mediapipe", "bin/python")
    yield from _running(python, tmp_path_factory)


@pytest.fixture(scope="session")
def genai_python() -> Path:
    return _place("onnxruntime-genai", "PLM_EXPORT_GENAI_PYTHON", "genai", "bin/python")


@pytest.fixture(scope="session")
def litert_lm() -> Path:
    return _place("LiteRT-LM", "PLM_EXPORT_LITERT_LM", "litert-lm", "bin/litert-lm")


def _running(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = Client(python, tmp_path_factory.mktemp("client") / "stderr.txt")
    yield client
    client.close()


def _place(client: str, variable: str, name: str, path: str) -> Path:
    """Return where a client is. Skips the test where it is nowhere: the end of the run says so, and why."""
    if variable in os.environ:
        return Path(os.environ[variable])
    why = why_absent(FOLDER / name)
    if why is not None:
        pytest.skip(f"{client}: {why}")
    return FOLDER / name / path
