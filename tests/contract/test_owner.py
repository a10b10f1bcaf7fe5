"""The proof rests on the library of the owner: whatever our reading gets wrong ends the run before anything is made."""

import copy
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from converter.artifact import TorchModel
from converter.errors import SourceError
from converter.examples import Example
from converter.model_folder.load import load_source
from converter.model_folder.save import save_model
from converter.reference import encode_probes, judge, torch_run
from converter.stage import SILENT
from converter.validate.checks import Status
from converter.validate.owner import ALONE, MIXED, _shared_out
from tests.owner import PAIRS, TEXTS, Reading, change, checked, drawn, sentence_folder, with_adapter
from tests.owner_folders import FOLDERS, SMALL
from tests.owner_sweep import fate, merged_by_hand
from tests.tiny import HIDDEN, SENTENCES, TASKS

Tiny = Callable[..., Path]
OTHER = "our reading of the folder does not answer like"


def refused(model: TorchModel, examples: Any = TEXTS) -> str:
    with pytest.raises(SourceError) as caught:
        checked(model, examples)
    assert caught.value.exit_code == 4
    return str(caught.value)


def modules() -> Any:
    from sentence_transformers.sentence_transformer import modules as found

    return found


def dense(residual: bool = False) -> Any:
    return drawn(modules().Dense(HIDDEN, HIDDEN, activation_function=torch.nn.Tanh(), use_residual=residual))


def plain_source(folder: Path) -> TorchModel:
    """The encoder of a folder of sentence-transformers as one without a head: the tests read the rest themselves."""
    return load_source(str(folder), task="feature-extraction")


@pytest.mark.parametrize("task", TASKS)
def test_a_right_reading_answers_like_the_library_of_its_owner(task: str, tiny: Tiny) -> None:
    examples = tuple(replace(e, pair=f"{e.text} so it is") for e in TEXTS) if task == "question-answering" else TEXTS
    verdict = checked(load_source(str(tiny("bert", task))), examples)
    assert verdict.check.status is Status.PASS
    assert (verdict.n_texts, verdict.n_batched) == (len(TEXTS), 8)
    assert verdict.library.startswith("transformers ")
    assert verdict.check.value is not None
    assert verdict.check.value < 1e-6


@pytest.mark.parametrize("name", SMALL)
def test_a_folder_comes_out_right_or_is_refused_by_name(name: str, tmp_path: Path) -> None:
    """The small form of `benchmarks/owner_library.py`; the judge is the library, called without our code."""
    found = fate(FOLDERS[name](tmp_path))
    assert found.outcome in {"right", "refused", "stopped"}, found
    assert found.outcome == "right" or len(found.said) > 20


def test_an_embedding_model_is_asked_through_sentence_transformers(tiny_sentence_transformer: Path) -> None:
    verdict = checked(load_source(str(tiny_sentence_transformer)))
    assert verdict.check.status is Status.PASS
    assert verdict.call == "SentenceTransformer.encode"
    assert verdict.library.startswith("sentence-transformers ")


def test_rounding_is_no_difference_and_a_hundredth_of_a_weight_is_one(tiny: Tiny) -> None:
    model = load_source(str(tiny("bert", "text-classification")))
    weight = dict(model.module.named_parameters())["bert.encoder.layer.1.output.dense.weight"]
    with torch.no_grad():
        weight.mul_(1 + 1e-7)
        assert checked(model).check.status is Status.PASS
        weight.mul_(1.01)
    said = refused(model)
    assert "encoder.layer.1.output.dense.weight" in said
    assert "model.safetensors" in said


def test_modules_in_another_order_are_named(tiny: Tiny, tmp_path: Path) -> None:
    pooling, normalize, project = modules().Pooling(HIDDEN, "mean"), modules().Normalize(), dense()
    folder = sentence_folder(tmp_path / "m", tiny("bert", "feature-extraction"), [pooling, normalize, project])
    source = plain_source(folder)
    assert checked(replace(source, head=Reading(pooling, normalize, project))).check.status is Status.PASS
    said = refused(replace(source, head=Reading(pooling, project, normalize)))
    assert OTHER in said
    assert "modules.json" in said
    assert "out of its order" in said


