"""A teacher that is split over processes answers as it does in one."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from converter.errors import UsageError
from converter.model_folder.load import load_source
from converter.training.split import split_over
from tests.tiny import FAMILIES

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, os, sys
import torch
from converter.model_folder.load import load_source
from converter.stage import SILENT
from converter.training.layer_map import ObservedForward
from converter.training.sharded import sharded
from converter.training.split import split_over
from converter.training.texts import encode_texts, feed_batch
from tests.distilling import TEXTS

rank, asked = int(os.environ["RANK"]), json.loads(sys.argv[1])
torch.distributed.init_process_group("gloo")
found = {way: {} for way in asked}
for way, folder in ((way, folder) for way, folders in asked.items() for folder in folders):
    whole = load_source(folder)
    if way == "foreign" and rank == 1:
        with torch.no_grad():
            for parameter in whole.module.parameters():
                parameter.mul_(1.5)
    part = split_over(whole, rank, 2) if way == "split" else sharded(whole, torch.device("cpu"))
    texts = encode_texts(whole, TEXTS[:6], 64, SILENT)
    feed = feed_batch(whole, texts, range(6), torch.device("cpu"))
    with torch.no_grad():
        wanted, got = (ObservedForward(m, (0, 2))(feed) for m in (whole, part))
    pairs = zip((*wanted.outputs.values(), *wanted.hidden), (*got.outputs.values(), *got.hidden), strict=True)
    real = feed["attention_mask"].bool()
    errors = [float(((a - b)[real] if a.dim() == 3 else a - b).abs().max() / a.abs().max()) for a, b in pairs]
    own = lambda p: p.to_local() if hasattr(p, "to_local") else p
    sizes = [sum(own(p).numel() for p in m.module.parameters()) for m in (whole, part)]
    found[way][folder] = [max(errors), sizes[1] / sizes[0]]
if rank == 0:
    print(json.dumps(found))
torch.distributed.destroy_process_group()
"""


Found = dict[str, dict[str, tuple[float, float]]]
"""By the way a teacher is taken apart and by model: the largest error of its answers, and the share of weights that a
process holds."""


@pytest.fixture(scope="module")
def found(tiny: Callable[..., Path]) -> Found:
    """Take teachers apart in two processes, in every way: both import the libraries once."""
    families = {"split": tuple(FAMILIES), "sharded": ("bert", "albert", "modernbert"), "foreign": ("bert",)}
    asked = {way: [str(tiny(family)) for family in named] for way, named in families.items()}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, json.dumps(asked)],
            cwd=ROOT,
            env={**os.environ, "RANK": str(r), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for r in range(2)
    ]
    told = [process.communicate(timeout=300) for process in running]
    assert [p.returncode for p in running] == [0, 0], told
    made: Found = json.loads(told[0][0].splitlines()[-1])
    return made


def test_two_processes_answer_as_one_does(found: Found) -> None:
    assert len(found["split"]) == len(FAMILIES)
    for folder, (error, share) in found["split"].items():
        assert error < 1e-5, folder
        assert share < 0.95, folder  # the table of tokens is most of a tiny model, and whole in each


def test_a_teacher_sharded_by_fsdp_answers_as_a_whole_one_and_each_process_holds_half(found: Found) -> None:
    assert len(found["sharded"]) == 3
    for folder, (error, share) in found["sharded"].items():
        assert error < 1e-6, folder
        assert share < 0.55, folder


def test_what_another_process_holds_counts(found: Found) -> None:
    """The twin: where the other process shards another model, the answers are others."""
    ((error, _),) = found["foreign"].values()
    assert error > 1e-2


def test_parts_answer_otherwise_where_they_are_not_added_up(tiny: Callable[..., Path]) -> None:
    """The twin: without the sum over processes the answers are wrong."""
    source = load_source(str(tiny()))
    part = split_over(source, 0, 2)
    ids = torch.tensor([[1, 5, 9, 2]])
    for module in part.module.modules():
        module._forward_hooks.clear()
    with torch.no_grad():
        wanted, found = (m.module(input_ids=ids).logits for m in (source, part))
    assert float((wanted - found).abs().max()) > 1e-2


def test_more_processes_than_heads_are_refused(tiny: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="fewer heads or neurons than there are processes"):
        split_over(load_source(str(tiny())), 0, 5)
