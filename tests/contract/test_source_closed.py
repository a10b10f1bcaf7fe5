"""Closed-world reading: whatever would make the model another one is refused by name, with a cure that fits."""

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from string import Formatter
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from converter.errors import SourceError
from converter.model_folder import tried
from converter.model_folder.causes import CAUSES
from converter.model_folder.labels import label_line, label_of_line
from converter.model_folder.load import load_source
from tests.tiny import SENTENCES

Tiny = Callable[..., Path]
OWN = "sentence_transformers.models."


def config(folder: Path, file: str = "config.json", **changes: Any) -> None:
    path = folder / file
    table = json.loads(path.read_text()) if path.is_file() else {}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({k: v for k, v in (table | changes).items() if v is not None}))


def modules(folder: Path, *types: str, **first: Any) -> None:
    rows = [{"idx": i, "name": str(i), "path": "" if i == 0 else f"{i}_M", "type": t} for i, t in enumerate(types)]
    for row in rows[1:]:
        (folder / row["path"]).mkdir()
    (folder / "modules.json").write_text(json.dumps([rows[0] | first, *rows[1:]]))


def pooled(folder: Path, **changes: Any) -> None:
    modules(folder, f"{OWN}Transformer", f"{OWN}Pooling")
    config(folder, "1_M/config.json", **({"word_embedding_dimension": 32} | changes))


def with_dense(folder: Path, **changes: Any) -> None:
    modules(folder, f"{OWN}Transformer", f"{OWN}Pooling", f"{OWN}Dense")
    config(folder, "1_M/config.json", word_embedding_dimension=32)
    config(folder, "2_M/config.json", **({"in_features": 32, "out_features": 8, "bias": False} | changes))
    save_file({"linear.weight": torch.zeros(8, changes.get("in_features", 32))}, folder / "2_M" / "model.safetensors")


def weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def grow(folder: Path) -> None:
    config(folder, "tokenizer.json")
    table = json.loads((folder / "tokenizer.json").read_text())
    more = table["added_tokens"][-1] | {"id": 10_000, "content": "<image>", "special": True}
    table["added_tokens"].append(more)
    (folder / "tokenizer.json").write_text(json.dumps(table))


def spare(folder: Path) -> None:
    name = "bert.embeddings.word_embeddings.weight"
    weights(folder, lambda t: t | {name: torch.cat([t[name]] * 2)})
    config(folder, vocab_size=len(load_file(folder / "model.safetensors")[name]))


