"""What the files of a sentence-transformers folder say of a model, closed-world: a key or value is known or refused."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from converter.errors import UsageError, nearest
from converter.jsonfile import read_table
from converter.model_folder.causes import refusal
from converter.model_folder.fields import EncoderSettings, SentenceSettings, check_fields
from converter.model_folder.locate import SentenceModule, sentence_modules

MODEL_FILE = "config_sentence_transformers.json"
ENCODER_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Where sentence-transformers looks for what it does before the encoder, in this order."""
EMBEDDER, RERANKER = "SentenceTransformer", "CrossEncoder"
OUTPUTS = {"feature-extraction": "token_embeddings", "sequence-classification": "scores"}
"""What the encoder's module gives on, by its task."""
MODEL_KEYS = frozenset(
    {"__version__", "model_type", "prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim"}
    | {"activation_fn", "keep_in_fp32_modules", "requirements"}
)
ENCODER_KEYS = frozenset(
    {"max_seq_length", "do_lower_case", "transformer_task", "modality_config", "module_output_name"}
    | {"processing_kwargs", "unpad_inputs", "query_length", "document_length", "query_expansion"}
    | {"model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs"}
)
EMPTY_KEYS = ("processing_kwargs", "query_length", "document_length", "query_expansion", "config_args", "config_kwargs")
"""Keys that change what is answered, of which only the value that says nothing is known."""
SAME_ANSWER = frozenset(
    {"attn_implementation", "dtype", "torch_dtype", "file_name", "add_pooling_layer", "trust_remote_code", "export"}
    | {"provider", "low_cpu_mem_usage", "use_safetensors", "device_map"}
)
"""Arguments of the encoder that say how it is computed, not what."""
TOKENIZER_ARGS = frozenset({"model_max_length", "padding_side", "truncation_side"})
IDLE_TOKENIZER_ARGS = frozenset({"trust_remote_code", "use_fast"})
OWN_PROMPTS = ("query", "document")
"""Names that sentence-transformers gives to every model, with an empty prompt where it has none."""


@dataclass(frozen=True)
class SentenceFolder:
    """A sentence-transformers model, as its files describe it."""

    modules: tuple[SentenceModule, ...]
    kind: str = EMBEDDER
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    truncate_dim: int | None = None
    max_seq_length: int | None = None
    lower_case: bool = False
    """Text is lowered before the tokenizer sees it."""
    tokenizer_args: Mapping[str, Any] = field(default_factory=dict)
    activation: str | None = None
    """What a cross-encoder does to its logits, by the class's dotted path; None: sigmoid of one, else nothing."""

    def prompt(self, name: str | None) -> "Prompt":
        """Return the prompt of a name; the default one without.

        Raises:
            UsageError: the model has no prompt of this name.

        """
        name = self.default_prompt_name if name is None else name
        if name is None:
            return Prompt()
        known = (dict.fromkeys(OWN_PROMPTS, "") if self.modules else {}) | dict(self.prompts)
        if name not in known:
            raise UsageError(f"the model has no prompt {name!r}", where="--prompt", hint=nearest(name, self.prompts))
        return Prompt(name, known[name])


@dataclass(frozen=True)
class Prompt:
    """Words that stand before every text; a name says which of the model's it is."""

    name: str | None = None
    text: str = ""


