"""The source answers texts on two cores at once, to the last bit as on one, and only where that is safe."""

import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converter.artifact import TorchModel
from converter.examples import Example
from converter.forward import Graphs, turns_by_length
from converter.graphs import runs_side_by_side
from converter.model_folder.load import load_source
from converter.reference import encode_probes, judge, torch_run
from converter.resources import fixed_threads, made_beside
from converter.stage import SILENT
from tests.tiny import SENTENCES


@pytest.fixture(scope="module")
def model(tiny: Callable[..., Path]) -> TorchModel:
    return load_source(str(tiny()))


def test_answers_are_the_same_bits_as_one_after_the_other(model: TorchModel) -> None:
    probes = encode_probes(model, [Example(" ".join(SENTENCES[:n])) for n in range(1, 9)])
    callers = set[threading.Thread]()
    graphs = Graphs(model)

    class Watched:
        side_by_side = True

        def run(self, graph: str, feed: Mapping[str, Any]) -> Mapping[str, Any]:
            callers.add(threading.current_thread())
            return graphs.run(graph, feed)

    with fixed_threads(1):
        assert runs_side_by_side(torch_run(model))
        apart = judge(model, probes, Watched().run, SILENT, "")
        alone = judge(model, probes, partial(graphs.run), SILENT, "")
    assert threading.main_thread() not in callers
    for a, b in zip(apart, alone, strict=True):
        assert all(np.array_equal(a.outputs[n], b.outputs[n]) for n in b.outputs)


def test_a_thread_of_ours_computes_with_the_number_that_is_set(model: TorchModel) -> None:
    found: list[int] = []
    with fixed_threads(1), made_beside(lambda: found.append(torch.get_num_threads())):
        pass
    assert found == [1]


def test_with_several_threads_each_or_logits_of_a_vocabulary_one_batch_is_run_after_the_other(
    model: TorchModel, tiny: Callable[..., Path]
) -> None:
    with fixed_threads(2):
        assert not runs_side_by_side(torch_run(model))
    masked = load_source(str(tiny("bert", "fill-mask", layers=1)))
    with fixed_threads(1):
        assert not runs_side_by_side(torch_run(masked))


def test_weights_on_disk_are_read_by_one_batch_at_a_time(model: TorchModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with fixed_threads(1):
        assert runs_side_by_side(torch_run(model))
        monkeypatch.setattr(TorchModel, "offloaded", True)
        assert not runs_side_by_side(torch_run(model))


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_texts_of_two_lengths_do_not_share_frequencies_that_follow_the_length(kind: str) -> None:
    import transformers

    factors = [1.0] * 4
    scaled: dict[str, dict[str, Any]] = {
        "default": {},
        "dynamic": {"factor": 2.0},
        "longrope": {
            "factor": 2.0,
            "short_factor": factors,
            "long_factor": factors,
            "original_max_position_embeddings": 16,
        },
    }

    def turns(kind: str) -> bool:
        whole = transformers.LlamaConfig(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=4,
            max_position_embeddings=32,
            rope_parameters={"rope_type": kind, "rope_theta": 1e4, **scaled[kind]},
        )
        return turns_by_length(transformers.LlamaModel(whole))

    assert turns(kind)
    assert not turns("default")


def test_a_model_whose_frequencies_follow_the_length_runs_one_text_at_a_time(tiny: Callable[..., Path]) -> None:
    """ModernBERT has one kind for each kind of layer."""
    with fixed_threads(1):
        plain = load_source(str(tiny("modernbert", layers=1)))
        assert runs_side_by_side(torch_run(plain))
        rotary = plain.module.get_submodule("model.rotary_emb")
        assert isinstance(rotary.rope_type, dict)
        rotary.rope_type["full_attention"] = "dynamic"
        assert not runs_side_by_side(torch_run(plain))


def test_what_is_made_later_is_made_once() -> None:
    made: list[int] = []

    def make() -> int:
        made.append(1)
        return len(made)

    with made_beside(make, later=True) as result:
        assert not made
        assert result() == result() == 1
