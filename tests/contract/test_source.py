"""What a source folder may be, and how everything else is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from converter.errors import SourceError, UsageError
from converter.examples import Example
from converter.graphs import MODEL
from converter.model_folder.load import load_source
from converter.model_folder.save import save_model
from tests.tiny import FAMILIES

Tiny = Callable[..., Path]


@pytest.fixture
def folder(tiny: Tiny, tmp_path: Path) -> Path:
    """A copy of a tiny BERT classifier that a test may damage."""
    return Path(shutil.copytree(tiny("bert", "text-classification"), tmp_path / "model"))


def _config(folder: Path, **changes: Any) -> None:
    table = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in (table | changes).items() if v is not None}))


def _weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _refused(folder: Path | str, **options: Any) -> tuple[str, str]:
    with pytest.raises(SourceError) as caught:
        load_source(str(folder), **options)
    assert caught.value.exit_code == 4
    return str(caught.value), caught.value.hint


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_in_float32_and_evaluation_mode(family: str, tiny: Tiny) -> None:
    model = load_source(str(tiny(family, "text-classification")))
    assert model.task.name == "text-classification"
    assert not model.module.training
    assert {p.dtype for p in model.module.parameters()} == {torch.float32}
    assert model.input_names[:2] == ("input_ids", "attention_mask")


def test_a_tokenizer_gives_only_what_the_model_takes(tiny: Tiny, tmp_path: Path) -> None:
    """DistilBERT with BERT's tokenizer, as many are published: its token types reach no graph and no runtime."""
    copy = Path(shutil.copytree(tiny("distilbert"), tmp_path / "model"))
    table = json.loads((copy / "tokenizer_config.json").read_text())
    names = ["input_ids", "token_type_ids", "attention_mask"]
    (copy / "tokenizer_config.json").write_text(json.dumps(table | {"model_input_names": names}))
    model = load_source(str(copy))
    assert model.input_names == ("input_ids", "attention_mask")
    encoding = model.task.encode(model.tokenizer, Example("a text", "another"), model.max_length)
    assert tuple(encoding.inputs) == model.input_names


@pytest.mark.parametrize("family", FAMILIES)
def test_the_longest_input_really_fits_the_model(family: str, tiny: Tiny) -> None:
    model = load_source(str(tiny(family, "text-classification")))
    feed = {name: torch.ones((1, model.max_length), dtype=torch.int64) for name in model.input_names}
    feed["input_ids"] *= 7
    with torch.inference_mode():
        assert torch.isfinite(model.graphs()[MODEL](**feed)["logits"]).all()


@pytest.mark.parametrize(
    "task", ["text-classification", "token-classification", "question-answering", "feature-extraction", "fill-mask"]
)
def test_the_task_is_inferred_from_the_head(task: str, tiny: Tiny) -> None:
    assert load_source(str(tiny("bert", task))).task.name == task


def test_half_precision_is_computed_in_float32(folder: Path) -> None:
    _weights(folder, lambda t: t.update({k: v.half() for k, v in t.items() if v.is_floating_point()}))
    _config(folder, dtype="float16")
    model = load_source(str(folder))
    assert {p.dtype for p in model.module.parameters()} == {torch.float32}
    assert model.provenance.dtype == "float16"


def test_a_sentence_transformer_brings_its_pooling_into_the_graph(tiny_sentence_transformer: Path) -> None:
    model = load_source(str(tiny_sentence_transformer))
    assert model.task.name == "feature-extraction"
    feed = {name: torch.ones((2, 5), dtype=torch.int64) for name in model.input_names}
    made = model.graphs()[MODEL](**feed)
    assert set(made) == {"last_hidden_state", "sentence_embedding"}
    assert torch.allclose(made["sentence_embedding"].norm(dim=-1), torch.ones(2), atol=1e-5)


def test_the_sentence_head_answers_like_sentence_transformers(tiny_sentence_transformer: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    texts = ["the movie was wonderful", "a dull and lifeless story that never finds its way"]
    wanted = sentence_transformers.SentenceTransformer(str(tiny_sentence_transformer), device="cpu").encode(texts)
    model = load_source(str(tiny_sentence_transformer))
    batch = model.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        found = model.graphs()[MODEL](**{n: batch[n] for n in model.input_names})["sentence_embedding"]
    assert torch.allclose(found, torch.from_numpy(wanted), atol=1e-5)


@pytest.mark.parametrize("path", ["../outside", "1_Pooling/../../outside", "/etc", "C:\\\\outside"])
def test_a_module_outside_the_model_is_refused(path: str, tiny_sentence_transformer: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_sentence_transformer, tmp_path / "model"))
    shutil.copytree(copy / "1_Pooling", tmp_path / "outside")
    table = json.loads((copy / "modules.json").read_text())
    for place in (0, 1):
        rows = [row | {"path": path} if i == place else row for i, row in enumerate(table)]
        (copy / "modules.json").write_text(json.dumps(rows))
        assert "outside" in _refused(copy)[0]


@pytest.mark.parametrize("content", ["[]", "{}", "[1]", '[{"type": "x"}]', '[{"type": "x", "path": 3}]'])
def test_damaged_modules_are_refused(content: str, tiny_sentence_transformer: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_sentence_transformer, tmp_path / "model"))
    (copy / "modules.json").write_text(content)
    assert "modul" in _refused(copy)[0]


def test_a_package_gets_of_a_module_what_is_read_and_nothing_else(
    tiny_sentence_transformer: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(tiny_sentence_transformer, tmp_path / "model"))
    (copy / "1_Pooling" / "pytorch_model.bin").write_bytes(b"a pickle")
    save_model(load_source(str(copy)), tmp_path / "saved")
    assert [p.name for p in (tmp_path / "saved" / "1_Pooling").iterdir()] == ["config.json"]


