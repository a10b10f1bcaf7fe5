"""What all models that write text share: they are judged by the next token at every step of the source's own answer."""

import copy
from abc import ABC
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.data.beginnings import beginnings, first_half
from converter.data.encode import encode_text, first_token
from converter.data.languages import language_code
from converter.data.pairs import SOURCE, TARGET, Languages, flat_row, is_pair_column, references_of, written_example
from converter.data.probes import ODD_TEXTS, even_sample
from converter.errors import DataError, SourceError, UsageError
from converter.examples import Encoding, Example, References, pad_batch
from converter.generate.drafts import draft, stands
from converter.generate.forcing import forced_logits
from converter.generate.graphs import DECODER, causal_graphs, encoder_decoder_graphs
from converter.generate.languages import target_language, target_languages
from converter.generate.loop import generate
from converter.generate.positions import rope_switches_at
from converter.generate.read_settings import FILE, read_settings, table_of_settings, task_params, text_prefix
from converter.generate.settings import GenerationSettings, renumbered_settings
from converter.graphs import (
    BATCH,
    ENCODER_SEQUENCE,
    SEQUENCE,
    VOCABULARY,
    GraphSpec,
    ModelFacts,
    Run,
    TensorSpec,
)
from converter.jsonfile import read_table
from converter.scoring.references import BLEU, bleu_signature, reference_score, reference_scores
from converter.task import Judged, Outputs
from converter.tasks._learning import LearningToWrite, answer_tokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.data.probes import BuiltinText

STEPS = 16
"""Tokens that the source writes after each text, at most."""
FROM_CACHE = 8
"""Tokens at the end of a text that are fed behind the others, so that what they see of them is the cache."""
TEXTS = 32
"""Built-in texts that are continued."""
GUESSED, GUESSES = 200, 8
"""Texts by which chance is told, and references that are tried as the one answer to all of them."""
WRITTEN = "written"
"""Among what a text is scored by: the tokens that the model wrote on its own."""
IDLE = ("_from_model_config", "transformers_version")
"""Keys of generation_config.json that say who wrote it."""
NOT_ASKED = ("max_length", "max_new_tokens", "num_beams", "do_sample")
"""Settings of a task that judging sets itself: texts are continued greedily, so many tokens."""
COUNTS = ("max_new_tokens", "min_new_tokens")
"""Settings named like lists of tokens that are numbers of them."""
ANSWER = "decoder_input_ids"
"""What an encoder-decoder is fed of its answer, the start token first."""