def test_a_residual_that_is_dropped_is_named(tiny: Tiny, tmp_path: Path) -> None:
    pooling, project = modules().Pooling(HIDDEN, "mean"), dense(residual=True)
    folder = sentence_folder(tmp_path / "m", tiny("bert", "feature-extraction"), [pooling, project])
    without = copy.deepcopy(project)
    without.use_residual = False
    assert "2_Dense/config.json: use_residual is not applied" in refused(
        replace(plain_source(folder), head=Reading(pooling, without))
    )


def test_a_module_that_is_passed_over_is_named(tiny: Tiny, tmp_path: Path) -> None:
    pooling = modules().Pooling(HIDDEN, "mean")
    folder = sentence_folder(tmp_path / "m", tiny("bert", "feature-extraction"), [pooling, modules().Normalize()])
    assert "2_Normalize is not applied" in refused(replace(plain_source(folder), head=Reading(pooling)))


def test_another_pooling_is_named(tiny: Tiny, tmp_path: Path) -> None:
    pooling = modules().Pooling(HIDDEN, "cls")
    folder = sentence_folder(tmp_path / "m", tiny("bert", "feature-extraction"), [pooling])
    said = refused(replace(plain_source(folder), head=Reading(modules().Pooling(HIDDEN, "max"))))
    assert "1_Pooling/config.json: pooling_mode is cls, and pooled as max" in said


def test_a_prompt_that_is_dropped_is_named(tiny: Tiny, tmp_path: Path) -> None:
    folder = sentence_folder(
        tmp_path / "m",
        tiny("bert", "feature-extraction"),
        [modules().Pooling(HIDDEN, "mean")],
        prompts={"query": "query: ", "passage": "passage: "},
        default_prompt_name="query",
    )
    source = load_source(str(folder))
    said = refused(replace(source, task=type(source.task)(source.config)))
    assert "config_sentence_transformers.json: the prompt 'query: '" in said


