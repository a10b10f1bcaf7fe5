"""How a model generates, as its folder says: generation_config.json, or the same keys in config.json."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from converter.errors import SourceError, UsageError, nearest
from converter.generate.settings import DEFAULT_TOP_K, GenerationSettings
from converter.jsonfile import read_table

FILE = "generation_config.json"
_NEUTRAL: tuple[Any, ...] = (None, False, 0, 1, 1.0, [], {}, "")
"""Values with which none of the unsupported settings changes anything, but for a few …"""
_ONE_COUNTS = ("encoder_no_repeat_ngram_size", "max_time", "token_healing")
"""… of which 1, or true, is a value like any other."""


def _one(value: Any) -> int | None:
    """Return a token id; of a list, which some folders have where one id belongs, the first."""
    found = _ids(value)
    return found[0] if found else None


def _ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    given = value if isinstance(value, list) else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in given):
        raise ValueError("wanted token ids")
    # Some configurations say -1 for "none".
    return tuple(i for i in given if i >= 0)


def _words(value: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(_ids(word) for word in value or ())


def _whole(value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or int(value) != value:
        raise ValueError("wanted a whole number")
    return int(value)


def _length(value: Any) -> int | None:
    return None if value is None else _whole(value)


def _stopping(value: Any) -> Any:
    if value in (None, False, True, "never"):
        return value or False
    raise ValueError('wanted true, false or "never"')


def _switch(value: Any) -> bool:
    if value in (None, False, True):
        return bool(value)
    raise ValueError("wanted true or false")


def _number(neutral: float) -> Callable[[Any], float]:
    return lambda value: neutral if value is None else float(value)


KEYS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "eos_token_id": ("eos_ids", _ids),
    "pad_token_id": ("pad_id", _one),
    "decoder_start_token_id": ("start_id", _one),
    "forced_bos_token_id": ("forced_bos_id", _one),
    "forced_eos_token_id": ("forced_eos_ids", _ids),
    "max_length": ("max_length", _length),
    "max_new_tokens": ("max_new_tokens", _length),
    "min_length": ("min_length", _whole),
    "min_new_tokens": ("min_new_tokens", _whole),
    "suppress_tokens": ("suppressed", _ids),
    "begin_suppress_tokens": ("suppressed_first", _ids),
    "bad_words_ids": ("bad_words", _words),
    "repetition_penalty": ("repetition_penalty", _number(1)),
    "no_repeat_ngram_size": ("no_repeat_ngram", _whole),
    "num_beams": ("beams", lambda value: 1 if value is None else _whole(value)),
    "length_penalty": ("length_penalty", _number(1)),
    "early_stopping": ("early_stopping", _stopping),
    "renormalize_logits": ("renormalize", _switch),
    "do_sample": ("sample", _switch),
    "temperature": ("temperature", _number(1)),
    "top_k": ("top_k", lambda value: DEFAULT_TOP_K if value is None else _whole(value)),
    "top_p": ("top_p", _number(1)),
    "min_p": ("min_p", _number(0)),
}
"""transformers' names, ours, and how a value is read."""

UNSUPPORTED = (
    "constraints",
    "diversity_penalty",
    "dola_layers",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "exponential_decay_length_penalty",
    "force_words_ids",
    "guidance_scale",
    "max_time",
    "num_beam_groups",
    "penalty_alpha",
    "sequence_bias",
    "stop_strings",
    "token_healing",
    "watermarking_config",
)
"""What changes an answer and the loop does not do: a folder that sets it is refused by name."""
OF_DRAWING = ("temperature", "top_p")
"""Where nothing is drawn they are not looked at, and some folders say 0 there."""
SAMPLING_ONLY = ("epsilon_cutoff", "eta_cutoff", "top_h", "typical_p")
"""The same, where texts are sampled."""


