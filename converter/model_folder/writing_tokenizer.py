"""The tokenizer of a model that writes text: padded on the side it needs, and made where a folder has none in JSON."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.data.probes import ODD_TEXTS, builtin_sentences
from converter.generate.chat import template_error
from converter.model_folder.causes import refusal
from converter.model_folder.said import first_line
from converter.model_folder.sentencepiece_tokenizer import check_tokenizer, m2m100_tokenizer, marian_tokenizer
from converter.model_folder.tokenizer import check_vocabulary, load_tokenizer

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

INPUTS = ["input_ids", "attention_mask"]
SPECIAL = ("eos_token", "unk_token", "pad_token")
HARD = ("0", "00", "a  b", " spaces at the ends ", "don't stop <b>now</b> a&b ...", "x" * 300)


def load_writing_tokenizer(folder: Path, module: "torch.nn.Module", *, causal: bool) -> Any:
    """Load the tokenizer of `folder` in its fast form; Marian's and M2M100's are made of their SentencePiece files.

    A model without a pad token, as GPT-2 is, pads with the token that ends texts, as transformers' `generate` does.

    Raises:
        SourceError: there is none, or it is not this model's; says what to do.

    """
    config: Any = module.config
    make = _SLOW.get(config.model_type)
    if make is not None and not (folder / "tokenizer.json").is_file() and (folder / "vocab.json").is_file():
        tokenizer = make(folder)
        check_vocabulary(tokenizer, config.vocab_size, folder)
    else:
        tokenizer = load_tokenizer(folder, module, None, needs_pad=False)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise refusal("tokenizer-without-padding", folder)
        tokenizer.pad_token = tokenizer.eos_token
    if error := template_error(tokenizer):
        raise refusal("chat-template", folder, {"detail": error})
    tokenizer.padding_side = "left" if causal else "right"
    tokenizer.model_input_names = list(INPUTS)
    return tokenizer


def _marian(folder: Path) -> Any:
    from transformers import MarianTokenizer

    return _checked(marian_tokenizer(folder), _slow(MarianTokenizer, folder), SPECIAL)


def _m2m100(folder: Path) -> Any:
    """It reads texts of the language that its folder names; what it answers in is the model's to say."""
    from transformers import M2M100Tokenizer

    slow = _slow(M2M100Tokenizer, folder)
    languages = {str(token): int(i) for token, i in slow.lang_token_to_id.items()}
    made = m2m100_tokenizer(folder, languages, slow.get_lang_token(slow.src_lang))
    return _checked(made, slow, ("bos_token", *SPECIAL))


_SLOW = {"marian": _marian, "m2m_100": _m2m100}
"""Families whose folders have a vocabulary and SentencePiece files, and no tokenizer.json."""


def _slow(cls: Any, folder: Path) -> Any:
    try:
        return cls.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exception
        raise refusal("tokenizer-damaged", folder, {"detail": first_line(error)}) from None


def _checked(made: "Tokenizer", slow: Any, special: tuple[str, ...]) -> Any:
    import transformers

    check_tokenizer(made, slow, [*HARD, *ODD_TEXTS.values(), *builtin_sentences()])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=slow.model_max_length,
        clean_up_tokenization_spaces=False,
        **{name: str(getattr(slow, name)) for name in special},
    )
