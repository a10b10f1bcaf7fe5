"""The types of what files of a model say, as far as this project or transformers relies on them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from converter.errors import SourceError

Size = Annotated[int, msgspec.Meta(ge=1, lt=2**40)]
Count = Annotated[int, msgspec.Meta(ge=0, lt=2**40)]
Id = Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)]


class Configuration(msgspec.Struct):
    """Of config.json; what else is in it is held to the configuration's class."""

    model_type: str | None = None
    architectures: str | list[str] | None = None
    auto_map: dict[str, Any] | None = None
    hidden_size: Size | None = None
    d_model: Size | None = None
    n_embd: Size | None = None
    embedding_size: Size | None = None
    vocab_size: Size | None = None
    num_hidden_layers: Count | None = None
    num_attention_heads: Size | list[Size] | None = None
    intermediate_size: Size | list[Size] | None = None
    max_position_embeddings: Id | None = None
    type_vocab_size: Count | None = None
    num_labels: Size | None = None
    pad_token_id: Id | None = None
    id2label: dict[str, str | int | float] | None = None
    label2id: dict[str, int | str] | None = None
    position_embedding_type: str | None = None
    problem_type: str | None = None
    sentence_transformers: dict[str, Any] | None = None
    task_specific_params: dict[str, Any] | None = None


class Token(msgspec.Struct):
    """A special token, written out."""

    content: str


class TokenizerConfiguration(msgspec.Struct):
    """Of tokenizer_config.json."""

    tokenizer_class: str | None = None
    model_max_length: int | float | None = None
    padding_side: str | None = None
    truncation_side: str | None = None
    added_tokens_decoder: dict[str, Token] | None = None
    model_input_names: list[str] | None = None
    pad_token: str | Token | None = None
    unk_token: str | Token | None = None
    eos_token: str | Token | None = None


class EncoderSettings(msgspec.Struct):
    """Of sentence_bert_config.json."""

    model_args: dict[str, Any] | None = None
    model_kwargs: dict[str, Any] | None = None
    tokenizer_args: TokenizerConfiguration | None = None
    processor_kwargs: TokenizerConfiguration | None = None


class SentenceSettings(msgspec.Struct):
    """Of config_sentence_transformers.json."""

    model_type: str | None = None
    default_prompt_name: str | None = None
    activation_fn: str | None = None


class AdapterSettings(msgspec.Struct):
    """Of adapter_config.json."""

    peft_type: str | None = None
    task_type: str | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    modules_to_save: list[str] | None = None


def check_fields(table: Mapping[str, Any], kind: type[msgspec.Struct], where: Path) -> None:
    """Hold a table to the types of `kind`.

    Raises:
        SourceError: names the first field whose value is of another type or out of range, and what was wanted.

    """
    try:
        msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        said, _, place = str(error).partition(" - at ")
        named = place.strip("`").removeprefix("$.")
        raise SourceError(
            f"{named or 'it'}: {said[:1].lower()}{said[1:]}", where=str(where), hint="the file is damaged or was edited"
        ) from None
