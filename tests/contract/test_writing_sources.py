"""Folders of models that write text as their owners have them: languages, prefixes, shards, what is missing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converter.api import convert, verify
from converter.errors import SourceError, UsageError
from converter.model_folder.load import load_source
from converter.stage import SILENT
from converter.validate.checks import Status
from tests.tiny_text import save_causal, save_m2m100, save_marian, save_t5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a tiny model's folder, saved once; do not write into it."""
    makers: dict[str, Callable[[Path], Path]] = {
        "gpt2": save_causal,
        "marian": save_marian,
        "m2m100": save_m2m100,
        "t5": save_t5,
    }
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            made[kind] = makers[kind](tmp_path_factory.mktemp(kind) / "model")
        return made[kind]

    return make


@pytest.fixture
def copied(folder: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    return lambda kind: Path(shutil.copytree(folder(kind), tmp_path / kind))


def edit(path: Path, **values: Any) -> None:
    table = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in (table | values).items() if v is not None}))


def owner_agrees(source: Any) -> int:
    """Hold the source to transformers' `generate`; returns how many texts differ from each other in their answers."""
    from converter.data.probes import builtin_examples, choose_probes
    from converter.reference import capture_reference
    from converter.validate.owner import check_owner

    reference = capture_reference(source, choose_probes((), builtin_examples(source), 12), SILENT)
    verdict = check_owner(source, reference, SILENT)
    assert verdict.check.status is Status.PASS
    return len({tuple(d) for d in reference.decisions})


# Languages


def test_a_translator_of_many_languages_goes_the_whole_way_from_sentencepiece_files(
    folder: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from converter.commands.cli import run

    recipe = {
        "model": str(folder("m2m100")),
        "targets": ["cpu-int8"],
        "language": "de",
        "quantize": {"cpu-int8": "none"},
    }
    (target,) = convert(recipe, tmp_path / "out").targets
    assert target.status is Status.PASS, target.error
    package = tmp_path / "out" / "cpu-int8"
    assert verify(package)["gate"] == "PASS"
    own = json.loads((package / "generation_config.json").read_text())
    tokens = json.loads((package / "tokenizer.json").read_text())["added_tokens"]
    ids = {t["content"]: t["id"] for t in tokens}
    assert own["forced_bos_token_id"] == ids["__de__"]
    said = {}
    for language in ("de", "fr"):
        assert run(["run", str(package), "the old town", "--language", language, "--max-new-tokens", "8"]) == 0
        said[language] = capfd.readouterr().out
    assert run(["run", str(package), "the old town", "--max-new-tokens", "8"]) == 0
    assert capfd.readouterr().out == said["de"]
    assert run(["run", str(package), "the old town", "--language", "xx"]) == 2
    assert "no target language 'xx'" in capfd.readouterr().err


def test_without_a_language_a_translator_of_many_is_refused_with_the_flag_that_names_it(
    folder: Callable[[str], Path],
) -> None:
    with pytest.raises(SourceError, match="nothing says which one is wanted") as caught:
        load_source(str(folder("m2m100")))
    assert "--language" in str(caught.value.hint)


def test_a_mark_before_the_text_names_the_language_of_a_marian(folder: Callable[[str], Path]) -> None:
    source = load_source(str(folder("marian")), language="deu")
    assert source.task.prompt == ">>deu<< "
    assert owner_agrees(source) > 3


@pytest.mark.parametrize(
    ("kind", "language", "said"),
    [("m2m100", "xx", "no target language 'xx'"), ("gpt2", "de", "cannot be asked for 'de'")],
)
def test_a_language_that_a_model_lacks_is_named(
    kind: str, language: str, said: str, folder: Callable[[str], Path]
) -> None:
    with pytest.raises(UsageError, match=said):
        load_source(str(folder(kind)), language=language)


# Prefixes


def test_a_task_of_t5_puts_its_prefix_before_every_text_and_follows_its_settings(folder: Callable[[str], Path]) -> None:
    source = load_source(str(folder("t5")), prompt="summarization")
    task: Any = source.task
    assert (task.prompt, task.settings.min_length, task.settings.no_repeat_ngram) == ("summarize: ", 6, 2)
    assert task.generation_table["num_beams"] == 4
    assert source.prompt_facts is not None
    assert owner_agrees(source) > 3


def test_a_task_that_t5_does_not_have_is_named(folder: Callable[[str], Path]) -> None:
    with pytest.raises(UsageError, match="no prompt 'summarisation'") as caught:
        load_source(str(folder("t5")), prompt="summarisation")
    assert "summarization" in str(caught.value.hint)


# Checkpoints as they are stored


@pytest.mark.parametrize("stored", ["bf16", "sharded"])
def test_a_checkpoint_in_bf16_or_in_shards_is_read_as_its_owner_reads_it(
    stored: str, folder: Callable[[str], Path], copied: Callable[[str], Path]
) -> None:
    import torch
    import transformers

    made = copied("gpt2")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder("gpt2"))
    (made / "model.safetensors").unlink()
    if stored == "bf16":
        model.to(torch.bfloat16).save_pretrained(made)
    else:
        model.save_pretrained(made, max_shard_size="40kB")
        assert len(list(made.glob("model-*.safetensors"))) > 1
    assert owner_agrees(load_source(str(made))) > 3


