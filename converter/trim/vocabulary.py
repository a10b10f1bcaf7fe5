"""Vocabulary trimming: tokenizer and embedding cut together to the tokens that its texts take."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from converter.artifact import TorchModel
from converter.binding import among, option
from converter.errors import RecipeError, UsageError
from converter.stage import Context, Outcome, Stage

if TYPE_CHECKING:
    from converter.forecast import Forecast
    from converter.surgery.tokenizer import Ancestors

NAME = "trim.vocabulary"
PLACEHOLDER = "[unused"
"""How BERT's spare tokens begin: no text has them."""
SHOWN = 5
"""Held-out texts that are shown with what they were and what they have become."""


@dataclass(frozen=True)
class VocabularyTrimming(Stage[TorchModel, TorchModel]):
    """Remove unused vocabulary entries: embeddings are 31 % of the weights of MiniLM-L6, 70 % of XLM-R.

    The calibration text and `corpus` keep their tokens and their answers; `top` and `least` trade that for size. If
    `top` is more than the text uses, the rest is filled by id, which follows general frequency: of WordPiece and
    Unigram vocabularies by their order, of BPE by its merges. Special tokens, single characters and bytes are always
    kept, so any text can still be encoded; the evaluation text shows how many texts are tokenized differently. The
    method is that of Load What You Need (Abdaoui et al., arXiv 2010.05609) and of vocabulary trimming (Ushio et al.,
    arXiv 2305.15020), for WordPiece, BPE and Unigram.

    Of a model that writes text also the tokens of the right answers are kept, and those that it writes itself about the
    calibration text: both sides of a translator. Its output layer shrinks with its embedding, which it often is.

    As a recipe: `compress = [{stage = "trim.vocabulary", corpus = ["texts.txt"]}]`
    """

    corpus: tuple[str, ...] = option(
        (), "more text files whose tokens are kept, besides the calibration text (txt, jsonl, csv, tsv)"
    )
    top: int = option(
        0, "number of tokens to keep, most frequent first, then by id; 0: every token that occurs in the text", low=0
    )
    least: int = option(1, "keep only tokens that occur at least this often in the text (1: all of them)", low=1)
    characters: Literal["all", "ascii"] = option(
        "all", "single-character tokens kept even if unused: all, or only ASCII", search=among("all", "ascii")
    )
    tokens: str = option("", "file with exactly the tokens to keep: one per line, or the tokenizer.json of another run")

    name = NAME
    takes = ("encoder", "decoder", "encoder-decoder")
    summary = "remove vocabulary entries unused in the calibration text, from tokenizer and embedding"
    needs_text = True
    place = 1

    def __post_init__(self) -> None:
        if self.tokens and (self.corpus or self.top or self.least > 1):
            raise RecipeError("tokens already lists what to keep: corpus, top and least have no effect", where=NAME)

    def check(self, source: TorchModel, *, has_text: bool) -> None:
        from converter.surgery.tokenizer import table_of
        from converter.trim._written import refuse_unreadable

        table = table_of(source.tokenizer)
        if self.tokens:
            self._listed(source, table)
            return
        if not has_text and not self.corpus:
            raise UsageError(
                "there is no text to find the used tokens in",
                where=NAME,
                hint="give --calibration FILE, or --trim vocabulary:corpus=FILE with text as your users write it",
            )
        floor = len(self._floor(source, table))
        if 0 < self.top < floor:
            raise RecipeError(
                f"{self.top} tokens are fewer than the {floor} that must be kept: special tokens and characters",
                where=f"{NAME}.top",
                hint="characters=ascii keeps fewer" if self.characters == "all" else f"give at least {floor}",
            )
        refuse_unreadable(self.corpus)

    def run(self, given: TorchModel, ctx: Context) -> Outcome[TorchModel]:
        from converter.surgery.tokenizer import cut_table, open_table, table_of
        from converter.surgery.vocabulary import with_vocabulary

        self.check(given, has_text=not ctx.calibration_is_builtin and bool(ctx.calibration))
        table = table_of(given.tokenizer)
        texts = [] if self.tokens else self._texts(given, ctx)
        kept = sorted(self._listed(given, table) if self.tokens else self._chosen(given, table, texts, ctx))
        tokenizer = open_table(cut_table(table, kept), given.tokenizer)
        made = with_vocabulary(given, tokenizer, kept)
        return Outcome(made, self._facts(given, made, texts, ctx))

    def forecast(self, now: "Forecast", model: TorchModel, ctx: Context) -> "Forecast":
        from dataclasses import replace

        from converter.forecast import Table, spent
        from converter.surgery.tokenizer import table_of

        table = table_of(model.tokenizer)
        chosen = self._chosen(model, table, self._texts(model, ctx), ctx) if not self.tokens else None
        rows = len(self._listed(model, table) if chosen is None else chosen)
        note = f"{NAME}: {rows} of {now.table.rows} tokens kept"
        return spent(replace(now, table=Table(rows, now.table.width, rows * now.table.width)), passes=64, note=note)

    def _texts(self, given: TorchModel, ctx: Context) -> list[str]:
        """Return the text to keep, each once, in the order in which it comes."""
        from converter.surgery.token_usage import texts_of
        from converter.trim._written import text_of_user, texts_in

        own = texts_of(text_of_user(ctx), given.tokenizer.mask_token, given.task.prompt)
        return list(dict.fromkeys([*own, *texts_in(self.corpus)]))

    def _floor(self, given: TorchModel, table: Mapping[str, Any]) -> set[int]:
        from converter.surgery.tokenizer import character_ids, special_ids
        from converter.surgery.vocabulary import counted_padding

        pad = counted_padding(given.module)
        below = set() if pad is None else set(range(pad + 1))
        special = special_ids(given.tokenizer, table) | given.task.needed_ids()
        return below | special | character_ids(table, ascii_only=self.characters == "ascii")

    def _chosen(self, given: TorchModel, table: Mapping[str, Any], texts: Sequence[str], ctx: Context) -> set[int]:
        from converter.surgery.token_usage import count_tokens
        from converter.surgery.tokenizer import Ancestors, pieces_of, tried_pieces
        from converter.trim._written import count_written

        floor, ancestors = self._floor(given, table), Ancestors(table)
        with ctx.progress.task("Reading the text to keep", total=len(texts)) as ticker:
            counts = count_tokens(given.tokenizer, texts, ticker)
        counts.update(count_written(given, self.corpus, ctx))
        if self.top:
            names = pieces_of(table)
            others = (i for i in sorted(names) if i not in counts and not names[i].startswith(PLACEHOLDER))
            return _most_frequent([*_by_count(counts), *others], floor, ancestors, self.top)
        used = {i for i, n in counts.items() if n >= self.least}
        # A word of no known spelling must stay unknown: the pieces that were tried in vain keep it so.
        used |= tried_pieces(given.tokenizer, table, texts) if self.least == 1 else set()
        return floor.union(*(ancestors.of(i) for i in used))

    def _listed(self, given: TorchModel, table: Mapping[str, Any]) -> set[int]:
        """Return the ids of the list `tokens`; refuse one that lacks what no tokenizer can lack."""
        from converter.surgery.tokenizer import Ancestors, pieces_of, read_list, special_ids
        from converter.surgery.vocabulary import counted_padding
        from converter.trim._written import path_of

        names = pieces_of(table)
        wanted = read_list(path_of(self.tokens))
        found = {i for i, piece in names.items() if piece in wanted}
        needed = special_ids(given.tokenizer, table) | set(range((counted_padding(given.module) or -1) + 1))
        needed |= given.task.needed_ids()
        missing = sorted(needed - found)
        if missing:
            raise UsageError(
                f"the list drops {names.get(missing[0], missing[0])!r}, a special token",
                where=self.tokens,
                hint="special tokens cannot be removed: add them to the list",
            )
        ancestors = Ancestors(table)
        return found.union(*(ancestors.of(i) for i in found))

    def _facts(self, given: TorchModel, made: TorchModel, texts: Sequence[str], ctx: Context) -> dict[str, Any]:
        from converter.surgery.count import n_parameters
        from converter.trim._proof import held_out, prove_kept

        assert made.source_ids is not None
        before, after = given.module.get_input_embeddings(), made.module.get_input_embeddings()  # type: ignore[operator]
        lossless = not self.top and self.least == 1
        return {
            "tokens_before": before.weight.shape[0],
            "tokens_after": after.weight.shape[0],
            "parameters_before": n_parameters(given),
            "parameters_after": n_parameters(made),
            "kept_text": prove_kept(given, made, texts, ctx, lossless=lossless),
            "held_out_text": held_out(given, made, set(texts), ctx, SHOWN),
            "kept_ids_sha256": hashlib.sha256(repr(made.source_ids).encode()).hexdigest(),
        }


def _by_count(counts: Counter[int]) -> list[int]:
    return sorted(counts, key=lambda i: (-counts[i], i))


def _most_frequent(ordered: Sequence[int], floor: set[int], ancestors: "Ancestors", top: int) -> set[int]:
    """Add tokens in this order, each with what it is merged from, as long as there is room."""
    kept = set(floor)
    for token in ordered:
        more = ancestors.of(token) - kept
        if len(kept) + len(more) <= top:
            kept |= more
    return kept
