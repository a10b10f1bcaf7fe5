"""Graphs with a cache, exported to ONNX: what they compute, what they are called, and how large they are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.errors import StageFailed
from converter.generate.forcing import forced_logits
from converter.generate.loop import Generated, generate
from converter.graphs import GraphSpec, Run
from tests.tiny_text import (
    CAUSAL,
    ENCODER_DECODER,
    POSITIONS,
    batch_for,
    continue_in_transformers,
    make_text_model,
    pad_of,
    prompts,
    settings_of,
)

NEW = 12
FAST = ("qwen3", "marian")
"""One of each kind, with what exporters trip over: head size times heads is not the width, and a table that is tied."""
FAMILIES = [f if f in FAST else pytest.param(f, marks=pytest.mark.slow) for f in CAUSAL + ENCODER_DECODER]


@dataclass
class Exported:
    model: Any
    specs: dict[str, GraphSpec]
    files: dict[str, Path]
    run: Run


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    from converter.generate.modules import graph_specs
    from converter.onnx.runner import OnnxRunner
    from converter.onnx.text_export import export_text_graphs

    made: dict[str, Exported] = {}

    def export(family: str) -> Exported:
        if family not in made:
            # The T5 of tests/contract/test_text_quantize.py: exported once. mT5 has heads that are not width / heads.
            model = make_text_model(family, **({"d_kv": 8} if family == "t5" else {}))
            specs = graph_specs(model, pad_id=pad_of(model))
            files = export_text_graphs(model, specs, tmp_path_factory.mktemp(family))
            made[family] = Exported(model, specs, files, OnnxRunner(files).run)
        return made[family]

    return export


@pytest.mark.parametrize("family", FAMILIES)
def test_the_files_compute_what_the_model_does_cached_or_not(family: str, exported: Callable[[str], Exported]) -> None:
    from converter.onnx.text_equality import check_text_graphs

    made = exported(family)
    facts = check_text_graphs(made.model, made.specs, made.run, POSITIONS)
    assert facts["max_relative_error"] < 1e-4
    assert any("a padded batch, token by token" in case for case in facts["cases"])


@pytest.mark.parametrize("family", FAST)
def test_logits_that_would_fill_the_memory_are_compared_piece_by_piece(
    family: str, exported: Callable[[str], Exported], monkeypatch: pytest.MonkeyPatch
) -> None:
    from converter.onnx import text_equality

    made = exported(family)
    monkeypatch.setattr(text_equality, "MOST_LOGITS", 10 * made.model.config.vocab_size)
    facts = text_equality.check_text_graphs(made.model, made.specs, made.run, POSITIONS)
    assert facts["max_relative_error"] < 1e-4
    assert {f"a text of {POSITIONS}, 10 tokens at a time", "a text of 10, uncached"} <= set(facts["cases"])


@pytest.mark.parametrize("family", FAST)
def test_files_that_answer_fewer_tokens_than_were_fed_are_refused(
    family: str, exported: Callable[[str], Exported]
) -> None:
    from converter.onnx.text_equality import check_text_graphs

    made = exported(family)

    def short(graph: str, feed: Mapping[str, Any]) -> dict[str, Any]:
        found = dict(made.run(graph, feed))
        return found | {"logits": found["logits"][:, :-1]} if "logits" in found else found

    with pytest.raises(StageFailed, match="differ from PyTorch"):
        check_text_graphs(made.model, made.specs, short, POSITIONS)


@pytest.mark.parametrize("last", [1, 3, 8, 9, 50])
@pytest.mark.parametrize("steps", [(), (4, 1), (2, 1, 1)])
def test_the_last_logits_alone_are_those_of_the_whole(
    steps: tuple[int, ...], last: int, exported: Callable[[str], Exported]
) -> None:
    made, text = exported("qwen3"), np.arange(5, 14)[None]
    feed = {"input_ids": text, "attention_mask": np.ones_like(text)}
    whole = forced_logits(made.run, made.specs, feed, None, steps)
    assert np.array_equal(forced_logits(made.run, made.specs, feed, None, steps, last), whole[:, -last:])


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_loop_over_the_files_writes_what_transformers_writes(
    family: str, beams: int, exported: Callable[[str], Exported]
) -> None:
    made, texts = exported(family), prompts(6)
    feed, settings = batch_for(made.model, texts), settings_of(made.model, max_new_tokens=NEW, beams=beams)
    found = generate(made.run, made.specs, feed, settings)
    right = continue_in_transformers(made.model, feed, max_new_tokens=NEW, num_beams=beams)
    assert found.texts(settings) == Generated(right, found.prompt).texts(settings)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_files_are_named_and_ordered_as_clients_expect(family: str, exported: Callable[[str], Exported]) -> None:
    import onnx

    made = exported(family)
    assert set(made.files) in ({"model"}, {"encoder_model", "decoder_model_merged"})
    for name, path in made.files.items():
        model, spec = onnx.load(path), made.specs[name]
        assert [i.name for i in model.graph.input] == list(spec.input_names)
        assert [o.name for o in model.graph.output] == list(spec.output_names)
        assert {(o.domain, o.version) for o in model.opset_import} == {("", 18)}
        assert model.ir_version <= 10
        assert not {n.op_type for n in model.graph.node} & {"If", "Loop", "Scan", "SequenceEmpty"}
        assert not model.functions
        for value in (*model.graph.input, *model.graph.output):
            assert value.type.tensor_type.shape.dim[0].dim_param == "batch_size"
        past = [i for i in model.graph.input if i.name.startswith("past_key_values.")]
        assert all(v.type.tensor_type.shape.dim[1].dim_param == "num_heads" for v in past)
        assert all(v.type.tensor_type.shape.dim[3].dim_param == "head_dim" for v in past)
        kinds = (
            ["decoder.key", "decoder.value", "encoder.key", "encoder.value"] if "merged" in name else ["key", "value"]
        )
        assert [v.name.split(".", 2)[2] for v in past] == kinds * (len(past) // len(kinds))


@pytest.mark.parametrize("family", [f for f in FAMILIES if "qwen2_moe" not in str(f)])
def test_no_reshape_around_the_cache_works_its_shape_out(family: str, exported: Callable[[str], Exported]) -> None:
    """Each is an operator more for every token, and some are four: a decoder is called for one row at a time.

    Where experts are chosen by the data, so are sizes.
    """
    import onnx

    for path in exported(family).files.values():
        graph = onnx.load(path).graph
        constant = {i.name for i in graph.initializer}
        # Positions that M2M100 looks up are unfolded to batch and length: once, before the layers.
        assert sum(n.input[1] not in constant for n in graph.node if n.op_type == "Reshape") <= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_is_in_a_file_once(family: str, exported: Callable[[str], Exported]) -> None:
    import onnx

    made = exported(family)
    model = made.model
    parts = {"model": [model]}
    if model.config.is_encoder_decoder:
        parts = {"encoder_model": [model.get_encoder()], "decoder_model_merged": [model.get_decoder(), model.lm_head]}
    for name, path in made.files.items():
        # Sinusoidal positions are a buffer.
        tensors = [t for part in parts[name] for t in (*part.parameters(), *part.buffers())]
        parameters = {id(t): t.numel() * 4 for t in tensors}
        held = sum(onnx.numpy_helper.to_array(i).nbytes for i in onnx.load(path).graph.initializer)
        # Constants of a few hundred bytes are 5 % of a model this small.
        assert held <= sum(parameters.values()) * 1.05 + 1024


def test_a_file_of_another_model_is_not_equal(exported: Callable[[str], Exported]) -> None:
    from converter.onnx.text_equality import check_text_graphs

    made = exported("qwen3")
    with pytest.raises(StageFailed, match="differ from PyTorch"):
        check_text_graphs(make_text_model("qwen3", seed=1), made.specs, made.run, POSITIONS)


@pytest.mark.parametrize("fault", ["position off by one", "padding ignored", "keys before values", "cross keys twice"])
def test_a_fault_around_the_cache_is_found(fault: str, exported: Callable[[str], Exported]) -> None:
    from converter.onnx.text_equality import check_text_graphs

    made = exported("marian" if fault == "cross keys twice" else "qwen3")

    def faulty(graph: str, feed: Any) -> Any:
        feed = dict(feed)
        past = [n for n in feed if n.startswith("past")]
        if fault == "position off by one" and past and feed[past[0]].shape[2]:
            feed["position_ids"] = feed["position_ids"] + 1
        if fault == "padding ignored" and "input_ids" in feed:
            feed["attention_mask"] = np.ones_like(feed["attention_mask"])
        if fault == "keys before values":
            keys, values = ([n for n in past if n.endswith(kind)] for kind in ("key", "value"))
            feed |= dict(zip(past, [feed[n] for n in keys + values], strict=True))
        if fault == "cross keys twice" and past and feed["past_key_values.0.decoder.key"].shape[2]:
            feed |= {n: feed[n][:, :, :0] for n in past if ".encoder." in n}
            feed["encoder_hidden_states"] = feed["encoder_hidden_states"] * 0.5
        return made.run(graph, feed)

    with pytest.raises(StageFailed, match="differ from PyTorch"):
        check_text_graphs(made.model, made.specs, faulty, POSITIONS)


@pytest.mark.slow
def test_a_text_that_grows_past_what_was_learned_first_is_continued_as_by_transformers(tmp_path: Path) -> None:
    """The file chooses between two sets of frequencies; the loop reads a text again where they change."""
    from converter.generate.modules import graph_specs
    from converter.generate.positions import rope_switches_at
    from converter.onnx.runner import OnnxRunner
    from converter.onnx.text_equality import check_text_graphs
    from converter.onnx.text_export import export_text_graphs

    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0, 3.0, 2.0, 5.0]}
    rope |= {"rope_theta": 10000.0, "original_max_position_embeddings": 24}
    model = make_text_model("phi3", original_max_position_embeddings=24, rope_parameters=rope)
    specs = graph_specs(model)
    run = OnnxRunner(export_text_graphs(model, specs, tmp_path)).run
    assert check_text_graphs(model, specs, run, POSITIONS)["max_relative_error"] < 1e-4
    settings = settings_of(model, max_new_tokens=NEW, eos_ids=(), rope_switches_at=rope_switches_at(model.config))
    for text in prompts(6, longest=30):
        feed = batch_for(model, [text])
        wanted = continue_in_transformers(model, feed, max_new_tokens=NEW, eos_token_id=None)
        assert np.array_equal(generate(run, specs, feed, settings).sequences, wanted)
