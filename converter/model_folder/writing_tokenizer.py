"""The tokenizer of a model that writes text: padded on the side it needs, and made where a folder has none in JSON."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.data.probes import ODD_TEXTS, builtin_sentences
from converter.model_folder.causes import refusal
from converter.model_folder.sentencepiece_tokenizer import check_tokenizer, marian_tokenizer
from converter.model_folder.tokenizer import load_tokenizer

if TYPE_CHECKING:
    import torch

INPUTS = ["input_ids", "attention_mask"]
SPECIAL = ("eos_token", "unk_token", "pad_token")
HARD = ("0", "00", "a  b", " spaces at the ends ", "don't stop <b>now</b> a&b ...", "x" * 300)


def load_writing_tokenizer(folder: Path, module: "torch.nn.Module", *, causal: bool) -> Any:
    """Load the tokenizer of `folder` in its fast form; Marian's is made of its SentencePiece files.

    A model without a pad token, as GPT-2 is, pads with the token that ends texts, as transformers' `generate` does.

    Raises:
        SourceError: there is none, or it is not this model's; says what to do.

    """
    config: Any = module.config
    if config.model_type == "marian" and not (folder / "tokenizer.json").is_file():
        tokenizer = _marian(folder)
    else:
        tokenizer = load_tokenizer(folder, module, None, needs_pad=False)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise refusal("tokenizer-without-padding", folder)
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left" if causal else "right"
    tokenizer.model_input_names = list(INPUTS)
    return tokenizer


def _marian(folder: Path) -> Any:
    import transformers

    slow = transformers.MarianTokenizer.from_pretrained(folder, local_files_only=True)
    made = marian_tokenizer(folder)
    check_tokenizer(made, slow, [*HARD, *ODD_TEXTS.values(), *builtin_sentences()])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=slow.model_max_length,
        clean_up_tokenization_spaces=False,
        **{name: str(getattr(slow, name)) for name in SPECIAL},
    )
