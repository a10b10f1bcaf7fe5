"""The tokenizer of a folder, as its owner's library loads it, and what it and the model agree on."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.graphs import ENCODER_INPUTS
from converter.jsonfile import read_table
from converter.model_folder.causes import refusal
from converter.model_folder.said import first_line

if TYPE_CHECKING:
    import torch

    from converter.model_folder.sentence_config import SentenceFolder

LEAST_VOCABULARY = 0.75
"""Share of the embeddings that a model's own tokenizer uses at least: tables are padded, but by a few per cent."""
UNBOUNDED = 10**6
"""Tokenizers without a limit state about 1e30."""


FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "spm.model")
OTHER_FILES = ("tokenizer.model", "sentencepiece.model", "bpe.codes")


def has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (*FILES, *OTHER_FILES))


def load_tokenizer(
    folder: Path, module: "torch.nn.Module", sentence: "SentenceFolder | None", *, needs_pad: bool = True
) -> Any:
    """Load the tokenizer of `folder` in its fast form; `needs_pad`: refuse one that cannot pad.

    Raises:
        SourceError: there is none, or it is not this model's; says what to do.

    """
    import transformers

    missing = refusal("tokenizer-missing", folder, {"files": ", ".join(FILES)})
    if not has_tokenizer(folder) and not (folder / "tokenizer_config.json").is_file():
        raise missing
    _check_named_files(folder)
    args = {} if sentence is None else dict(sentence.tokenizer_args)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True, **args
        )
    except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exception
        damaged = refusal("tokenizer-damaged", folder, {"detail": first_line(error)})
        raise (damaged if has_tokenizer(folder) else missing) from None
    if not tokenizer.is_fast:
        raise refusal("tokenizer-slow", folder, {"kind": type(tokenizer).__name__})
    if not has_tokenizer(folder):  # transformers makes one of special tokens alone
        raise missing
    rows = module.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    if not needs_pad:
        forget_unreadable(tokenizer, rows)
    check_vocabulary(tokenizer, rows, folder)
    if needs_pad and tokenizer.pad_token_id is None:
        raise refusal("tokenizer-without-padding", folder)
    _check_end(tokenizer, module, folder)
    if sentence is not None and sentence.lower_case:
        _lower_text(tokenizer)
    return tokenizer


def _check_end(tokenizer: Any, module: "torch.nn.Module", folder: Path) -> None:
    """Refuse a classifier that decides at the end token of a text, with a tokenizer that gives its texts none."""
    from converter.forward import decides_at_end

    if not decides_at_end(module):
        return
    config: Any = module.config
    end = config.eos_token_id
    single = [tokenizer("a"), tokenizer("a b c " * 20, truncation=True, max_length=8)]
    if not isinstance(end, int) or not all(end in made["input_ids"] for made in single):
        raise refusal("no-end-token", folder, {"end": end})
    if tokenizer.pad_token_id == end:
        raise refusal("end-token-pads", folder, {"end": end})
    if config.model_type != "mbart" and config.decoder_start_token_id is None:
        raise refusal("no-start-token", folder)


def _check_named_files(folder: Path) -> None:
    """Refuse a tokenizer file elsewhere: transformers reads one that is named by the version it is for."""
    path = folder / "tokenizer_config.json"
    named = read_table(path).get("fast_tokenizer_files") if path.is_file() else None
    for name in named if isinstance(named, list) else ():
        if Path(str(name)).name != name:
            raise refusal("tokenizer-outside", folder, {"file": name})


def check_vocabulary(tokenizer: Any, rows: int, folder: Path) -> None:
    """Refuse ids that have no row of embeddings, and a table that is mostly of tokens that the tokenizer has not."""
    vocabulary = tokenizer.get_vocab()
    beyond = sorted((i, token) for token, i in vocabulary.items() if i >= rows)
    added = {str(t) for t in tokenizer.added_tokens_decoder.values()}
    if beyond and all(token in added for _, token in beyond):
        named = ", ".join(f"{token} ({i})" for i, token in beyond[:5])
        raise refusal("token-beyond-table", folder, {"n": len(beyond), "rows": rows, "tokens": named})
    if beyond:
        raise refusal("tokenizer-of-another", folder, {"largest": beyond[-1][0], "rows": rows})
    if len(tokenizer) < LEAST_VOCABULARY * rows:
        raise refusal("tokenizer-cut-off", folder, {"n": len(tokenizer), "rows": rows})


