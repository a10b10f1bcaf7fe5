"""What chooses tokens and what ends a text: settings of one generation, with the meaning transformers gives them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from converter.errors import UsageError

DEFAULT_NEW_TOKENS = 20
"""What transformers generates where nobody says how much."""
USUAL_NEW_TOKENS = 128
"""What packages and their samples write at most where neither the user nor the model says how much."""
DEFAULT_TOP_K = 50
"""What transformers draws from where nobody says of how many."""


@dataclass(frozen=True)
class GenerationSettings:
    """How to generate. Lengths count tokens; a start token and a causal model's prompt count in `max_length`.

    `max_new_tokens` goes before `max_length`; neither: 20 new tokens. `context` is how many positions the model has.
    `beams` 1 is greedy, or sampling with `sample`; all rules apply to both, temperature and the three after it to
    sampling alone.

    Raises (when made):
        UsageError: a value is out of range, or sampling and beams are asked for at once.
    """

    max_new_tokens: int | None = None
    max_length: int | None = None
    min_new_tokens: int = 0
    min_length: int = 0
    context: int | None = None
    rope_switches_at: int | None = None
    """A text that grows past so many tokens is read again: its positions are computed otherwise from there on."""
    eos_ids: tuple[int, ...] = ()
    pad_id: int | None = None
    start_id: int | None = None
    """The first token of an encoder-decoder's answer, which it is given."""
    forced_bos_id: int | None = None
    forced_eos_ids: tuple[int, ...] = ()
    suppressed: tuple[int, ...] = ()
    suppressed_first: tuple[int, ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    renormalize: bool = False
    """Beams compare log probabilities of the tokens that the other rules have left, not of all tokens."""
    sample: bool = False
    seed: int = 0
    temperature: float = 1.0
    top_k: int = DEFAULT_TOP_K
    """0: all tokens."""
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        for name, low in (("max_new_tokens", 1), ("max_length", 1), ("beams", 1), ("top_k", 0), ("no_repeat_ngram", 0)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise UsageError(f"{name} is {value}; it is at least {low}")
        for name, good in (
            ("temperature", self.temperature > 0),
            ("repetition_penalty", self.repetition_penalty > 0),
            ("top_p", 0 < self.top_p <= 1),
            ("min_p", 0 <= self.min_p <= 1),
        ):
            if not good:
                raise UsageError(f"{name} is {getattr(self, name)}, which is out of range")
        if self.sample and self.beams > 1:
            raise UsageError("sampling with beams is not supported", hint="sample with 1 beam, or search without it")

    @property
    def fill_id(self) -> int:
        """Return what follows the end of a text that ended before the others of its batch."""
        if self.pad_id is not None:
            return self.pad_id
        return self.eos_ids[0] if self.eos_ids else 0

    def total(self, prompt: int, longest: int) -> int:
        """Return how long sequences may become that begin with `prompt` tokens, `longest` of them real.

        Raises:
            UsageError: the prompt leaves no room for a token.

        """
        if self.max_new_tokens is not None:
            wanted = prompt + self.max_new_tokens
        else:
            wanted = prompt + DEFAULT_NEW_TOKENS if self.max_length is None else self.max_length
        # The last token is never fed back, so it needs no position.
        held = wanted if self.context is None else min(wanted, prompt - longest + self.context + 1)
        if held <= prompt:
            full = self.context is not None and longest > self.context
            limit = self.context if full else self.max_length
            raise UsageError(
                f"the text has {longest} tokens, which leaves no room for an answer within {limit}",
                hint="shorten the text: the model, or the cache of its file, has no more positions"
                if full
                else "shorten the text, or allow a longer answer with max_new_tokens",
            )
        return held


def with_usual_length(settings: GenerationSettings) -> GenerationSettings:
    """Return settings that say where an answer ends: the model's own, `USUAL_NEW_TOKENS` where it does not say."""
    known = settings.max_new_tokens is not None or settings.max_length is not None
    return settings if known else replace(settings, max_new_tokens=USUAL_NEW_TOKENS)


def renumbered_settings(settings: GenerationSettings, new_ids: Mapping[int, int]) -> GenerationSettings:
    """Return settings for fewer tokens; `new_ids` has the id of each that is left. What is gone cannot be written.

    Raises:
        KeyError: the token is gone that answers start with, or must start with.

    """

    def left(ids: Iterable[int]) -> tuple[int, ...]:
        return tuple(new_ids[i] for i in ids if i in new_ids)

    def one(token: int | None) -> int | None:
        return None if token is None else new_ids[token]

    return replace(
        settings,
        eos_ids=left(settings.eos_ids),
        pad_id=one(settings.pad_id),
        start_id=one(settings.start_id),
        forced_bos_id=one(settings.forced_bos_id),
        forced_eos_ids=left(settings.forced_eos_ids),
        suppressed=left(settings.suppressed),
        suppressed_first=left(settings.suppressed_first),
        bad_words=tuple(left(word) for word in settings.bad_words if all(i in new_ids for i in word)),
    )