def test_pooling_that_padding_on_the_left_breaks_is_named(tiny: Tiny, tmp_path: Path) -> None:
    encoder = Path(shutil.copytree(tiny("bert", "feature-extraction"), tmp_path / "encoder"))
    change(encoder / "tokenizer_config.json", padding_side="left")
    pooling = modules().Pooling(HIDDEN, "cls")
    source = plain_source(sentence_folder(tmp_path / "m", encoder, [pooling]))
    verdict = checked(replace(source, head=Reading(pooling)))
    assert (verdict.check.status, verdict.padding_side) == (Status.PASS, "left")

    def first_of_the_row(features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return features | {"sentence_embedding": features["token_embeddings"][:, 0]}

    said = refused(replace(source, head=Reading(first_of_the_row)))
    assert "alone the text is answered alike, in a batch not" in said
    assert "padding_side is left" in said


def test_lower_case_that_is_ignored_is_named(tiny: Tiny, tmp_path: Path) -> None:
    import transformers

    encoder = tiny("roberta", "feature-extraction")
    folder = sentence_folder(
        tmp_path / "m", encoder, [modules().Pooling(HIDDEN, "mean")], transformer={"do_lower_case": True}
    )
    change(folder / "sentence_bert_config.json", do_lower_case=True)
    shutil.copyfile(encoder / "tokenizer.json", folder / "tokenizer.json")
    source = load_source(str(folder))
    cased = transformers.AutoTokenizer.from_pretrained(encoder)
    said = refused(replace(source, tokenizer=cased))
    assert "sentence_bert_config.json: do_lower_case" in said


def test_another_longest_text_is_named(tiny: Tiny, tiny_sentence_transformer: Path) -> None:
    source = load_source(str(tiny_sentence_transformer))
    long = (*TEXTS, Example(" ".join(SENTENCES)))
    assert checked(source, long).check.status is Status.PASS
    said = refused(replace(source, max_length=64), long)
    assert "the library cuts texts at 48 tokens, our reading at 64" in said
    assert "sentence_bert_config.json: max_seq_length" in said
    classifier = load_source(str(tiny("bert", "text-classification")))
    assert "tokenizer_config.json: model_max_length" in refused(replace(classifier, max_length=32), long)


def test_token_types_that_are_dropped_are_named(tiny: Tiny) -> None:
    source = load_source(str(tiny("bert", "text-classification")))
    assert checked(source, PAIRS).check.status is Status.PASS
    without = replace(source, input_names=("input_ids", "attention_mask"))
    assert checked(without).check.status is Status.PASS  # a text alone has one type only
    assert "token_type_ids" in refused(without, PAIRS)


def test_classes_in_another_order_are_named(tiny: Tiny) -> None:
    source = load_source(str(tiny("bert", "text-classification")))
    swapped = copy.deepcopy(source.config)
    swapped.id2label = {0: "class 1", 1: "class 0", 2: "class 2"}
    said = refused(replace(source, task=type(source.task)(swapped)))
    assert "id2label: class 0 is 'class 0' in the library, 'class 1' in our reading" in said


def test_relative_positions_that_are_ignored_are_traced_to_their_layer(tiny: Tiny) -> None:
    source = load_source(str(tiny("deberta-v2", "token-classification")))
    for layer in source.module.deberta.encoder.layer:
        layer.attention.self.relative_attention = False
    said = refused(source)
    assert "the token ids are the same" in said
    assert "encoder.layer.0.attention" in said


def test_an_adapter_that_is_ignored_is_named(tiny: Tiny, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    base = tiny("bert", "text-classification")
    source = load_source(str(base))
    both = with_adapter(base, tmp_path / "both")
    assert "adapter_config.json: the adapter is not applied" in refused(replace(source, folder=both))
    merged = merged_by_hand(both, "AutoModelForSequenceClassification", base).eval()
    assert checked(replace(source, folder=both, module=merged)).check.status is Status.PASS


@pytest.mark.parametrize("with_tokenizer", [True, False])
def test_an_adapter_alone_is_applied_to_the_base_that_it_names(
    tiny: Tiny, tmp_path: Path, with_tokenizer: bool
) -> None:
    pytest.importorskip("peft")
    base = tiny("bert", "text-classification")
    alone = with_adapter(base, tmp_path / "alone")
    for name in (
        "config.json",
        "model.safetensors",
        *(() if with_tokenizer else ("tokenizer_config.json", "tokenizer.json")),
    ):
        (alone / name).unlink()
    change(alone / "adapter_config.json", base_model_name_or_path=str(base))
    merged = merged_by_hand(alone, "AutoModelForSequenceClassification", base).eval()
    assert checked(replace(load_source(str(base)), folder=alone, module=merged)).check.status is Status.PASS
    change(alone / "adapter_config.json", base_model_name_or_path="somebody/somewhere")
    verdict = checked(replace(load_source(str(base)), folder=alone))
    assert verdict.check.status is Status.NOT_RUN
    assert "somebody/somewhere" in verdict.check.detail


def test_an_adapter_without_peft_is_not_run(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny("bert", "text-classification")
    source = load_source(str(base))
    monkeypatch.setitem(sys.modules, "peft", None)
    verdict = checked(replace(source, folder=with_adapter(base, tmp_path / "both")))
    assert verdict.check.status is Status.NOT_RUN
    assert "peft" in verdict.check.detail


def test_boxes_that_nobody_feeds_are_named(tiny: Tiny) -> None:
    import transformers

    source = load_source(str(tiny("bert", "token-classification")))
    config = transformers.LayoutLMConfig(
        vocab_size=len(source.tokenizer),
        hidden_size=HIDDEN,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        num_labels=len(source.task.labels),
    )
    layout = transformers.LayoutLMForTokenClassification(config).eval()
    assert "layoutlm reads bbox beside the text" in refused(replace(source, module=layout))


def test_another_tokenizer_is_told_by_its_first_token(tiny: Tiny, tmp_path: Path) -> None:
    import transformers

    copied = Path(shutil.copytree(tiny("bert", "text-classification"), tmp_path / "m"))
    table = json.loads((copied / "tokenizer.json").read_text())
    table["post_processor"] = None
    (copied / "tokenizer.json").write_text(json.dumps(table))
    bare = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(copied / "tokenizer.json"), pad_token="[PAD]", model_max_length=64
    )
    source = load_source(str(tiny("bert", "text-classification")))
    bare.model_input_names = list(source.input_names)
    said = refused(replace(source, tokenizer=bare), TEXTS[:4])
    assert "token 0 is '[CLS]' in the library" in said


def test_a_pruned_folder_is_not_run_and_says_why(tiny: Tiny, tmp_path: Path) -> None:
    source = load_source(str(tiny("bert", "text-classification")))
    save_model(source, tmp_path / "m")
    (tmp_path / "m" / "stand_ins.json").write_text('{"format": 1, "parts": {}, "ties": {}}')
    verdict = checked(load_source(str(tmp_path / "m")))
    assert verdict.check.status is Status.NOT_RUN
    assert "stand_ins.json" in verdict.check.detail


def test_a_folder_on_which_its_own_library_fails_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    pooling = modules().Pooling(HIDDEN, "mean")
    folder = sentence_folder(tmp_path / "m", tiny("bert", "feature-extraction"), [pooling, dense()])
    source = replace(plain_source(folder), head=Reading(pooling))
    drawn(modules().Dense(16, 16)).save(str(folder / "2_Dense"))
    said = refused(source)
    assert "itself fails on the folder" in said
    assert "SentenceTransformer.encode" in said


def test_a_cross_encoder_is_no_embedding_model(tiny: Tiny, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    base = tiny("bert", "text-classification", num_labels=1)
    CrossEncoder(str(base), device="cpu").save_pretrained(str(tmp_path / "m"))
    scores = replace(load_source(str(base)), folder=tmp_path / "m")
    verdict = checked(scores, (*PAIRS, *TEXTS))
    assert (verdict.check.status, verdict.n_texts) == (Status.PASS, len(PAIRS))
    assert verdict.call == "CrossEncoder.predict"
    embeddings = replace(load_source(str(tiny("bert", "feature-extraction"))), folder=tmp_path / "m")
    assert "CrossEncoder, which scores pairs" in refused(embeddings)


def test_the_library_never_opens_a_pickle(tiny: Tiny, tmp_path: Path) -> None:
    source = load_source(str(tiny("bert", "feature-extraction")))
    folder = sentence_folder(tmp_path / "m", source.folder, [modules().Pooling(HIDDEN, "mean"), dense()])
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    verdict = checked(replace(source, folder=folder))
    assert verdict.check.status is Status.NOT_RUN
    assert "pickle" in verdict.check.detail


def test_every_text_is_asked_about_and_long_ones_in_no_batch_of_unequal_lengths(tiny: Tiny) -> None:
    source = load_source(str(tiny("bert", "text-classification")))
    examples = [Example(f"{s} {i}") for i in range(8) for s in SENTENCES]
    judged = dict(enumerate(judge(source, encode_probes(source, examples), torch_run(source), SILENT, "")))
    alone, mixed, rest = _shared_out(judged)
    assert {*alone, *mixed, *(p for batch in rest for p in batch)} == set(judged)
    assert len(alone) <= ALONE
    assert len(mixed) == MIXED
    lengths = [judged[p].encoding.length for p in mixed]
    assert lengths[0] < lengths[-1]
    assert checked(source, examples).check.status is Status.PASS


def test_answers_of_another_kind_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path / "m", tiny("bert", "feature-extraction"), [modules().Pooling(HIDDEN, "mean")])
    source = plain_source(folder)
    assert "answers with sentence_embedding" in refused(replace(source, head=None))


def test_a_misreading_ends_the_command_with_exit_code_4_and_leaves_nothing(
    tiny_sentence_transformer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from converter import convert
    from converter.forward import Forward

    right = Forward.named_outputs

    def wrong(self: Forward, made: Any, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        found = right(self, made, attention_mask)
        return found | {"sentence_embedding": found["sentence_embedding"] * 1.01}

    monkeypatch.setattr(Forward, "named_outputs", wrong)
    with pytest.raises(SourceError, match=OTHER) as caught:
        convert({"model": str(tiny_sentence_transformer), "targets": ["cpu-int8"]}, tmp_path / "out")
    assert caught.value.exit_code == 4
    assert not (tmp_path / "out").exists()