def drop_types(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Fewer types than the tokenizer gives: none at all."""
    name = "bert.embeddings.token_type_embeddings.weight"
    return tensors | {name: tensors[name][:0].clone()}


def unpad(folder: Path) -> None:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token": None}))


def indexed_outside(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    names = load_file(folder.parent / "outside.safetensors")
    config(folder, "model.safetensors.index.json", weight_map=dict.fromkeys(names, "../outside.safetensors"))


def linked_outside(folder: Path) -> None:
    (folder / "config.json").rename(folder.parent / "private.json")
    (folder / "config.json").symlink_to("../private.json")


def tokenizer_outside(folder: Path) -> None:
    shutil.copy(folder / "tokenizer.json", folder.parent / "tokenizer.4.0.0.json")
    config(folder, "tokenizer_config.json", fast_tokenizer_files=["../tokenizer.4.0.0.json"])


def adapted(folder: Path, **changes: Any) -> None:
    config(folder, "adapter_config.json", **({"peft_type": "LORA", "r": 2, "target_modules": ["query"]} | changes))


def damaged_adapter(folder: Path) -> None:
    adapted(folder)
    save_file({"base_model.model.nothing.lora_A.weight": torch.zeros(2, 2)}, folder / "adapter_model.safetensors")


def adapter_alone(folder: Path) -> None:
    adapted(folder, base_model_name_or_path="nobody/nothing")
    save_file({"x": torch.zeros(1)}, folder / "adapter_model.safetensors")
    (folder / "config.json").unlink()


def rename_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "my_bert.safetensors")


def slow(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    config(folder, "tokenizer_config.json", tokenizer_class="CanineTokenizer")


def lilt(folder: Path) -> None:
    config(folder, model_type="lilt", architectures=["LiltForSequenceClassification"])


RENAMED = {"0": "bad", "1": "good", "2": "so so"}
BACK = {"bad": 0, "good": 1, "so so": 2}
INSIDE = "bert.encoder.layer.0.attention.self.distance_embedding.weight"
PLANTED: dict[str, Callable[[Path], Any]] = {
    "size-implausible": lambda f: config(f, num_hidden_layers=10**9),
    "larger-than-weights": lambda f: config(f, intermediate_size=10**9),
    "module-of-own-code": lambda f: modules(f, f"{OWN}Transformer", "pylate.models.Dense.Dense"),
    "module-unknown": lambda f: modules(f, f"{OWN}Transformer", f"{OWN}Wonder"),
    "module-without-encoder": lambda f: modules(f, f"{OWN}StaticEmbedding"),
    "module-router": lambda f: modules(f, f"{OWN}Router"),
    "module-weighted-layers": lambda f: modules(f, f"{OWN}Transformer", f"{OWN}WeightedLayerPooling", f"{OWN}Pooling"),
    "module-sparse": lambda f: modules(
        f, "sentence_transformers.sparse_encoder.models.MLMTransformer", f"{OWN}Pooling"
    ),
    "module-word-vectors": lambda f: modules(f, f"{OWN}Transformer", f"{OWN}CNN"),
    "module-kwargs": lambda f: modules(f, f"{OWN}Transformer", kwargs=["task"]),
    "module-row": lambda f: modules(f, f"{OWN}Transformer", extra=1),
    "modules-of-one-name": lambda f: modules(f, f"{OWN}Transformer", f"{OWN}Pooling", name="1"),
    "module-key": lambda f: pooled(f, pooling_mode_best_tokens=True),
    "module-value": lambda f: pooled(f, pooling_mode="best"),
    "module-damaged": lambda f: with_dense(f, bias=True),
    "module-without-weights": lambda f: (with_dense(f), (f / "2_M" / "model.safetensors").unlink()),
    "modules-do-not-fit": lambda f: with_dense(f, in_features=20),
    "no-sentence-embedding": lambda f: modules(f, f"{OWN}Transformer"),
    "sentence-kind": lambda f: (pooled(f), config(f, "config_sentence_transformers.json", model_type="SparseEncoder")),
    "sentence-key": lambda f: (pooled(f), config(f, "config_sentence_transformers.json", instruction="x")),
    "sentence-value": lambda f: (pooled(f), config(f, "sentence_bert_config.json", query_length=32)),
    "prompt-missing": lambda f: (pooled(f), config(f, "config_sentence_transformers.json", default_prompt_name="q")),
    "remote-code": lambda f: config(f, auto_map={"AutoModel": "modeling.Mine"}),
    "quantized": lambda f: config(f, quantization_config={"quant_method": "gptq"}),
    "relative-positions": lambda f: config(f, position_embedding_type="relative_key"),
    "pruned-heads": lambda f: config(f, pruned_heads={"0": [1]}),
    "config-key": lambda f: config(f, window_size=5),
    "other-inputs": lilt,
    "no-mask": lambda f: config(f, model_type="fnet", architectures=["FNetForSequenceClassification"]),
    "labels-not-counted": lambda f: config(f, id2label={"0": "bad", "2": "good"}),
    "labels-of-one-name": lambda f: config(f, id2label=RENAMED | {"1": "bad"}),
    "labels-disagree": lambda f: config(f, id2label=RENAMED, label2id=BACK | {"bad": 1}),
    "setfit": lambda f: (f / "model_head.pkl").write_bytes(b"x"),
    "gptq": lambda f: config(f, "quantize_config.json", bits=4),
    "adapter-hub": lambda f: config(f, "head_config.json", x=1),
    "file-unknown": lambda f: config(f, "thresholds.json", good=0.7),
    "weights-misnamed": rename_weights,
    "weights-outside": indexed_outside,
    "link-outside": linked_outside,
    "tokenizer-outside": tokenizer_outside,
    "weights-named": lambda f: config(f, transformers_weights="model.safetensors.index.json"),
    "weights-prefixed": lambda f: weights(f, lambda t: {f"module.{k}": v for k, v in t.items()}),
    "weights-unread": lambda f: weights(f, lambda t: t | {INSIDE: torch.zeros(3, 8)}),
    "adapter-without-base": adapter_alone,
    "adapter-kind": lambda f: adapted(f, peft_type="PREFIX_TUNING"),
    "adapter-damaged": damaged_adapter,
    "token-beyond-table": grow,
    "tokenizer-of-another": lambda f: (
        weights(f, lambda t: t | {(n := "bert.embeddings.word_embeddings.weight"): t[n][:50].clone()}),
        config(f, vocab_size=50),
    ),
    "tokenizer-cut-off": spare,
    "tokenizer-missing": lambda f: (f / "tokenizer.json").unlink(),
    "tokenizer-damaged": lambda f: (f / "tokenizer.json").write_text("{}"),
    "tokenizer-slow": slow,
    "tokenizer-without-padding": unpad,
    "not-run": lambda f: config(f, type_vocab_size=0) or weights(f, drop_types),
    "not-loaded": lambda f: config(f, hidden_act="gloo"),
}
OF_DECODERS = {"no-end-token", "end-token-pads", "no-start-token", "chat-template"}
ELSEWHERE = {"adapter-without-peft", "unforeseen", "remembers", *OF_DECODERS}
"""Rows with a test of their own: below, in test_encoder_decoder_classifiers and in test_generation."""


@pytest.fixture
def folder(tiny: Tiny, tmp_path: Path) -> Path:
    """A copy of a tiny BERT classifier of one layer that a test may damage."""
    return Path(shutil.copytree(tiny("bert", "text-classification", layers=1), tmp_path / "model"))


def refused(folder: Path) -> SourceError:
    with pytest.raises(SourceError) as caught:
        load_source(str(folder))
    assert caught.value.exit_code == 4
    return caught.value


def is_of(error: SourceError, cause: str) -> bool:
    def pattern(text: str) -> str:
        parts = Formatter().parse(text)
        return "".join(re.escape(plain) + ("" if name is None else ".*") for plain, name, _, _ in parts)

    assert error.full_code == f"PLM400/{cause}"
    row = CAUSES[cause]
    message = str(error).removeprefix(f"{error.where}: ")
    return bool(re.fullmatch(pattern(row.what), message) and re.fullmatch(pattern(row.cure), error.hint))


@pytest.mark.parametrize("cause", PLANTED)
def test_each_cause_is_refused_with_its_own_cure(cause: str, folder: Path) -> None:
    PLANTED[cause](folder)
    error = refused(folder)
    assert is_of(error, cause), f"{error} | {error.hint}"


def test_every_row_of_the_table_has_a_test() -> None:
    assert set(PLANTED) | ELSEWHERE == set(CAUSES)


def test_an_error_that_nobody_foresaw_is_a_refusal_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def fail(*_args: object, **_options: object) -> None:
        raise ZeroDivisionError("a library divides by 0")

    monkeypatch.setattr(transformers.AutoModelForSequenceClassification, "from_pretrained", fail)
    error = refused(folder)
    assert "a library divides by 0" in str(error)
    assert "report" in error.hint


def test_a_class_that_fails_on_an_empty_text_is_refused(folder: Path) -> None:
    """Funnel looks for positions that a text of two tokens does not have."""
    import transformers

    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    made = transformers.FunnelConfig(
        vocab_size=rows, d_model=32, n_head=4, d_head=8, d_inner=64, block_sizes=[1, 1, 1], num_labels=3
    )
    transformers.FunnelForSequenceClassification(made).save_pretrained(folder)
    error = refused(folder)
    assert is_of(error, "not-run")
    assert "a text of 2 tokens" in str(error)


def big_bird(folder: Path, **settings: Any) -> None:
    """Put a BigBird that attends to blocks in long texts, to everything in short ones, in the place of the model."""
    import transformers

    torch.manual_seed(0)
    made = transformers.BigBirdConfig(
        vocab_size=json.loads((folder / "config.json").read_text())["vocab_size"],
        num_labels=3,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        block_size=4,
        num_random_blocks=1,
        initializer_range=0.5,
        **settings,
    )
    transformers.BigBirdForSequenceClassification(made).save_pretrained(folder)


def test_a_model_that_answers_by_what_it_was_asked_before_is_refused(folder: Path) -> None:
    """A short text switches a BigBird to full attention for good: a package of that is not the model of long texts."""
    big_bird(folder)
    error = refused(folder)
    assert is_of(error, "remembers")
    assert "attention_type goes from 'block_sparse' to 'original_full'" in str(error)


def test_little_is_kept_of_answers_to_tell_whether_others_come_later(
    folder: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits of a large vocabulary for a longest text are gigabytes."""
    monkeypatch.setattr(tried, "MOST_KEPT", 64)
    source = load_source(str(tiny("bert", "fill-mask", layers=1)))
    (kept,) = tried._answered(source, source.tokenizer("the old town near the lake")).values()
    assert 32 <= kept.numel() <= 64
    assert kept.untyped_storage().nbytes() <= 64 * 4
    big_bird(folder)
    assert is_of(refused(folder), "remembers")


def test_a_model_that_answers_all_texts_alike_is_read_whatever_it_remembers(folder: Path) -> None:
    big_bird(folder)
    assert load_source(str(folder), longest=28).task.name == "text-classification"  # up to 28 tokens both are one
    big_bird(folder, attention_type="original_full")
    assert load_source(str(folder)).task.name == "text-classification"


def test_an_adapter_without_peft_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    adapted(folder)
    monkeypatch.setitem(sys.modules, "peft", None)
    assert is_of(refused(folder), "adapter-without-peft")


def test_what_changes_nothing_is_no_reason_to_refuse(folder: Path) -> None:
    """The twin: old keys, buffers of old versions, other tasks' heads, cards and results."""
    more = {"bert.embeddings.position_ids": torch.arange(64)[None], "cls.predictions.bias": torch.zeros(3)}
    weights(folder, lambda t: t | more)
    config(
        folder,
        position_embedding_type="absolute",
        finetuning_task="sst2",
        output_past=True,
        num_beams=1,
        pruned_heads={},
    )
    for name in ("all_results.json", "generation_config.json", "trainer_state.json"):
        config(folder, name)
    for name in ("README.md", "training_args.bin", "dev.tsv", "modeling.py"):
        (folder / name).write_text("")
    assert load_source(str(folder)).task.name == "text-classification"


def test_a_class_of_transformers_wins_over_remote_code(folder: Path) -> None:
    config(folder, auto_map={"AutoConfig": "configuration.BertConfig", "AutoModel": "modeling.BertModel"})
    load_source(str(folder))
    config(folder, architectures=["MyBertForSequenceClassification"])
    assert is_of(refused(folder), "remote-code")


def test_weights_in_parts_are_read_and_hashed_as_their_index_says(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    for file, own in parts.items():
        save_file({n: tensors[n] for n in own}, folder / file, metadata={"format": "pt"})
    config(
        folder, "model.safetensors.index.json", weight_map={n: f for f, own in parts.items() for n in own}, metadata={}
    )
    assert set(load_source(str(folder)).provenance.weights_sha256) == set(parts)


@pytest.mark.parametrize("name", ["plain", "bad, very\nbad", "a\\nb", "gut ✓ 日本", " spaces ", "\u2028", "\r\n\\"])
def test_odd_names_of_classes_stand_on_one_line_and_are_read_back(name: str) -> None:
    line = label_line(name)
    assert len(f"{line}.".splitlines()) == 1
    assert label_of_line(line) == name


def test_a_tokenizer_of_its_vocabulary_alone_is_read(folder: Path) -> None:
    wanted = load_source(str(folder)).tokenizer
    words = sorted(wanted.get_vocab(), key=lambda w: wanted.get_vocab()[w])
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    found = load_source(str(folder)).tokenizer
    text = "the movie was wonderful, 3.5 percent"
    assert found(text)["input_ids"] == wanted(text)["input_ids"]


def test_a_tokenizer_of_its_sentencepiece_model_alone_is_read(tiny: Tiny, tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    copy = Path(shutil.copytree(tiny("deberta-v2", layers=1), tmp_path / "model"))
    written = io.BytesIO()
    names = {"bos_piece": "[CLS]", "eos_piece": "[SEP]", "pad_piece": "[PAD]", "unk_piece": "[UNK]"}
    places = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3, "vocab_size": 170}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=written,
        minloglevel=2,
        user_defined_symbols=["[MASK]"],
        **names,
        **places,
    )
    name = "deberta.embeddings.word_embeddings.weight"
    weights(copy, lambda t: t | {name: t[name][:170].clone()})
    config(copy, vocab_size=170)
    for file in (*copy.glob("*token*"), *copy.glob("vocab*")):
        file.unlink()
    (copy / "spm.model").write_bytes(written.getvalue())
    own = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    text = "the old town near the lake"
    assert load_source(str(copy)).tokenizer(text)["input_ids"] == [1, *own.encode(text), 2]


def test_lora_beside_its_base_is_merged(folder: Path) -> None:
    """By hand: W + alpha / r · B A."""
    pytest.importorskip("peft")
    plain = load_source(str(folder))
    name = "bert.encoder.layer.0.attention.self.query"
    a, b = torch.randn(2, 32), torch.randn(32, 2)
    adapted(folder, lora_alpha=6, task_type="SEQ_CLS", base_model_name_or_path="anything")
    lora = {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
    save_file(lora, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    merged = load_source(str(folder))
    before, after = (m.module.get_parameter(f"{name}.weight") for m in (plain, merged))
    torch.testing.assert_close(after, before + 3 * b @ a, atol=1e-5, rtol=1e-5)
    assert set(merged.provenance.weights_sha256) == {"model.safetensors", "adapter_model.safetensors"}
    alone = folder.parent / "adapter"
    alone.mkdir()
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.move(folder / file, alone / file)
    config(alone, "adapter_config.json", base_model_name_or_path=str(folder))
    again = load_source(str(alone)).module.get_parameter(f"{name}.weight")
    torch.testing.assert_close(again, after)


def test_encoders_of_other_inputs_are_refused_before_their_weights_are_read(folder: Path) -> None:
    import transformers as t

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    for made in (t.LayoutLMConfig, t.BrosConfig, t.MarkupLMConfig, t.LukeConfig, t.TapasConfig):
        (folder / "config.json").write_text(json.dumps(made(num_labels=2, **sizes).to_dict()))
        assert is_of(refused(folder), "other-inputs")
