"""The parts of distillation that need no training: batches, layer maps, hidden loss, learning rate, checkpoints."""

import doctest
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from converter.training import layer_map as _layers
from converter.training import loop as _training
from converter.training.checkpoint import (
    Checkpoint,
    CheckpointDamaged,
    digest_tensors,
    load_checkpoint,
    save_checkpoint,
)
from converter.training.layer_map import hidden_loss, map_layers
from converter.training.loop import learning_rate
from converter.training.losses import similarity_loss
from converter.training.texts import batches_of_epoch, share_of_process

LENGTHS = np.random.default_rng(0).integers(3, 128, 1001)


def test_an_epoch_learns_every_text_once() -> None:
    batches = batches_of_epoch(LENGTHS, 32, seed=0, epoch=0)
    assert sorted(np.concatenate(batches)) == list(range(len(LENGTHS)))
    assert {len(b) for b in batches} <= {31, 32}


def test_batches_waste_little_padding() -> None:
    def padding(batches: list[np.ndarray]) -> float:
        padded = sum(len(b) * LENGTHS[b].max() for b in batches)
        return 1 - LENGTHS.sum() / padded

    assert padding(batches_of_epoch(LENGTHS, 32, seed=0, epoch=0)) < 0.15
    shuffled = np.random.default_rng(0).permutation(len(LENGTHS))
    assert padding(np.array_split(shuffled, 32)) > 0.4  # what it would be without the sorting


def test_order_follows_from_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return [int(i) for b in batches_of_epoch(LENGTHS, 32, seed, epoch) for i in b]

    assert order(3, 1) == order(3, 1)
    assert order(3, 1) != order(3, 2)
    assert order(3, 1) != order(4, 1)
    first, second = ({frozenset(b.tolist()) for b in batches_of_epoch(LENGTHS, 32, 0, epoch)} for epoch in (0, 1))
    assert not first & second  # other company every epoch, not only another order


@pytest.mark.parametrize("n_texts", [1, 2, 3, 8])
def test_processes_share_a_batch_without_changing_its_mean(n_texts: int) -> None:
    batch, values = np.arange(n_texts), np.arange(1, n_texts + 1, dtype=float)
    shares = [share_of_process(batch, rank, 3) for rank in range(3)]
    mean = np.mean([values[mine].mean() * factor for mine, factor in shares])
    assert mean == pytest.approx(values.mean())


@pytest.mark.parametrize("module", [_layers, _training])
def test_examples_in_docstrings_hold(module: object) -> None:
    result = doctest.testmod(module)  # type: ignore[arg-type]
    assert result.attempted > 0
    assert result.failed == 0


def test_every_student_layer_has_a_teacher_layer_in_order_and_the_last_has_the_last() -> None:
    for n_teacher in range(1, 13):
        for n_student in range(1, 13):
            mapped = map_layers(n_student, n_teacher)
            assert len(mapped) == n_student
            assert list(mapped) == sorted(mapped)
            assert mapped[-1] == n_teacher - 1
            assert all(0 <= m < n_teacher for m in mapped)


def test_a_student_layer_learns_what_the_next_kept_layer_reads() -> None:
    # Layers 0, 2 and 3 of 6 remain: the first stands for 0 and 1, the second for 2, the third for 3 to 5.
    assert map_layers(3, 6, (0, 2, 3)) == (1, 2, 5)
    assert map_layers(6, 6, range(6)) == (0, 1, 2, 3, 4, 5)


def test_hidden_loss_is_relative_and_blind_to_padding() -> None:
    rng = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 5, 8, generator=rng) for _ in range(2))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    loss = hidden_loss([student], [teacher], mask)
    spoiled = student.clone()
    spoiled[1, 2:] = 1e6
    assert torch.equal(loss, hidden_loss([spoiled], [teacher], mask))
    seen = student.clone()
    seen[1, 1] += 1
    assert not torch.isclose(loss, hidden_loss([seen], [teacher], mask))
    assert torch.isclose(loss, hidden_loss([student * 100], [teacher * 100], mask))
    assert hidden_loss([torch.zeros_like(teacher)], [teacher], mask).item() == pytest.approx(1.0)


def test_the_learning_rate_rises_then_falls_and_never_stands_at_zero() -> None:
    rates = [learning_rate(s, 100, 1.0, 0.1) for s in range(100)]
    peak = int(np.argmax(rates))
    assert peak == 10
    assert rates[peak] == 1.0
    assert all(a < b for a, b in pairwise(rates[: peak + 1]))
    assert all(a > b for a, b in pairwise(rates[peak:]))
    assert min(rates) > 0
    assert learning_rate(0, 1, 1.0, 1.0) > 0


TENSORS = {"weight/a": torch.arange(6.0).reshape(2, 3), "exp_avg/a": torch.ones(2, 3)}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "deep" / "run.safetensors"
    save_checkpoint(path, Checkpoint(2, 1.5, {"loss": [2.0, 1.0]}, TENSORS), key="k")
    return path


def test_a_checkpoint_comes_back_as_it_was_saved(saved: Path) -> None:
    found = load_checkpoint(saved, "k", TENSORS)
    assert found is not None
    assert (found.step, found.seconds, found.history) == (2, 1.5, {"loss": [2.0, 1.0]})
    assert digest_tensors(found.tensors) == digest_tensors(TENSORS)
    assert [p.name for p in saved.parent.iterdir()] == ["run.safetensors"]
    assert load_checkpoint(saved.with_name("other.safetensors"), "k", TENSORS) is None


def test_a_checkpoint_of_another_run_is_refused(saved: Path) -> None:
    with pytest.raises(CheckpointDamaged, match="another run"):
        load_checkpoint(saved, "other key", TENSORS)
    with pytest.raises(CheckpointDamaged, match="other tensors"):
        load_checkpoint(saved, "k", {"weight/b": torch.ones(2, 3)})


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_checkpoint_that_was_cut_off_is_refused(saved: Path, kept: int) -> None:
    saved.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(CheckpointDamaged):
        load_checkpoint(saved, "k", TENSORS)


def test_a_checkpoint_with_one_altered_bit_is_refused(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[-3] ^= 1
    saved.write_bytes(content)
    with pytest.raises(CheckpointDamaged, match="altered"):
        load_checkpoint(saved, "k", TENSORS)


def test_a_file_that_is_no_checkpoint_is_refused(saved: Path) -> None:
    save_file(load_file(saved), saved)
    with pytest.raises(CheckpointDamaged):
        load_checkpoint(saved, "k", TENSORS)


def test_the_digest_sees_names_shapes_and_values() -> None:
    ones = torch.ones(2, 3)
    digests = [
        digest_tensors(t) for t in ({"a": ones}, {"b": ones}, {"a": ones.T}, {"a": ones * 2}, {"a": ones.long()})
    ]
    assert len(set(digests)) == len(digests)
    assert digest_tensors({"a": ones, "b": ones}) == digest_tensors({"b": ones, "a": ones})


def test_similarity_is_who_is_near_whom_and_not_where() -> None:
    rng = torch.Generator().manual_seed(0)
    teacher = torch.randn(6, 4, generator=rng)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=rng))[0]
    assert similarity_loss(3 * teacher @ rotation, teacher).item() == pytest.approx(0.0, abs=1e-6)
    assert similarity_loss(torch.randn(6, 4, generator=rng), teacher).item() > 0.05
    assert similarity_loss(teacher[:1], teacher[:1] * 2).item() == pytest.approx(0.0, abs=1e-6)
