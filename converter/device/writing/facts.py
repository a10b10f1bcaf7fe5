"""What the samples of a model that writes text are generated from, in one frozen table."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from converter.data.encode import first_token
from converter.device.parity import backend_of, uncut
from converter.generate.rules import forbidden_words
from converter.generate.settings import GenerationSettings, with_usual_length
from converter.tflite.writing.layout import cache_names, cross_names

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from converter.artifact import TorchModel
    from converter.tflite.writing.runner import WriterRunner


@dataclass(frozen=True)
class WriterFacts:
    """One model that writes text, as its samples see it."""

    model: str
    task: str
    causal: bool
    lengths: tuple[int, ...]
    """Tokens of each `prefill_N` or `encode_N`, ascending."""
    cache: int
    """Positions of the cache."""
    vocabulary: int
    sizes: tuple[int, ...]
    """Numbers in each tensor of the cache, in the order of `cache_names`."""
    cross_sizes: tuple[int, ...]
    settings: GenerationSettings
    first: int | None
    """What is read where a text has no token; None: the samples refuse such a text, as the package does."""
    prompt: str
    """Words that the samples put before every text."""
    tokenizer: str
    """What `tokenizer.json` holds: Unigram, BPE."""
    why_not: str = ""
    """Why the samples bring no tokenizer; empty where they do."""
    n_differing: int = 0
    """Hard texts to which the samples' tokenizer gives other ids than the original."""
    chat: bool = False
    """The model has a chat template."""
    marks: str = ""
    """Tokens that `encode` puts before every text."""
    runtime: Mapping[str, str] = field(default_factory=dict)
    """Least versions: of the file, and those that the samples were written for."""

    @property
    def own_tokenizer(self) -> bool:
        return not self.why_not

    @property
    def layers(self) -> int:
        return len(self.sizes) // 2

    @property
    def longest(self) -> int:
        """Tokens of the longest text; the samples refuse what is longer."""
        return self.cache if self.causal else self.lengths[-1]

    @property
    def most(self) -> int | None:
        """New tokens at most, where a call does not say how many; None: `whole` says how many with the prompt."""
        own = with_usual_length(self.settings)
        if own.max_new_tokens is not None:
            return min(own.max_new_tokens, self.cache)
        # The token that an answer starts with counts.
        return None if self.causal else min(max(1, self.whole - 1), self.cache)

    @property
    def whole(self) -> int:
        """Tokens of a prompt and its answer, where a call does not say how many are new; 0 where nothing says so."""
        return self.settings.max_length or 0

    @property
    def words(self) -> tuple[tuple[int, ...], ...]:
        """Sequences of tokens that are never written."""
        return tuple(forbidden_words(self.settings))

    @property
    def shortest(self) -> tuple[int, int]:
        """Least length of a sequence and least number of new tokens; 0 where the settings name none."""
        return self.settings.min_length, self.settings.min_new_tokens

    @property
    def class_name(self) -> str:
        return names_of(self.task, causal=self.causal)[0]

    @property
    def call(self) -> str:
        return names_of(self.task, causal=self.causal)[1]

    @property
    def kind(self) -> str:
        """What the Android project asks for, where an encoder has how its outputs become an answer."""
        return self.call

    @property
    def summary(self) -> str:
        if self.causal:
            return "a prompt in, the text that follows it out"
        return "text in, its translation out" if self.task == "translation" else "text in, text out"


def names_of(task: str, *, causal: bool) -> tuple[str, str]:
    """Return the class of the samples, and its method that takes a text."""
    if causal:
        return "TextGenerator", "generate"
    return ("TextTranslator", "translate") if task == "translation" else ("TextWriter", "write")


def writer_facts(
    source: "TorchModel", runner: "WriterRunner", *, why_not: str = "", n_differing: int = 0, runtime: Mapping[str, str]
) -> WriterFacts:
    """Gather what the samples need; `why_not` says why they bring no tokenizer, empty where they do."""
    task: Any = source.task
    tokenizer, layout = source.tokenizer, runner.layout
    settings: GenerationSettings = task.settings
    return WriterFacts(
        model=source.provenance.id,
        task=task.name,
        causal=layout.causal,
        lengths=layout.lengths,
        cache=layout.cache,
        vocabulary=runner.vocabulary,
        sizes=_sizes(runner, cache_names(layout.layers)),
        cross_sizes=() if layout.causal else _sizes(runner, cross_names(layout.layers)),
        settings=settings,
        first=first_token(tokenizer),
        prompt=task.prompt,
        tokenizer=str(json.loads(tokenizer.backend_tokenizer.to_str())["model"].get("type")),
        why_not=why_not,
        n_differing=n_differing,
        chat=bool(getattr(tokenizer, "chat_template", None)),
        marks=_marks(uncut(backend_of(source))),
        runtime=runtime,
    )


def _marks(backend: "Tokenizer") -> str:
    made = backend.encode("a")
    count = next((i for i, special in enumerate(made.special_tokens_mask) if not special), 0)
    return "".join(made.tokens[:count])


def _sizes(runner: "WriterRunner", names: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(math.prod(runner.shapes[name]) for name in names)