class Writing(LearningToWrite, ABC):
    """A model that writes text, token by token.

    The reference is the source's own greedy continuation, kept in the encoding. Outputs are the logits at each step of
    it, decisions the most likely token there: all of it is fed, so that one wrong token does not make the rest differ.
    """

    auto_class = "AutoModelForCausalLM"
    metric_name = BLEU
    most_texts = 48
    bare_columns = (SOURCE, TARGET)
    scored_apart = True
    settings = GenerationSettings()
    generation_table: Mapping[str, Any] = {}
    """What a package's generation_config.json says: that of the folder, with what older folders say elsewhere."""
    languages: Languages = ("", "")
    """What it reads and what it writes, two letters each, as far as its folder says."""
    chosen: str | None = None
    """An entry of `task_specific_params`: its prefix stands before every text, its settings go before the model's."""
    language: str | None = None
    """What a translator of several languages answers in; None: what its folder says."""
    asked: Mapping[str, Any] = {}
    """What `generate` of transformers has to be told of these two, under its own names."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("logits", "float32", (BATCH, SEQUENCE, VOCABULARY)),)

    @property
    def causal(self) -> bool:
        return self.kind == "decoder"

    def graphs(self, facts: ModelFacts) -> Mapping[str, GraphSpec]:
        cache = facts.cache
        if cache is None:
            raise ValueError("the sizes of a model's cache are read off the model, not off its configuration")
        if self.causal:
            return causal_graphs(cache.sizes, cache.vocabulary, facts.pad_id, position_ids=cache.position_ids)
        return encoder_decoder_graphs(cache.sizes, cache.vocabulary, facts.pad_id, cache.width)

    def read_folder(self, folder: Path, tokenizer: Any, max_length: int) -> None:
        own = read_settings(folder, context=max_length, task=self.chosen)
        settings = self._in_language(own, tokenizer)
        if settings.pad_id is None and tokenizer.pad_token_id is not None:
            settings = replace(settings, pad_id=int(tokenizer.pad_token_id))
        if not self.causal and settings.start_id is None:
            raise SourceError(
                "the model does not say which token its answers start with",
                where=str(folder),
                hint="its generation_config.json needs decoder_start_token_id",
            )
        spoken = [language for language in target_languages(tokenizer).values() if not language.mark]
        if not self.causal and spoken and settings.forced_bos_id is None:
            raise SourceError(
                f"the model writes {len(spoken)} languages, and nothing says which one is wanted",
                where=str(folder),
                hint=f"--language CODE names it ({', '.join(sorted(lang.code for lang in spoken)[:8])} …)",
            )
        params = {} if self.chosen is None else task_params(folder, self.chosen)
        forced = {} if settings == own else {"forced_bos_token_id": settings.forced_bos_id}
        self.asked = {k: v for k, v in params.items() if k not in NOT_ASKED} | forced
        self.settings, self._tokenizer = replace(settings, rope_switches_at=rope_switches_at(self.config)), tokenizer
        self._answers = answer_tokenizer(folder, str(self.config.model_type))
        self.languages = _languages(folder, tokenizer, settings)
        self.generation_table = _carried(folder, self.config) | params | table_of_settings(settings)
        if self.chosen is not None:
            self.prompt = text_prefix(folder, self.chosen)

    def needed_ids(self) -> set[int]:
        own = self.settings
        one = (own.pad_id, own.start_id, own.forced_bos_id)
        return {*own.eos_ids, *own.forced_eos_ids, *(i for i in one if i is not None)}

    def renumbered(self, config: Any, tokenizer: Any, new_ids: Mapping[int, int]) -> "Writing":
        made = copy.copy(self)
        made._renumber(config, tokenizer, new_ids)  # noqa: SLF001 - its own
        return made

    def _renumber(self, config: Any, tokenizer: Any, new_ids: Mapping[int, int]) -> None:
        self.config, self._tokenizer = config, tokenizer
        self.settings = renumbered_settings(self.settings, new_ids)
        first, suffixes = self.generation_table.get("bos_token_id"), ("_token_id", "_ids", "_tokens")
        bos = {"bos_token_id": new_ids[first]} if isinstance(first, int) and first in new_ids else {}
        ids = {k: v for k, v in table_of_settings(self.settings).items() if k.endswith(suffixes)}
        others = {k: v for k, v in self.generation_table.items() if not k.endswith(suffixes) or k in COUNTS}
        self.generation_table = others | bos | {k: v for k, v in ids.items() if k not in COUNTS}
        if "forced_bos_token_id" in self.asked:
            self.asked = {**self.asked, "forced_bos_token_id": self.settings.forced_bos_id}
        known = self._new_ids
        self._new_ids = dict(new_ids) if known is None else {a: new_ids[b] for a, b in known.items() if b in new_ids}

    def answer_in(self, language: str, tokenizer: Any) -> None:
        """Answer in another language from now on.

        Raises:
            UsageError: the model has no such language, or is for one pair of them.

        """
        self.language = language
        self.settings = self._in_language(self.settings, tokenizer)

    def _in_language(self, settings: GenerationSettings, tokenizer: Any) -> GenerationSettings:
        """Force the token of the wanted language, or put its mark before every text: what the model knows."""
        if self.language is None:
            return settings
        if self.causal:
            raise UsageError(
                f"a model for {self.name} cannot be asked for {self.language!r}: it goes on in the text's own",
                where="--language",
                hint="leave it out",
            )
        language = target_language(tokenizer, self.language)
        if language.mark:
            self.prompt = f"{language.mark} "
            return settings
        return replace(settings, forced_bos_id=language.id)

    @property
    def judged_settings(self) -> GenerationSettings:
        """Return how texts are continued to judge by: greedy, by the model's own rules, `STEPS` tokens at most."""
        return greedy(self.settings)

    def builtin_text(self, text: "BuiltinText") -> tuple[Example, ...]:
        """A model that continues gets the first half of each text; edge cases without a token are left out."""
        ordinary = even_sample(text.texts(), TEXTS)
        if self.causal:
            ordinary = tuple(replace(e, text=first_half(e.text)) for e in ordinary)
        edges = [e for e in text.text_edges() if e.text in ODD_TEXTS.values()]
        return (*ordinary, *(e for e in edges if len(self._ids_of(text.model.tokenizer, e.text))))

    def asked_of(self, examples: Sequence[Example]) -> tuple[Example, ...]:
        return beginnings(examples) if self.causal else tuple(examples)

    def _ids_of(self, tokenizer: Any, text: str) -> list[int]:
        return list(tokenizer(self.prompt + text, verbose=False)["input_ids"])

    def encode(self, tokenizer: Any, example: Example, max_length: int) -> Encoding:
        """Tokenize what is continued or translated; a causal model's text leaves room for an answer.

        Raises:
            DataError: the text has no token, and the model none that texts begin with.

        """
        limit = max(1, max_length - STEPS) if self.causal else max_length
        made = encode_text(tokenizer, replace(example, pair=None), limit, self.prompt)
        ids = made.inputs["input_ids"]
        if not len(ids):
            first = first_token(tokenizer)
            if first is None:
                raise DataError("a text without a token cannot be continued", where=example.where)
            ids = np.array([first], dtype=np.int64)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        return self.with_answer(Encoding(inputs, truncated=made.truncated), None)

    def with_answer(self, encoding: Encoding, answer: "NDArray[np.int64] | None") -> Encoding:
        """Return a text with what is written after it: the last token of it is asked for, and not fed."""
        given, steps = len(encoding.inputs["input_ids"]), 1 if answer is None else len(answer)
        lengths = {SEQUENCE: given + steps - 1} if self.causal else {ENCODER_SEQUENCE: given, SEQUENCE: steps}
        return replace(encoding, answer=answer, lengths=lengths)

    def prompt_of(self, encoding: Encoding) -> "dict[str, NDArray[np.int64]]":
        """Return the text alone, as a batch of one."""
        return {n: rows[None] for n, rows in encoding.inputs.items()}

    def continued(self, specs: Mapping[str, GraphSpec], run: Run, encoding: Encoding) -> Encoding:
        settings = self.judged_settings
        (answer,) = generate(run, specs, self.prompt_of(encoding), settings).texts(settings)
        return self.with_answer(encoding, np.asarray(answer, dtype=np.int64))

    def drafted(
        self, specs: Mapping[str, GraphSpec], run: Run, encodings: Sequence[Encoding], known: Sequence[Any] = ()
    ) -> list[Encoding]:
        """Do what `continued` does for several texts at once: beside others an answer may come out otherwise.

        `known`: answers that are there already, None where there is none.
        """
        pairs = list(zip(encodings, known or [None] * len(encodings), strict=True))
        own = iter(draft(run, specs, [e.inputs["input_ids"] for e, a in pairs if a is None], self.judged_settings))
        return [self.with_answer(e, np.asarray(next(own) if a is None else a, dtype=np.int64)) for e, a in pairs]

    def stands(self, encoding: Encoding, outputs: Outputs) -> bool:
        """Tell by what a model says of a text alone, and its drafted answer, that it would write that answer."""
        ids, answer = encoding.inputs["input_ids"], encoding.answer
        assert answer is not None
        return stands(ids if self.causal else None, len(ids), answer, outputs["logits"], self.judged_settings)

    def feed(
        self, specs: Mapping[str, GraphSpec], encodings: Sequence[Encoding], lengths: Mapping[str, int] | None = None
    ) -> "dict[str, NDArray[np.int64]]":
        first = next(iter(specs.values()))
        ids = next(t for t in first.inputs if t.name == "input_ids")
        mask = replace(ids, name="attention_mask", fill=0)
        answer = replace(ids, name=ANSWER, axes=(BATCH, SEQUENCE))
        spec = GraphSpec("text", (ids, mask) if self.causal else (ids, mask, answer), ())
        return pad_batch([self._fed(e) for e in encodings], spec, lengths)

    def _fed(self, encoding: Encoding) -> Encoding:
        """Return the ids that are fed of a text and its answer."""
        ids, written = encoding.inputs["input_ids"], encoding.answer
        rest = np.zeros(0, dtype=np.int64) if written is None else written[:-1]
        if self.causal:
            fed = np.concatenate([ids, rest])
            return Encoding({"input_ids": fed, "attention_mask": np.ones_like(fed)}, lengths=encoding.lengths)
        start = np.array([self.settings.start_id], dtype=np.int64)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), ANSWER: np.concatenate([start, rest])}
        return Encoding(inputs, lengths=encoding.lengths)

    def answer(self, specs: Mapping[str, GraphSpec], run: Run, feed: "Mapping[str, NDArray[np.int64]]") -> Outputs:
        length = feed[ANSWER if DECODER in specs else "input_ids"].shape[1]
        cut = max(1, length - FROM_CACHE)
        # Of a causal model's texts, padded on the left, the answers are the last tokens: nothing else is compared.
        last = None if DECODER in specs else max(STEPS, FROM_CACHE)
        return {"logits": forced_logits(run, specs, feed, feed.get(ANSWER), (cut,), last)}

    def compared(self, outputs: Outputs, encoding: Encoding) -> Outputs:
        """Keep the logits at the steps of the answer."""
        steps = 1 if encoding.answer is None else len(encoding.answer)
        return {"logits": outputs["logits"][-steps:].copy()}

    def decisions(self, judged: Sequence[Judged]) -> list[Any]:
        return [tuple(int(i) for i in j.outputs["logits"].argmax(axis=-1)) for j in judged]

    def same(self, wanted: Any, found: Any) -> float:
        return float(np.mean([a == b for a, b in zip(wanted, found, strict=True)])) if wanted else 1.0

    def idle(self, decisions: Sequence[Any]) -> str | None:
        """A model that repeats one token, or that ends at once, is matched by one that ignores its input."""
        if all(len(tokens) == 1 for tokens in decisions):
            return f"the source itself ends at once on all {len(decisions)} texts"
        if len({token for tokens in decisions for token in tokens}) == 1:
            return "the source itself writes one and the same token throughout"
        return None

    def describe(self, decision: Any, example: Example) -> str:
        return self.written(decision)

    def written(self, tokens: Sequence[int]) -> str:
        """Return tokens as text."""
        if self._tokenizer is None:
            return "tokens " + ", ".join(map(str, tokens))
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=False))

    def column_names(self, roles: Collection[str]) -> dict[str, str]:
        return {"text": SOURCE, "pair": TARGET, "label": TARGET}

    def knows_column(self, name: str) -> bool:
        return is_pair_column(name)

    def row_of(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        return flat_row(row)

    def examples_of(self, row: Mapping[str, Any], where: str) -> tuple[Example, ...]:
        return (written_example(row, where, self.languages, alone=self.causal),)

    def scored_outputs(
        self, specs: Mapping[str, GraphSpec], run: Run, one: Example, encoding: Encoding
    ) -> "Mapping[str, NDArray[Any]]":
        """Return the tokens that the model writes on its own, by its own settings."""
        settings = self.scored_settings(one, len(encoding.inputs["input_ids"]))
        (tokens,) = generate(run, specs, self.prompt_of(encoding), settings).texts(settings)
        return {WRITTEN: np.asarray(tokens, dtype=np.int64)}

    def scored_settings(self, one: Example, prompt: int) -> GenerationSettings:
        """Return how the model writes where it is scored: with its own beams and rules, and without drawing.

        An answer ends at twice the longest reference and 16 tokens, if not before: a model that never stops is scored
        by what is there until then.
        """
        assert isinstance(one.label, References)
        longest = max((len(self._tokenizer(t, verbose=False)["input_ids"]) for t in one.label.texts), default=0)
        own, most = self.settings, 2 * longest + STEPS
        if own.max_new_tokens is not None:
            most = min(most, own.max_new_tokens)
        elif own.max_length is not None:
            most = min(most, max(1, own.max_length - (prompt if self.causal else 1)))
        return replace(own, sample=False, max_new_tokens=most)

    def metric(self, judged: Sequence[Judged]) -> dict[str, float]:
        """Score what was written against its references, the task's own score first."""
        scored = [j for j in judged if isinstance(j.example.label, References) and WRITTEN in j.outputs]
        if not scored:
            return {}
        texts = [self.read_written(j.outputs[WRITTEN].tolist()) for j in scored]
        made = reference_scores(references_of([j.example for j in scored]), texts, self.languages[1])
        first = self.metric_name if self.metric_name in made else BLEU
        return {first: made[first]} | made

    def metric_notes(self, judged: Sequence[Judged]) -> list[str]:
        if not any(WRITTEN in j.outputs for j in judged):
            return []
        signature = bleu_signature(self.languages[1])
        return [f"scores of written text are 0..1 (0.01 of bleu is a point); bleu is sacrebleu's: {signature}"]

    def chance(self, examples: Sequence[Example]) -> float:
        """Return what is scored without reading: the text itself, or one of the references to every text."""
        scored = even_sample([e for e in examples if isinstance(e.label, References) and e.label.texts], GUESSED)
        wanted = references_of(scored)
        tried = [[e.text for e in scored], *([right[0]] * len(scored) for right in wanted[:GUESSES])]
        return max(reference_score(self.metric_name, wanted, texts, self.languages[1]) for texts in tried)

    def read_written(self, tokens: Sequence[int]) -> str:
        """Return tokens as a user reads them, without those that are no text."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()


def _carried(folder: Path, config: Any) -> dict[str, Any]:
    """Return what generation_config.json of a folder says, and the token that texts begin with: clients look there."""
    path = folder / FILE
    table = read_table(path) if path.is_file() else {}
    first = getattr(config, "bos_token_id", None)
    known = {} if first is None else {"bos_token_id": first}
    return known | {k: v for k, v in table.items() if k not in IDLE and v is not None}


def _languages(folder: Path, tokenizer: Any, settings: GenerationSettings) -> Languages:
    """Return what a translator reads and writes: as its tokenizer's file says, and by the token it must begin with."""
    path = folder / "tokenizer_config.json"
    table = read_table(path) if path.is_file() else {}

    def named(*keys: str) -> str:
        return next((language_code(str(table[k])) for k in keys if table.get(k)), "")

    languages = target_languages(tokenizer).items()
    if any(v.mark for _, v in languages):  # each text says for itself which one it wants
        return named("source_lang", "src_lang"), ""
    spoken = {v.id: code for code, v in languages}
    forced = spoken.get(-1 if settings.forced_bos_id is None else settings.forced_bos_id, "")
    return named("source_lang", "src_lang"), language_code(forced) if forced else named("target_lang", "tgt_lang")


def greedy(settings: GenerationSettings, steps: int = STEPS) -> GenerationSettings:
    """Return settings that choose the likeliest token, `steps` times at most; the model's rules stay in force."""
    return replace(settings, sample=False, beams=1, max_new_tokens=steps)
