"""What a task declares of its graphs is what they take and give, and what is fed and cut by it is right."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.errors import UsageError
from converter.examples import Encoding, pad_batch
from converter.graphs import (
    BATCH,
    ENCODER_INPUTS,
    ENCODER_SEQUENCE,
    MODEL,
    PAST,
    SEQUENCE,
    VOCABULARY,
    GraphSpec,
    ModelFacts,
    TensorSpec,
    encoder_graph,
    read_spec,
    run_graphs,
    spec_table,
)
from converter.jsonfile import json_values
from converter.model_folder.load import load_source
from converter.reference import torch_run
from converter.registry import stage_class, stage_names
from converter.stage import Stage, check_stage
from converter.tasks.text_classification import TextClassification
from tests.tiny import FAMILIES, HIDDEN, TASKS

IDS = replace(ENCODER_INPUTS["input_ids"], fill=9, draw=(0, 4))
MASK = ENCODER_INPUTS["attention_mask"]
LEFT = GraphSpec(MODEL, (replace(IDS, side="left"), replace(MASK, side="left")), ())
CACHED = GraphSpec(
    "decoder",
    (IDS, TensorSpec("past.0", "float32", (BATCH, 2, PAST, 3), fill=7, side="left")),
    (TensorSpec("logits", "float32", (BATCH, SEQUENCE, VOCABULARY)),),
)


def encoding(n: int) -> Encoding:
    return Encoding({"input_ids": np.arange(n), "attention_mask": np.ones(n, dtype=np.int64)})


@pytest.mark.parametrize(("family", "task"), [*((f, TASKS[0]) for f in FAMILIES), *(("bert", t) for t in TASKS[1:])])
def test_graphs_give_what_their_task_declares(family: str, task: str, tiny: Callable[..., Path]) -> None:
    source = load_source(str(tiny(family, task, layers=1)))
    check_outputs(source, {BATCH: 3, SEQUENCE: 7, VOCABULARY: len(source.tokenizer)})


def test_a_sentence_head_adds_its_embedding(tiny_sentence_transformer: Path) -> None:
    source = load_source(str(tiny_sentence_transformer))
    assert source.specs[MODEL].output_names == ("last_hidden_state", "sentence_embedding")
    check_outputs(source, {BATCH: 3, SEQUENCE: 7, "embedding": HIDDEN})


def check_outputs(source: Any, sizes: dict[str, int]) -> None:
    (spec,) = source.specs.values()
    feed = spec.dummy(sizes, padding=2)
    assert tuple(feed) == spec.input_names == source.input_names
    assert spec.sizes(feed) == {BATCH: 3, SEQUENCE: 7}
    made = torch_run(source)(spec.name, feed)
    assert tuple(made) == spec.output_names
    for tensor in spec.outputs:
        wanted = tuple(a if isinstance(a, int) else sizes[a] for a in tensor.axes)
        assert made[tensor.name].shape == wanted, tensor
        assert made[tensor.name].dtype == tensor.dtype


def test_padding_goes_where_the_graph_wants_it_and_is_taken_off_again() -> None:
    right, left = encoder_graph(ModelFacts(("input_ids", "attention_mask"), pad_id=9), ())[MODEL], LEFT
    for spec, wanted in ((right, [[0, 1, 9, 9], [0, 1, 2, 9]]), (left, [[9, 9, 0, 1], [9, 0, 1, 2]])):
        batch = pad_batch([encoding(2), encoding(3)], spec, {SEQUENCE: 4})
        assert batch["input_ids"].tolist() == wanted
        assert batch["attention_mask"].sum(axis=1).tolist() == [2, 3]
        cut = spec.inputs[0].own(batch["input_ids"][0], {SEQUENCE: 2}, 1)
        assert cut.tolist() == [0, 1]


def test_outputs_are_cut_on_every_axis_that_has_a_length() -> None:
    outputs = {"logits": np.arange(24).reshape(2, 4, 3), "undeclared": np.zeros((2, 4))}
    cut = CACHED.own_of(outputs, {SEQUENCE: 2, PAST: 1}, row=1)
    assert cut["logits"].tolist() == [[12, 13, 14], [15, 16, 17]]
    assert cut["undeclared"].shape == (4,)
    assert CACHED.own_of(outputs, {SEQUENCE: 2})["logits"].shape == (2, 2, 3)
    assert CACHED.outputs_along(VOCABULARY) == ("logits",)
    assert CACHED.outputs_along(PAST) == ()


def test_a_made_up_feed_has_the_sizes_the_values_and_the_padding_that_are_declared() -> None:
    made = CACHED.dummy({BATCH: 2, SEQUENCE: 5, PAST: 0}, padding=2)
    assert made["past.0"].shape == (2, 2, 0, 3)
    assert made["past.0"].dtype == np.float32
    assert (CACHED.dummy({BATCH: 2, SEQUENCE: 5, PAST: 4}, padding=2)["past.0"] == 0).all()
    assert made["input_ids"][1, 3:].tolist() == [9, 9]
    assert made["input_ids"][0].max() <= 4
    again = CACHED.dummy({BATCH: 2, SEQUENCE: 5, PAST: 0}, padding=2)
    np.testing.assert_array_equal(made["input_ids"], again["input_ids"])
    with pytest.raises(KeyError, match=PAST):
        CACHED.dummy({BATCH: 2, SEQUENCE: 5})


def test_graphs_run_in_order_each_on_what_came_before() -> None:
    states = TensorSpec("states", "float32", (BATCH, ENCODER_SEQUENCE))
    specs = {
        "encoder": GraphSpec("encoder", (IDS,), (states,)),
        "decoder": GraphSpec("decoder", (states, MASK), (TensorSpec("sum", "float32", (BATCH,)),)),
    }

    def run(graph: str, feed: Any) -> dict[str, Any]:
        if graph == "encoder":
            assert tuple(feed) == ("input_ids",)
            return {"states": feed["input_ids"] * 2.0}
        return {"sum": (feed["states"] * feed["attention_mask"]).sum(axis=1)}

    feed = {"input_ids": np.array([[1, 2]]), "attention_mask": np.array([[1, 1]])}
    assert run_graphs(specs, run, feed)["sum"].tolist() == [6.0]
    with pytest.raises(KeyError, match="attention_mask"):
        run_graphs(specs, run, {"input_ids": feed["input_ids"]})


def test_a_manifest_keeps_all_of_a_graph() -> None:
    for spec in (CACHED, LEFT):
        assert read_spec(spec.name, json_values(spec_table(spec))) == spec
    broken = spec_table(LEFT)
    broken["inputs"][0]["side"] = "above"
    with pytest.raises(ValueError, match="above"):
        read_spec(MODEL, broken)


def test_an_encoding_knows_its_length_on_every_axis() -> None:
    assert encoding(3).lengths == {SEQUENCE: 3}
    both = Encoding(
        {"input_ids": np.zeros(5, dtype=np.int64), "decoder_input_ids": np.zeros(2, dtype=np.int64)},
        lengths={ENCODER_SEQUENCE: 5, SEQUENCE: 2},
    )
    assert both.length == 5
    assert encoding(3).resized(5).inputs["input_ids"].tolist() == [0, 1, 2, 0, 1]
    with pytest.raises(ValueError, match="length of no axis"):
        replace(encoding(3), inputs={"input_ids": np.zeros(4, dtype=np.int64)})


class Translation(TextClassification):
    """Not a plugin: it lies in no `tasks` folder."""

    name = "translation"
    kind = "encoder-decoder"


class Continuation(TextClassification):
    name = "text-generation"
    kind = "decoder"


@pytest.mark.parametrize("kind", ["t5", "gpt2"])
def test_a_stage_that_knows_encoders_refuses_another_kind_by_name(kind: str, tiny: Callable[..., Path]) -> None:
    import transformers

    source = load_source(str(tiny("bert", layers=1)))
    size = {"t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4}, "gpt2": {"n_embd": 32, "n_head": 4}}[kind]
    config = transformers.AutoConfig.for_model(kind, vocab_size=64, num_layers=1, n_layer=1, **size)
    auto = transformers.AutoModelForSeq2SeqLM if kind == "t5" else transformers.AutoModelForCausalLM
    task = {"t5": Translation, "gpt2": Continuation}[kind](config)
    other = replace(source, module=auto.from_config(config).eval(), task=task)
    others = [n for n in stage_names() if task.kind not in stage_class(n).takes]
    assert len(others) > 8
    for name in others:
        stage = object.__new__(stage_class(name))  # its options do not matter: it is refused before it looks at them
        with pytest.raises(
            UsageError, match=f"works on encoders.*, and a model for {task.name} is run as an? {task.kind}"
        ):
            check_stage(stage, other, has_text=True)


def test_a_stage_that_takes_the_kind_is_asked_itself(tiny: Callable[..., Path]) -> None:
    source = load_source(str(tiny("bert", layers=1)))
    asked = []

    class Both(Stage[Any, Any]):
        takes = ("encoder", "encoder-decoder")

        def check(self, source: Any, *, has_text: bool) -> None:
            asked.append(source.task.kind)

        def run(self, given: Any, ctx: Any) -> Any: ...

    check_stage(Both(), source, has_text=True)
    check_stage(Both(), replace(source, task=Translation(source.config)), has_text=True)
    assert asked == ["encoder", "encoder-decoder"]


def test_the_digest_of_a_model_is_that_of_its_weights(tiny: Callable[..., Path]) -> None:
    import torch

    one, same = (load_source(str(tiny("bert", layers=1))) for _ in range(2))
    assert one.digest == same.digest
    other = load_source(str(tiny("bert", layers=1)))
    with torch.no_grad():
        next(other.module.parameters())[0, 0] += 1
    assert other.digest != one.digest


@pytest.mark.parametrize("fill", [0, 1, 7])
def test_made_up_text_is_of_the_vocabulary_and_without_padding(fill: int) -> None:
    ids = TensorSpec("input_ids", "int64", ("batch", "sequence"), fill, draw=(0, 7)).made_up_text(
        np.random.default_rng(0), 4, 200
    )
    assert set(ids.ravel().tolist()) == set(range(8)) - {fill}
