"""A client that fails, or dies, fails the test that asked it, and no other."""

import sys
from pathlib import Path

import pytest

from tests.clients.asking import Client


def test_what_a_client_raises_fails_the_test_that_asked(tmp_path: Path) -> None:
    client = Client(Path(sys.executable), tmp_path / "stderr.txt")
    for _ in range(2):
        with pytest.raises(AssertionError, match="No module named 'no_such_client'"):
            client.ask("no_such_client", tmp_path, {})
    client.close()


def test_a_client_that_died_is_named_and_started_again(tmp_path: Path) -> None:
    client = Client(Path("/bin/false"), tmp_path / "stderr.txt")
    for _ in range(2):
        with pytest.raises(AssertionError, match="the client ended"):
            client.ask("optimum_client", tmp_path, {})
