"""Fill-mask: the token behind each mask, in any text."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from converter.data.encode import MOST_MASKS, encode_masked
from converter.errors import SourceError
from converter.examples import Example
from converter.registry import task_class
from converter.task import Judged, Task
from tests.tiny import FAMILIES, make_tokenizer

TEXT = "the bank of the river was green after the rain and the old town was quiet"


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    return {family: make_tokenizer(family) for family in FAMILIES}


def task() -> Task:
    return task_class("fill-mask")(SimpleNamespace())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("spelling", ["[MASK]", "<mask>"])
def test_a_mask_may_be_spelled_either_way(tokenizers: dict[str, Any], family: str, spelling: str) -> None:
    tokenizer = tokenizers[family]
    found = encode_masked(tokenizer, Example(f"water boils at {spelling} degrees", label=("one",)), 64)
    assert [int(found.inputs["input_ids"][p]) for p, _ in found.masked] == [tokenizer.mask_token_id]
    own = tokenizer(" one", add_special_tokens=False)["input_ids"]
    assert found.masked[0][1] == (own[0] if len(own) == 1 else -1)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_without_masks_gets_some_and_remembers_what_was_there(tokenizers: dict[str, Any], family: str) -> None:
    tokenizer = tokenizers[family]
    found = encode_masked(tokenizer, Example(TEXT), 64)
    plain = tokenizer(TEXT)["input_ids"]
    assert 1 <= len(found.masked) <= MOST_MASKS
    restored = found.inputs["input_ids"].copy()
    for position, token in found.masked:
        assert restored[position] == tokenizer.mask_token_id
        restored[position] = token
    assert restored.tolist() == plain
    assert encode_masked(tokenizer, Example(TEXT), 64).masked == found.masked


def test_an_empty_text_has_no_mask_and_decides_nothing(tokenizers: dict[str, Any]) -> None:
    found = encode_masked(tokenizers["bert"], Example(""), 64)
    assert found.masked == ()
    outputs = task().compared({"logits": np.ones((found.length, 9), dtype=np.float32)}, found)
    assert outputs["logits"].shape == (1, 9)
    assert task().decisions([Judged(Example(""), found, outputs)]) == [()]


def test_only_the_masks_are_kept_and_the_hidden_tokens_scored(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["bert"]
    example = Example(TEXT, label=())
    encoding = encode_masked(tokenizer, example, 64)
    logits = np.zeros((encoding.length, len(tokenizer)), dtype=np.float32)
    for position, token in encoding.masked[1:]:
        logits[position, token] = 1.0
    position, token = encoding.masked[0]
    logits[position, (token + 1) % len(tokenizer)] = 1.0
    outputs = task().compared({"logits": logits}, encoding)
    n = len(encoding.masked)
    assert outputs["logits"].shape == (n, len(tokenizer))
    made = Judged(example, encoding, outputs)
    assert task().metric([made]) == {"accuracy": pytest.approx((n - 1) / n)}
    assert task().metric([Judged(Example(TEXT), encoding, outputs)]) == {}
    right = tuple(token for _, token in encoding.masked)
    assert task().same(right, task().decisions([made])[0]) == pytest.approx((n - 1) / n)


def test_a_tokenizer_without_a_mask_is_refused() -> None:
    with pytest.raises(SourceError, match="no mask token"):
        encode_masked(SimpleNamespace(mask_token_id=None), Example(TEXT), 64)


def test_losses_leave_padding_out_and_train_the_masks(tokenizers: dict[str, Any]) -> None:
    torch.manual_seed(0)
    encoding = encode_masked(tokenizers["bert"], Example(TEXT), 64)
    mask = torch.tensor([[1, 1, 0]])
    teacher = {"logits": torch.randn(1, 3, 5)}
    padded = {"logits": teacher["logits"] + torch.randn(1, 3, 5) * (1 - mask)[:, :, None]}
    assert float(task().soft_loss(padded, teacher, mask, 2.0)) == pytest.approx(0.0, abs=1e-6)
    logits = torch.zeros(1, encoding.length, len(tokenizers["bert"]), requires_grad=True)
    loss = task().hard_loss({"logits": logits}, [(Example(TEXT), encoding)])
    assert loss is not None
    loss.backward()
    assert logits.grad is not None
    trained = logits.grad.abs().sum(dim=-1)[0].nonzero().flatten().tolist()
    assert trained == [position for position, _ in encoding.masked]
