"""Memory that is given back: the pages of mapped weights, and none that was written to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converter import resources

linux = pytest.mark.skipif(not Path("/proc/self/smaps").is_file(), reason="the system does not tell what is mapped")


@linux
def test_mapped_weights_are_given_back_and_read_again(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    from converter.resources import mapped_weights, release_memory

    wanted = torch.arange(1 << 20, dtype=torch.float32)
    save_file({"w": wanted}, tmp_path / "model.safetensors")
    held = load_file(tmp_path / "model.safetensors")["w"]
    assert torch.equal(held, wanted)
    ((start, length),) = [m for m in mapped_weights() if m[1] >= held.numel() * 4]
    assert start <= held.data_ptr() < start + length
    assert resident(start) > held.numel() * 4 / 2
    release_memory()
    assert resident(start) == 0
    assert torch.equal(held, wanted)
    held[3] = -1
    release_memory()
    assert held[3] == -1, "what was written to is kept"


@linux
@pytest.mark.parametrize("at", [0, 70_000, -1])
@pytest.mark.parametrize("at_once", [7, 1 << 16])
def test_one_page_that_was_written_to_keeps_a_mapping(
    at: int, at_once: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    monkeypatch.setattr(resources, "_PAGES_AT_ONCE", at_once)
    save_file({"w": torch.arange(100_000, dtype=torch.float32)}, tmp_path / "model.safetensors")
    held = load_file(tmp_path / "model.safetensors")["w"]
    place = held.data_ptr()
    assert any(start <= place < start + length for start, length in resources.mapped_weights())
    held[at] = -1
    assert not any(start <= place < start + length for start, length in resources.mapped_weights())


def written_once(path: Path) -> tuple[Any, Callable[[], bool]]:
    """Return a mapped weight and what tells whether its pages would be given back."""
    import torch
    from safetensors.torch import load_file, save_file

    save_file({"w": torch.arange(100_000, dtype=torch.float32)}, path.resolve())
    held = load_file(path)["w"]
    place = held.data_ptr()
    return held, lambda: any(start <= place < start + n for start, n in resources.mapped_weights())


@linux
def test_without_the_table_of_pages_sums_tell_which_mappings_were_written_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(resources, "PAGEMAP", tmp_path)  # cannot be read
    held, is_given_back = written_once(tmp_path / "model.safetensors")
    assert is_given_back()
    assert float(held.sum()) > 0
    resources.release_memory()
    assert resident(next(start for start, n in resources.mapped_weights() if start <= held.data_ptr() < start + n)) == 0
    held[5] = -1
    assert not is_given_back()
    resources.release_memory()
    assert held[5] == -1


@linux
def test_where_the_system_tells_nothing_no_page_is_given_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    held, is_given_back = written_once(tmp_path / "model.safetensors")
    for name in ("PAGEMAP", "SMAPS"):
        monkeypatch.setattr(resources, name, tmp_path / "none")
    assert not is_given_back()
    resources.release_memory()
    (tmp_path / "smaps").write_text(f"{held.data_ptr():x}-0 r--p\nRss: 4 kB\n", encoding="utf-8")
    monkeypatch.setattr(resources, "SMAPS", tmp_path / "smaps")
    assert not is_given_back(), "what is not counted may have been written to"


@linux
@pytest.mark.parametrize("name", ["a" * 64, "b" * 40])
def test_weights_of_a_hub_cache_are_given_back_though_their_file_is_called_by_its_hash(
    name: str, tmp_path: Path
) -> None:
    for folder in ("blobs", "snapshots"):
        (tmp_path / folder).mkdir()
    (tmp_path / "snapshots" / "model.safetensors").symlink_to(tmp_path / "blobs" / name)
    _held, is_given_back = written_once(tmp_path / "snapshots" / "model.safetensors")
    assert is_given_back()


@linux
def test_weights_of_a_file_that_was_removed_are_given_back(tmp_path: Path) -> None:
    held, is_given_back = written_once(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    assert is_given_back()
    resources.release_memory()
    assert held[7] == 7


def resident(start: int) -> int:
    """Return the bytes of a mapping that are in memory."""
    lines = iter(Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines())
    next(line for line in lines if line.startswith((f"{start:x}-", f"{start:08x}-")))
    rss = next(line for line in lines if line.startswith("Rss:"))
    return int(rss.split()[1]) * 1024