def read_settings(folder: Path, *, context: int | None = None, task: str | None = None) -> GenerationSettings:
    """Return how the model in `folder` generates by itself; `context` is how many positions it has.

    `task` names an entry of config.json's `task_specific_params` that goes before the rest (`summarization`,
    `translation_en_to_de`).

    Raises:
        SourceError: a setting has no sense, or is one that the loop does not follow; names it.

    """
    config = read_table(folder / "config.json")
    path = folder / FILE
    table = read_table(path) if path.exists() else {}
    where = path if path.exists() else folder / "config.json"
    own = {k: v for k, v in config.items() if k in KEYS or k in UNSUPPORTED or k in SAMPLING_ONLY}
    if config.get("force_bos_token_to_be_generated"):  # what transformers before version 4.7 said it by
        own["forced_bos_token_id"] = config.get("bos_token_id")
    # A folder with a generation config says it all there: `generate` knows no end token that stands in config.json
    # alone. What fills a batch is no token of an answer.
    kept = {k: v for k, v in own.items() if k == "pad_token_id"} if path.exists() else own
    extra = (config.get("task_specific_params") or {}).get(task) or {}
    known = {k: v for k, v in extra.items() if k in KEYS}
    settings = settings_of_table(kept | {k: v for k, v in table.items() if v is not None} | known, str(where))
    start = settings.start_id
    if config.get("is_encoder_decoder") and start is None:
        # What transformers does: the token that begins texts begins answers.
        start = _one((table if path.exists() else config).get("bos_token_id"))
    return replace(settings, start_id=start, context=context)


def text_prefix(folder: Path, task: str) -> str:
    """Return what is written before every text of `task`, as T5 wants it (`summarize: `); empty where nothing is."""
    params = read_table(folder / "config.json").get("task_specific_params") or {}
    return str((params.get(task) or {}).get("prefix") or "")


def task_params(folder: Path, task: str) -> dict[str, Any]:
    """Return what an entry of config.json's `task_specific_params` sets, under transformers' names.

    Raises:
        UsageError: the model has no such entry.

    """
    params = read_table(folder / "config.json").get("task_specific_params") or {}
    if task not in params:
        hint = nearest(task, params) if params else "leave it out: only some models, such as T5, have them"
        raise UsageError(f"the model has no prompt {task!r}", where="--prompt", hint=hint)
    return {k: v for k, v in (params[task] or {}).items() if k in KEYS}


def settings_of_table(table: Mapping[str, Any], where: str) -> GenerationSettings:
    """Return the settings that a table with transformers' names holds.

    Raises:
        SourceError: as `read_settings`.

    """
    endless = [name for name, value in table.items() if not _is_finite(value)]
    if endless:
        raise SourceError(
            f"{', '.join(endless)} holds a number that is not finite",
            where=where,
            hint="correct it in a copy of the folder",
        )
    unsupported = [*UNSUPPORTED, *(SAMPLING_ONLY if table.get("do_sample") else ())]
    found = [n for n in unsupported if table.get(n) not in _NEUTRAL or (n in _ONE_COUNTS and table.get(n) == 1)]
    if found:
        raise SourceError(
            f"{', '.join(found)} is set, which changes what the model writes and is not supported",
            where=where,
            hint="take it out of a copy of the folder; the model then writes what it does without it",
        )
    values = {}
    for name, (ours, read) in KEYS.items():
        if name in table and not (name in OF_DRAWING and not table.get("do_sample") and not table[name]):
            try:
                values[ours] = read(table[name])
            except (TypeError, ValueError, OverflowError) as error:
                raise SourceError(f"{name} is {table[name]!r} ({error})", where=where) from None
    if table.get("min_new_tokens") is not None:
        values["min_length"] = 0  # the one goes before the other, however small it is
    try:
        return GenerationSettings(**values)
    except UsageError as error:
        raise SourceError(str(error), where=where, hint="correct it in a copy of the folder") from None


def _is_finite(value: Any) -> bool:
    """Whether every number of a JSON value is finite: JSON has no others, though Python reads and writes them."""
    if isinstance(value, (list, dict)):
        return all(map(_is_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def table_of_settings(settings: GenerationSettings) -> dict[str, Any]:
    """Return the settings under transformers' names, as a package's generation_config.json has them.

    What is as it is by default is left out, and so are the seed and the number of positions, which that file has not.
    """
    neutral, table = GenerationSettings(), {}
    for name, (ours, read) in KEYS.items():
        value = getattr(settings, ours)
        if value != getattr(neutral, ours):
            one = read is _ids and len(value) == 1
            table[name] = value[0] if one else _plain(value)
    return table


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple) else value