def forget_unreadable(tokenizer: Any, rows: int) -> None:
    """Take out marks of inputs that are no text, which a model of `rows` embeddings cannot read.

    Models of text alone are published with the tokenizer of the family that sees and hears: Gemma 3 of 1B has no row
    for `<image_soft_token>`. Its library fails on a text that spells one; here it is text as any other. A token that
    texts are begun, ended or filled with stays, and is refused.
    """
    from tokenizers import Tokenizer

    beyond = {i for i, token in tokenizer.added_tokens_decoder.items() if i >= rows and token.special}
    named = {getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")}
    table = json.loads(tokenizer.backend_tokenizer.to_str())
    placed = {i for t in _special_of(table.get("post_processor")) for i in t.get("ids", ())}
    if beyond and not beyond & (named | placed):
        table["added_tokens"] = [t for t in table["added_tokens"] if t["id"] not in beyond]
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(table))  # noqa: SLF001 - there is no other way to set it


def _special_of(step: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the tokens that a post-processor puts around texts."""
    for one in (step or {}).get("processors", [step or {}]):
        yield from (one.get("special_tokens") or {}).values()


def _lower_text(tokenizer: Any) -> None:
    """Lower text before all else, as sentence-transformers does by `do_lower_case`; the package keeps it."""
    import tokenizers

    normalizers: Any = tokenizers.normalizers
    backend = tokenizer.backend_tokenizer
    found: Any = backend.normalizer
    parts = list(found) if isinstance(found, normalizers.Sequence) else [] if found is None else [found]
    if not any(isinstance(part, normalizers.Lowercase) for part in parts):
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *parts])


def agree_on_inputs(module: "torch.nn.Module", tokenizer: Any) -> tuple[str, ...]:
    """Return the inputs that the tokenizer gives and the model takes; the tokenizer gives no others from now on.

    DistilBERT takes no token types, yet many of its checkpoints are saved with BERT's tokenizer, which gives them.
    """
    import inspect

    accepted = inspect.signature(module.forward).parameters
    names = tuple(n for n in ENCODER_INPUTS if n in tokenizer.model_input_names and n in accepted)
    tokenizer.model_input_names = list(names)
    return names


def max_length(module: "torch.nn.Module", tokenizer: Any, sentence: "SentenceFolder | None") -> int:
    """Return the longest input in tokens: what sentence-transformers or the tokenizer says, as far as positions go."""
    config: Any = module.config
    found = [int(tokenizer.model_max_length)] if tokenizer.model_max_length < UNBOUNDED else []
    if sentence is not None and sentence.max_seq_length is not None:
        found = [sentence.max_seq_length]  # sets the tokenizer's limit, even where that was less
    named = (getattr(config, name, None) for name in ("max_position_embeddings", "max_seq_len"))  # the other is MPT's
    positions = next((n for n in named if n), None)
    if positions and positions > 0:
        found.append(int(positions) - _unused_positions(module))
    return max(4, min(found, default=512))


def _unused_positions(module: "torch.nn.Module") -> int:
    """Return how many rows of the table no token gets: RoBERTa and its kin count positions from the padding id on."""
    import torch

    for name, part in module.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, torch.nn.Embedding):
            return 0 if part.padding_idx is None else part.padding_idx + 1
    return 0


def prompt_length(tokenizer: Any, prompt: str, longest: int) -> int:
    """Return the tokens of a prompt, those before it included, those behind it not; 0 for no prompt."""
    if not prompt:
        return 0
    ids = tokenizer(prompt, truncation=True, max_length=longest)["input_ids"]
    return len(ids) - int(ids[-1] in tokenizer.all_special_ids)