def test_masks_that_older_versions_saved_are_no_weights(copied: Callable[[str], Path]) -> None:
    """GPT-Neo's checkpoints hold its causal masks; a weight of another name is refused as before."""
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    made = copied("gpt2")
    size = json.loads((made / "config.json").read_text())["vocab_size"]
    kinds = {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "max_position_embeddings": 48}
    config = transformers.GPTNeoConfig(vocab_size=size, hidden_size=32, num_heads=4, eos_token_id=0, **kinds)
    transformers.GPTNeoForCausalLM(config).save_pretrained(made)
    weights = load_file(made / "model.safetensors")
    masks = {
        f"transformer.h.{layer}.attn.attention.{name}": value
        for layer in range(2)
        for name, value in (("bias", torch.ones(1, 1, 48, 48)), ("masked_bias", torch.tensor(-1e9)))
    }
    assert not masks.keys() & weights.keys()
    save_file(weights | masks, made / "model.safetensors", metadata={"format": "pt"})
    assert load_source(str(made)).max_length == 48
    other = {"transformer.h.0.attn.attention.gate": torch.ones(4)}
    save_file(weights | other, made / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SourceError, match="gate"):
        load_source(str(made))


def test_several_end_tokens_all_end_a_text(copied: Callable[[str], Path]) -> None:
    made = copied("gpt2")
    plain = load_source(str(made))
    from converter.generate.loop import generate
    from converter.reference import torch_run

    task: Any = plain.task
    ids = plain.tokenizer("the old town", return_tensors="np")
    (answer,) = generate(
        torch_run(plain), plain.specs, {n: ids[n] for n in ("input_ids", "attention_mask")}, task.judged_settings
    ).texts(task.judged_settings)
    edit(made / "generation_config.json", eos_token_id=[0, answer[3]])
    source: Any = load_source(str(made))
    assert source.task.settings.eos_ids == (0, answer[3])
    assert owner_agrees(source) > 3


@pytest.mark.parametrize(
    "asked",
    [
        {"num_beams": 3, "num_return_sequences": 3, "return_dict_in_generate": True, "temperature": 0.0},
        {"eos_token_id": None},
    ],
    ids=["several answers", "no end"],
)
def test_a_generation_config_is_followed_as_generate_follows_it(
    asked: dict[str, Any], copied: Callable[[str], Path]
) -> None:
    """Several answers are one of them; an end token that config.json alone names ends nothing."""
    made = copied("gpt2")
    edit(made / "generation_config.json", **asked)
    source: Any = load_source(str(made))
    assert source.task.settings.eos_ids == (() if asked == {"eos_token_id": None} else (0,))
    assert owner_agrees(source) > 3


