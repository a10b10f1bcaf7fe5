"""Memory that is given back: the pages of mapped weights, and none that was written to."""

from pathlib import Path

import pytest


@pytest.mark.skipif(not Path("/proc/self/smaps").is_file(), reason="the system does not tell what is mapped")
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


def resident(start: int) -> int:
    """Return the bytes of a mapping that are in memory."""
    lines = iter(Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines())
    next(line for line in lines if line.startswith((f"{start:x}-", f"{start:08x}-")))
    rss = next(line for line in lines if line.startswith("Rss:"))
    return int(rss.split()[1]) * 1024