def read_sentence_folder(folder: Path) -> SentenceFolder | None:
    """Read what stands around an encoder; None where the folder is no sentence-transformers model.

    Raises:
        SourceError: a module, key or value that is not known, by name.

    """
    modules = sentence_modules(folder)
    if not modules:
        return None
    model = _known(folder / MODEL_FILE, MODEL_KEYS)
    check_fields(model, SentenceSettings, folder / MODEL_FILE)
    encoder_file = next((p for n in ENCODER_FILES if (p := folder / modules[0].path / n).is_file()), None)
    encoder = _known(encoder_file, ENCODER_KEYS) if encoder_file is not None else {}
    check_fields(encoder, EncoderSettings, encoder_file or folder)
    kind = model.get("model_type") or EMBEDDER
    if kind not in {EMBEDDER, RERANKER}:
        raise refusal("sentence-kind", folder / MODEL_FILE, {"kind": kind})
    _check_encoder(
        encoder, encoder_file or folder, "sequence-classification" if kind == RERANKER else "feature-extraction"
    )
    prompts, default = _prompts(model, folder / MODEL_FILE)
    return SentenceFolder(
        modules=modules,
        kind=kind,
        prompts=prompts,
        default_prompt_name=default,
        truncate_dim=_size(model, "truncate_dim", folder / MODEL_FILE),
        max_seq_length=_size(encoder, "max_seq_length", encoder_file or folder),
        lower_case=bool(encoder.get("do_lower_case")),
        tokenizer_args=_tokenizer_args(encoder, encoder_file or folder),
        activation=model.get("activation_fn"),
    )


def _known(file: Path, keys: frozenset[str]) -> dict[str, Any]:
    table = read_table(file) if file.is_file() else {}
    for key in table:
        if key not in keys:
            raise refusal("sentence-key", file, {"file": file.name, "key": key})
    return table


def _wrong(file: Path, key: str, value: object, supported: str) -> Exception:
    return refusal("sentence-value", file, {"file": file.name, "key": key, "value": value, "supported": supported})


def _size(table: Mapping[str, Any], key: str, file: Path) -> int | None:
    value = table.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _wrong(file, key, value, "a whole number above 0, or null")
    return value


def _prompts(model: Mapping[str, Any], file: Path) -> tuple[dict[str, str], str | None]:
    prompts, default = model.get("prompts") or {}, model.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(v, str | None) for v in prompts.values()):
        raise _wrong(file, "prompts", prompts, "a table of texts by name")
    made = {name: text or "" for name, text in prompts.items()}
    if default is not None and default not in {*made, *OWN_PROMPTS}:
        raise refusal("prompt-missing", file, {"name": default, "known": ", ".join(made) or "none"})
    return made, default


def _check_encoder(table: Mapping[str, Any], file: Path, task: str) -> None:
    """Refuse what would make sentence-transformers call the encoder in another way than this project does."""
    found = table.get("transformer_task") or task
    if found == "fill-mask":
        raise refusal("module-sparse", file, {"kind": "Transformer with the task fill-mask"})
    if found != task:
        raise _wrong(file, "transformer_task", found, task)
    for key in EMPTY_KEYS:
        value = table.get(key)
        if value and not (isinstance(value, dict) and set(value) <= {"trust_remote_code"}):
            raise _wrong(file, key, value, "nothing: remove it, and see whether the model still answers as it should")
    for key in ("model_args", "model_kwargs"):
        for name in set(table.get(key) or {}) - SAME_ANSWER:
            raise _wrong(file, f"{key}.{name}", table[key][name], ", ".join(sorted(SAME_ANSWER)))
    output = table.get("module_output_name") or OUTPUTS[task]
    if output != OUTPUTS[task]:
        raise _wrong(file, "module_output_name", output, OUTPUTS[task])
    wanted = {
        "method": "forward",
        "method_output_name": "logits" if task != "feature-extraction" else "last_hidden_state",
    }
    modalities = table.get("modality_config") or {"text": wanted}
    if not isinstance(modalities, dict) or modalities != {"text": wanted}:
        raise _wrong(file, "modality_config", modalities, "text alone, by the encoder's forward")


def _tokenizer_args(table: Mapping[str, Any], file: Path) -> dict[str, Any]:
    given = dict(table.get("tokenizer_args") or table.get("processor_kwargs") or {})
    for name in set(given) - TOKENIZER_ARGS - IDLE_TOKENIZER_ARGS:
        raise _wrong(file, f"tokenizer_args.{name}", given[name], ", ".join(sorted(TOKENIZER_ARGS)))
    return {k: v for k, v in given.items() if k in TOKENIZER_ARGS}