def test_positions_are_found_under_the_name_that_mpt_has_for_them(copied: Callable[[str], Path]) -> None:
    """It fails on any text that is longer."""
    import transformers

    made = copied("gpt2")
    size = json.loads((made / "config.json").read_text())["vocab_size"]
    config = transformers.MptConfig(vocab_size=size, d_model=32, n_layers=1, n_heads=4, max_seq_len=48)
    transformers.MptForCausalLM(config).save_pretrained(made)
    assert load_source(str(made)).max_length == 48


# What is missing, or does not fit


def test_an_encoder_decoder_without_a_token_to_begin_with_is_refused(copied: Callable[[str], Path]) -> None:
    made = copied("t5")
    (made / "generation_config.json").unlink()
    edit(made / "config.json", decoder_start_token_id=None, bos_token_id=None)
    with pytest.raises(SourceError, match="which token its answers start with"):
        load_source(str(made))


def test_a_causal_model_without_a_generation_config_ends_where_its_configuration_says(
    copied: Callable[[str], Path],
) -> None:
    made = copied("gpt2")
    (made / "generation_config.json").unlink()
    source: Any = load_source(str(made))
    assert source.task.settings.eos_ids == (0,)


@pytest.mark.parametrize("kind", ["marian", "gpt2"])
def test_a_tokenizer_of_more_tokens_than_the_embedding_has_is_refused(kind: str, copied: Callable[[str], Path]) -> None:
    made = copied(kind)
    import transformers

    loader: Any = transformers.AutoModelForCausalLM if kind == "gpt2" else transformers.AutoModelForSeq2SeqLM
    model = loader.from_pretrained(made)
    rows = model.config.vocab_size - 40
    model.resize_token_embeddings(rows)
    if kind == "marian":
        model.config.decoder_vocab_size = rows
        special = {"pad_token_id": 1, "decoder_start_token_id": 1, "bad_words_ids": [[1]]}
        for name, value in special.items():
            setattr(model.generation_config, name, value)
        model.config.pad_token_id = model.config.decoder_start_token_id = 1
    model.save_pretrained(made)
    with pytest.raises(SourceError, match=r"ids up to \d+, the model \d+ embeddings"):
        load_source(str(made))


def give_special_token(folder: Path, name: str) -> int:
    """Add a special token to the tokenizer alone, behind the last row of embeddings; returns the number of rows."""
    rows = int(json.loads((folder / "config.json").read_text())["vocab_size"])
    table = json.loads((folder / "tokenizer.json").read_text())
    table["added_tokens"].append(table["added_tokens"][0] | {"id": rows, "content": name, "special": True})
    (folder / "tokenizer.json").write_text(json.dumps(table))
    return rows


def test_a_mark_of_images_that_a_model_of_text_has_no_row_for_is_text_as_any_other(
    copied: Callable[[str], Path], tmp_path: Path
) -> None:
    """Gemma 3 of 1B and 270M are published with the tokenizer of the larger ones, which see."""
    from converter.model_folder.files import write_model_files

    made = copied("gpt2")
    rows = give_special_token(made, "<image_soft_token>")
    edit(made / "tokenizer_config.json", extra_special_tokens={"image_token": "<image_soft_token>"})
    source = load_source(str(made))
    ids = source.tokenizer("see <image_soft_token> here")["input_ids"]
    assert max(ids) < rows
    assert source.tokenizer.decode(ids) == "see <image_soft_token> here"
    assert len(source.tokenizer) == rows
    assert owner_agrees(source) > 3
    package = tmp_path / "package"
    package.mkdir()
    write_model_files(source, package, {})
    assert "image_soft_token" not in (package / "tokenizer.json").read_text()


def test_a_token_that_fills_batches_and_has_no_row_is_refused(copied: Callable[[str], Path]) -> None:
    made = copied("gpt2")
    give_special_token(made, "<pad>")
    edit(made / "tokenizer_config.json", pad_token="<pad>")
    with pytest.raises(SourceError, match=r"1 tokens beyond the model's \d+ embeddings: <pad>"):
        load_source(str(made))


# Chats


def test_a_chat_without_a_template_is_refused(folder: Callable[[str], Path]) -> None:
    from converter.generate.chat import chat_ids

    with pytest.raises(UsageError, match="has no chat template"):
        chat_ids(load_source(str(folder("gpt2"))).tokenizer, "hello")
