"""Memory that is given back: the pages of mapped weights, and none that was written to."""

from pathlib import Path

import pytest

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

    from converter import resources

    monkeypatch.setattr(resources, "_PAGES_AT_ONCE", at_once)
    save_file({"w": torch.arange(100_000, dtype=torch.float32)}, tmp_path / "model.safetensors")
    held = load_file(tmp_path / "model.safetensors")["w"]
    place = held.data_ptr()
    assert any(start <= place < start + length for start, length in resources.mapped_weights())
    held[at] = -1
    assert not any(start <= place < start + length for start, length in resources.mapped_weights())


def resident(start: int) -> int:
    """Return the bytes of a mapping that are in memory."""
    lines = iter(Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines())
    next(line for line in lines if line.startswith((f"{start:x}-", f"{start:08x}-")))
    rss = next(line for line in lines if line.startswith("Rss:"))
    return int(rss.split()[1]) * 1024
