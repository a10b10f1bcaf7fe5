"""The files beside a model that loaders look for: configuration, tokenizer, labels, sentence-transformers modules.

transformers 4.57 and 5, Optimum, transformers.js and sentence-transformers open such a folder as it is. They agree on
less than it seems; the comments say who needs what.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from converter.artifact import TorchModel
from converter.data.encode import tidies_text
from converter.errors import StageFailed
from converter.jsonfile import read_json, read_table, write_json
from converter.model_folder.labels import label_line
from converter.model_folder.sentence_config import ENCODER_FILES, MODEL_FILE, RERANKER

NEUTRAL_CLASS = "PreTrainedTokenizerFast"
"""Every version and transformers.js know it; files saved by transformers 5 name classes that 4.57 lacks."""

CLASS_BY_MODEL_TYPE = {"bert": "BertTokenizer", "electra": "ElectraTokenizer", "albert": "AlbertTokenizer"}
"""transformers.js gives token types to pairs only under these names; a neutral class would lose them."""

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
MODULE_FILES = ("config.json", "model.safetensors")
"""All that a module after the encoder is read from; whatever else lies there, such as a pickle, is not handed on."""
ROUND_TRIP = (
    ("A plain sentence, with numbers 12.5 and a name: O'Neill-Smith.", None),
    ("Größe, naïve café, 東京都, Привет мир 🙂", "second text"),
    ("", None),
)


def write_model_files(
    source: TorchModel, folder: Path, extra_config: Mapping[str, Any], *, max_length: int | None = None
) -> None:
    """Write all of a package's files but the model itself; `extra_config` is merged into `config.json`.

    `max_length` is what the tokenizer truncates at where the package takes less than the model.

    Raises:
        StageFailed: the tokenizer, loaded again from what was written, gives other token ids.

    """
    if max_length is not None:
        source = replace(source, max_length=min(max_length, source.max_length))
    write_json(folder / "config.json", _config(source) | dict(extra_config))
    _write_tokenizer(source, folder)
    if source.task.labels:
        (folder / "labels.txt").write_text(
            "".join(f"{label_line(name)}\n" for name in source.task.labels), encoding="utf-8", newline="\n"
        )
    if source.sentence is not None:
        _write_sentence_files(source, folder)


def _config(source: TorchModel) -> dict[str, Any]:
    table: dict[str, Any] = json.loads(source.config.to_json_string(use_diff=False))
    # A local path says something about its author's machine and nothing about the model.
    table.pop("_name_or_path", None)
    table.pop("_attn_implementation", None)
    return table | {"dtype": "float32", "architectures": [type(source.module).__name__]}


def _write_tokenizer(source: TorchModel, folder: Path) -> None:
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(source.tokenizer.backend_tokenizer.to_str())
    # Truncation and padding left inside would be applied by every client on top of its own.
    backend.no_truncation()
    backend.no_padding()
    backend.save(str(folder / "tokenizer.json"))
    names = {name: str(token) for name in SPECIAL_TOKENS if (token := getattr(source.tokenizer, name, None))}
    write_json(folder / "special_tokens_map.json", names)
    wanted = CLASS_BY_MODEL_TYPE.get(source.config.model_type, NEUTRAL_CLASS)
    for class_name in dict.fromkeys((wanted, NEUTRAL_CLASS)):
        write_json(folder / "tokenizer_config.json", _tokenizer_config(source, class_name) | names)
        found = _round_trip_difference(source, folder)
        if found is None:
            return
    raise StageFailed(
        f"the tokenizer loaded from the package gives other ids than the source's for {found!r}",
        where=str(folder / "tokenizer.json"),
    )


def _tokenizer_config(source: TorchModel, class_name: str) -> dict[str, Any]:
    tokenizer = source.tokenizer
    table: dict[str, Any] = {
        "tokenizer_class": class_name,
        "model_max_length": source.max_length,
        "model_input_names": [n for n in tokenizer.model_input_names if n in source.input_names],
        "clean_up_tokenization_spaces": _tidies(source),
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
    }
    normalizer = json.loads(tokenizer.backend_tokenizer.to_str()).get("normalizer") or {}
    if normalizer.get("type") == "BertNormalizer":
        # The BERT classes rebuild their normalizer from these; they must say what tokenizer.json says.
        table |= {
            "do_lower_case": normalizer["lowercase"],
            "strip_accents": normalizer["strip_accents"],
            "tokenize_chinese_chars": normalizer["handle_chinese_chars"],
        }
    prefix = getattr(tokenizer, "add_prefix_space", None)
    table |= _chat_template(source)
    return table if prefix is None else table | {"add_prefix_space": bool(prefix)}


def _tidies(source: TorchModel) -> bool:
    """Return whether clients take out spaces before punctuation when they write text.

    transformers 5 passes over the wish where it would spoil the text, as Llama 3's files have it; other clients do as
    they are told.
    """
    wanted = bool(getattr(source.tokenizer, "clean_up_tokenization_spaces", False))
    return wanted and (source.cache is None or tidies_text(source.tokenizer))


def _chat_template(source: TorchModel) -> dict[str, Any]:
    """Return the chat template of a model that writes text, under the key where every client finds it."""
    template = getattr(source.tokenizer, "chat_template", None) if source.cache is not None else None
    if isinstance(template, Mapping):
        return {"chat_template": [{"name": name, "template": text} for name, text in sorted(template.items())]}
    return {"chat_template": template} if template else {}


def _round_trip_difference(source: TorchModel, folder: Path) -> str | None:
    """Return a token or text whose ids differ when the tokenizer is loaded from `folder`; None where all agree."""
    import transformers

    try:
        loaded = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exception
        return f"({error})"
    if loaded.pad_token_id != source.tokenizer.pad_token_id:
        return str(loaded.pad_token)
    # A class may add the special tokens of its family, with ids that the model's table does not have.
    others = set(loaded.get_vocab().items()) ^ set(source.tokenizer.get_vocab().items())
    if others:
        return min(others)[0]
    words = tuple(source.task.labels) + tuple(source.tokenizer.all_special_tokens)
    for text, pair in (*ROUND_TRIP, *((w, None) for w in words)):
        wanted, found = (_ids(t, text, pair, source.input_names) for t in (source.tokenizer, loaded))
        if wanted != found:
            return text
    return None


def _ids(tokenizer: Any, text: str, pair: str | None, names: tuple[str, ...]) -> dict[str, list[int]]:
    made = tokenizer(text, pair, truncation=False, padding=False, verbose=False)
    return {name: list(made[name]) for name in names}


CLASSES = "sentence_transformers.models."
"""Where every version of sentence-transformers finds its modules; version 6 writes places that version 5 has not."""


def _write_sentence_files(source: TorchModel, folder: Path) -> None:
    """Copy pooling and its kin; the encoder itself stands in the package's root, so `modules.json` must say so."""
    assert source.sentence is not None
    modules, listing = source.sentence.modules, source.folder / "modules.json"
    # Older cross-encoders have none: with it, current versions find the model's file by its name.
    own = [{"idx": i, "name": m.name, "path": m.path, "type": m.type} for i, m in enumerate(modules)]
    listed = read_json(listing) if listing.is_file() else own
    rows: list[dict[str, Any]] = [m | {"type": CLASSES + str(m["type"]).rsplit(".", 1)[-1]} for m in listed]
    write_json(folder / "modules.json", [m | {"path": "" if i == 0 else m["path"]} for i, m in enumerate(rows)])
    for module in modules[1:]:
        room = folder / module.path
        room.mkdir(parents=True, exist_ok=True)
        for name in MODULE_FILES:
            if (source.folder / module.path / name).is_file():
                shutil.copyfile(source.folder / module.path / name, room / name)
        if not any(room.iterdir()):  # Normalize has nothing to save, and not every download keeps empty folders
            write_json(room / "config.json", {})
    _write_sentence_settings(source, folder)


def _write_sentence_settings(source: TorchModel, folder: Path) -> None:
    """Write what sentence-transformers does to text: the prompt that was judged becomes the default one."""
    assert source.sentence is not None
    of_model = source.folder / MODEL_FILE
    table = read_table(of_model) if of_model.is_file() else {}
    if source.sentence.kind == RERANKER and not table:
        table = {"model_type": RERANKER, "prompts": {}, "activation_fn": source.sentence.activation}
    if table.get("default_prompt_name") != source.sentence.default_prompt_name:
        table |= {"default_prompt_name": source.sentence.default_prompt_name}
    if table:
        write_json(folder / MODEL_FILE, table)
    encoder = source.folder / source.sentence.modules[0].path
    found = next((p for name in ENCODER_FILES if (p := encoder / name).is_file()), None)
    settings = {} if found is None else read_table(found)
    if source.sentence.kind == RERANKER:
        settings = {"transformer_task": "sequence-classification"} | settings
    if settings:
        write_json(folder / ENCODER_FILES[0], settings | {"max_seq_length": source.max_length})
