"""Closed-world reading: every file and key is used, known to change nothing, or refused by name."""

import dataclasses
import fnmatch
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converter.jsonfile import read_table
from converter.model_folder.causes import refusal
from converter.model_folder.idle import is_idle_file, is_idle_key

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
BY_NAME = {
    "model_head.pkl": "setfit",
    "config_setfit.json": "setfit",
    "quantize_config.json": "gptq",
    "quant_config.json": "gptq",
    "pytorch_adapter.bin": "adapter-hub",
    "pytorch_model_head.bin": "adapter-hub",
    "head_config.json": "adapter-hub",
}
"""Files that make the model another one, with the row of `causes` that says what to do."""
TELLING = (".json", ".safetensors", ".pkl", ".joblib", ".pickle", ".npz", ".npy")
"""Kinds of files that a model may be read from; whatever else lies in a folder (cards, logs, data) is not."""
KNOWN = (
    *("config.json", WEIGHTS, INDEX, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "modules.json", "config_sentence_transformers.json", "sentence_*_config.json"),
    *("shape_map.json", "stand_ins.json", "adapter_config.json", "adapter_model.safetensors", "entity_vocab.json"),
)
OTHER_INPUTS = frozenset(
    {"bbox", "image", "images", "pixel_values", "entity_ids", "entity_position_ids", "xpath_tags_seq", "xpath_subs_seq"}
    | {"input_values", "input_features", "visual_embeds", "langs", "input_shape_ids", "input_pronunciation_ids"}
)


def check_files(folder: Path) -> None:
    """Refuse a file that makes the model another one, or of which nobody knows what it is for.

    Raises:
        SourceError: names the file and what to do.

    """
    names = sorted(f.name for f in folder.iterdir() if f.is_file())
    for name in names:
        if name in BY_NAME and not _of_transformers_js(folder / name):
            raise refusal(BY_NAME[name], folder, {"file": name})
    for name in names:
        known = name in BY_NAME or any(fnmatch.fnmatch(name, pattern) for pattern in KNOWN) or is_idle_file(name)
        if name.endswith(TELLING) and not known:
            alone = name.endswith(".safetensors") and not {WEIGHTS, INDEX} & set(names)
            if alone and "shape_map.json" not in names:
                raise refusal("weights-misnamed", folder, {"file": name})
            if not _indexed(folder, name):
                raise refusal("file-unknown", folder, {"file": name})


def _of_transformers_js(file: Path) -> bool:
    """Tell whether a `quantize_config.json` is about the ONNX files beside a model, not about its weights."""
    return file.name == "quantize_config.json" and not {"bits", "quant_method", "w_bit"} & set(read_table(file))


def weight_files(folder: Path) -> list[Path]:
    """Return the files that the weights are read from: `model.safetensors`, else those of its index.

    Raises:
        SourceError: the index names what does not lie in the folder.

    """
    if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file():
        return sorted(folder.glob(WEIGHTS))
    table = read_table(folder / INDEX).get("weight_map")
    named = sorted({str(v) for v in table.values()}) if isinstance(table, Mapping) else [""]
    for name in named:
        if Path(name).name != name or not (folder / name).is_file():
            raise refusal("weights-outside", folder, {"index": INDEX, "file": name})
    return [folder / name for name in named]


def _indexed(folder: Path, name: str) -> bool:
    return (folder / INDEX).is_file() and name in {f.name for f in weight_files(folder)}


def check_config(raw: Mapping[str, Any], where: Path) -> None:
    """Refuse what config.json says that transformers would read past.

    Raises:
        SourceError: names the key and what to do.

    """
    quantized = raw.get("quantization_config")
    if quantized:
        method = quantized.get("quant_method", "unknown") if isinstance(quantized, Mapping) else quantized
        raise refusal("quantized", where, {"method": method})
    if raw.get("pruned_heads"):
        raise refusal("pruned-heads", where)
    if raw.get("transformers_weights"):
        raise refusal("weights-named", where, {"name": raw["transformers_weights"]})
    from transformers import CONFIG_MAPPING

    if raw.get("auto_map") and raw.get("model_type") not in CONFIG_MAPPING:
        raise refusal("remote-code", where, {"name": f"model_type {raw.get('model_type')!r}"})


def check_remote_code(raw: Mapping[str, Any], auto_class: str, where: Path) -> None:
    """Refuse code of the model's author where transformers has no class of the same name.

    Raises:
        SourceError: names the code.

    """
    import transformers

    table = raw.get("auto_map")
    if not table:
        return
    named = table if isinstance(table, Mapping) else {}
    architecture = raw.get("architectures") or [None]
    wanted = [
        str(named.get(key) or "").rsplit(".", 1)[-1]
        for key in ("AutoConfig", "AutoModel", auto_class)
        if named.get(key)
    ]
    wanted += [str(architecture if isinstance(architecture, str) else architecture[0])]
    for name in wanted:
        if not hasattr(transformers, name):
            raise refusal("remote-code", where, {"name": name})


def _reads(classes: tuple[Any, ...], key: str) -> bool:
    """Tell whether the code of a model or of its configuration reads a key that is not among the class's fields.

    DeBERTa's model does, and ModernBERT's configuration makes `layer_types` of `global_attn_every_n_layers`.
    """
    for one in classes:
        try:
            text = inspect.getsource(inspect.getmodule(one)) if one is not None else ""  # type: ignore[arg-type]
        except (OSError, TypeError):
            continue
        if re.search(rf"\b{re.escape(key)}\b", text):
            return True
    return False


def check_keys(raw: Mapping[str, Any], config: Any, model_class: Any, where: Path) -> None:
    """Refuse keys of config.json that neither the configuration's class nor the model's code knows.

    Raises:
        SourceError: names the key.

    """
    cls = type(config)
    fields = {f.name for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
    known = fields | set(inspect.signature(cls.__init__).parameters) | set(getattr(cls, "attribute_map", {}))
    kind = raw.get("position_embedding_type")
    if kind not in {None, "absolute"} and "position_embedding_type" not in known:
        raise refusal("relative-positions", where, {"value": kind})
    for key, value in raw.items():
        if key in known or is_idle_key(key, value, raw):
            continue
        # What the class takes and turns into something else is no attribute any more.
        if key in vars(config) and not _reads((model_class, cls), key):
            raise refusal("config-key", where, {"key": key, "config_class": cls.__name__})


def check_inputs(config: Any, forward: Any, where: Path) -> None:
    """Refuse an encoder that reads more than the ids, mask and types that a text tokenizer gives.

    Raises:
        SourceError: names the inputs.

    """
    accepted = inspect.signature(forward).parameters
    beyond = sorted(OTHER_INPUTS & set(accepted))
    if getattr(config, "n_langs", 1) == 1:  # XLM and FlauBERT of one language read no language
        beyond = [name for name in beyond if name != "langs"]
    if getattr(config, "type_vocab_sizes", None):  # TAPAS: rows and columns of a table
        beyond.append("token_type_ids of 7 kinds")
    if beyond:
        raise refusal("other-inputs", where, {"model_type": config.model_type, "inputs": ", ".join(beyond)})
    if "attention_mask" not in accepted:
        raise refusal("no-mask", where, {"model_type": config.model_type})
