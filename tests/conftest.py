"""Fixtures that every kind of test shares."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.tiny import make_tiny, make_tiny_sentence_transformer

# A busy machine is no counterexample.
settings.register_profile("plm-export", deadline=None)
settings.load_profile("plm-export")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return `tiny(family, task, **options)`: the folder of a tiny model, made once a session. Do not write into it."""
    made: dict[str, Path] = {}

    def folder(family: str = "bert", task: str = "text-classification", **options: Any) -> Path:
        key = f"{family}-{task}-{sorted(options.items())}"
        if key not in made:
            made[key] = make_tiny(tmp_path_factory.mktemp(f"{family}-{task}"), family, task, **options)
        return made[key]

    return folder


@pytest.fixture(scope="session")
def tiny_sentence_transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny sentence-transformers model. Do not write into it."""
    return make_tiny_sentence_transformer(tmp_path_factory.mktemp("sentences"))