def test_the_weights_hash_and_licence_are_kept(folder: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    model = load_source(str(folder))
    assert model.provenance.licence == "apache-2.0"
    assert len(model.provenance.weights_sha256["model.safetensors"]) == 64
    assert model.provenance.id == "model"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    message, hint = _refused(tmp_path / "none")
    assert "no such folder" in message
    assert "config.json" in hint


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty" in _refused(tmp_path / "empty")[0]


def test_a_hub_id_offline_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    message, hint = _refused("nobody/nothing", revision="main")
    assert "nobody/nothing" in message
    assert "online" in hint or "network" in hint


def test_a_revision_of_a_local_folder_is_a_usage_error(folder: Path) -> None:
    with pytest.raises(UsageError, match="--revision is for Hub ids"):
        load_source(str(folder), revision="main")


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "no weights" in _refused(folder)[0]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth"])
def test_a_pickle_is_refused_unopened_with_the_way_to_convert_it(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"\x80\x04cos\nsystem\n(S'touch /tmp/pwned'\ntR.")
    message, hint = _refused(folder)
    assert name in message
    assert "pickle" in message
    assert "save_pretrained" in hint


@pytest.mark.parametrize("kept", [0, 7, 1000, -1000])
def test_cut_off_weights_are_refused(folder: Path, kept: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    message, hint = _refused(folder)
    assert "cannot be read" in message
    assert "damaged" in hint


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    _weights(folder, lambda t: t.update({"classifier.weight": torch.zeros(5, 32)}))
    assert "classifier.weight" in _refused(folder)[0]


def test_a_missing_head_is_refused_because_it_would_answer_at_random(folder: Path) -> None:
    def drop(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["classifier.weight"]

    _weights(folder, drop)
    message, _ = _refused(folder)
    assert "classifier.weight" in message
    assert "random" in message


@pytest.mark.parametrize("family", ["bert", "deberta-v2"])
def test_a_missing_pooler_is_refused_where_a_head_reads_it(family: str, tiny: Tiny, tmp_path: Path) -> None:
    for task, refused in (("text-classification", True), ("feature-extraction", False)):
        copy = Path(shutil.copytree(tiny(family, task), tmp_path / task))
        _weights(copy, lambda tensors: [tensors.pop(n) for n in list(tensors) if "pooler." in n])
        if refused:
            assert "pooler.dense" in _refused(copy)[0]
        else:
            load_source(str(copy))


def test_missing_output_weights_are_fine_only_where_they_are_the_embeddings(tiny: Tiny, tmp_path: Path) -> None:
    tied = Path(shutil.copytree(tiny("bert", "fill-mask"), tmp_path / "tied"))
    assert "cls.predictions.decoder.weight" not in load_file(tied / "model.safetensors")
    load_source(str(tied))
    _config(tied, tie_word_embeddings=False)
    assert "cls.predictions.decoder" in _refused(tied)[0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(folder: Path, value: float) -> None:
    _weights(folder, lambda t: t.update({"classifier.bias": torch.full((3,), value)}))
    message, _ = _refused(folder)
    assert "NaN or infinite" in message
    assert "classifier.bias" in message


def test_an_unknown_model_type_is_refused_with_the_nearest(folder: Path) -> None:
    _config(folder, model_type="bertt")
    message, hint = _refused(folder)
    assert "'bertt'" in message
    assert "'bert'" in hint


@pytest.mark.parametrize("kind", ["gpt2", "llama", "t5", "marian"])
def test_a_model_that_is_no_encoder_is_named_as_what_it_is(folder: Path, kind: str) -> None:
    _config(folder, model_type=kind)
    message, hint = _refused(folder)
    assert kind in message
    assert "modernbert" in hint


def test_remote_code_is_refused(folder: Path) -> None:
    _config(folder, auto_map={"AutoModel": "modeling.Mine"})
    assert "remote code" in _refused(folder)[0]


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"'])
def test_a_config_that_is_no_table_is_refused(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    assert "config.json" in _refused(folder)[0]


def test_a_missing_config_is_named(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "config.json" in _refused(folder)[0]


def test_a_missing_tokenizer_is_named(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()
    for path in folder.glob("vocab*"):
        path.unlink()
    message, hint = _refused(folder)
    assert "no tokenizer" in message
    assert "tokenizer.json" in hint


def test_a_damaged_tokenizer_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    assert "tokenizer" in _refused(folder)[0]


def test_a_tokenizer_with_more_ids_than_embeddings_is_refused(folder: Path) -> None:
    def shrink(tensors: dict[str, torch.Tensor]) -> None:
        tensors["bert.embeddings.word_embeddings.weight"] = tensors["bert.embeddings.word_embeddings.weight"][
            :50
        ].clone()

    _weights(folder, shrink)
    _config(folder, vocab_size=50)
    message, hint = _refused(folder)
    assert "50 embeddings" in message
    assert "another model" in hint


def test_a_task_without_its_head_is_a_usage_error(folder: Path) -> None:
    with pytest.raises(UsageError, match="no head for question-answering") as caught:
        load_source(str(folder), task="question-answering")
    assert "text-classification" in caught.value.hint


def test_an_unknown_task_offers_the_nearest(folder: Path) -> None:
    with pytest.raises(UsageError, match="no task") as caught:
        load_source(str(folder), task="text-classificaton")
    assert "text-classification" in caught.value.hint
