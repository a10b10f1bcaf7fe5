"""A shortlist for the output layer: what is written is chosen among the tokens that its texts take."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from converter.artifact import TorchModel
from converter.binding import option
from converter.errors import RecipeError, UsageError
from converter.stage import Context, Outcome, Stage

if TYPE_CHECKING:
    from converter.forecast import Forecast

NAME = "trim.shortlist"


@dataclass(frozen=True)
class OutputShortlist(Stage[TorchModel, TorchModel]):
    """Keep the rows of the output layer that are written: it is 57 % of the weights that a translator reads a token.

    Kept are the tokens of the right answers in the calibration text, those that the model itself writes about it, and
    single characters, so that any word can still be spelled; `top` keeps the most frequent of them. Scores of kept
    tokens stay what they are, all others lie below. Unlike `trim.vocabulary` it changes nothing that is read; the rows
    are stored beside the embedding, so the file grows a little where the two were one.

    As a recipe: `compress = [{stage = "trim.shortlist"}]`
    """

    corpus: tuple[str, ...] = option((), "more text files whose tokens are kept, besides the calibration text")
    top: int = option(0, "number of tokens to keep, most frequent first; 0: every token that occurs", low=0)
    least: int = option(1, "keep only tokens that occur at least this often (1: all of them)", low=1)

    name = NAME
    summary = "let the output layer choose among the tokens that the calibration text takes"
    takes = ("decoder", "encoder-decoder")
    why_not = "it is for output layers as wide as the vocabulary, of which a token is chosen"
    needs_text = True
    # They look for the whole table, or train what has no rows.
    bars = ("trim.", "distill.")

    def check(self, source: TorchModel, *, has_text: bool) -> None:
        from converter.surgery.tokenizer import table_of
        from converter.trim._written import refuse_unreadable

        if not has_text and not self.corpus:
            raise UsageError(
                "there is no text to find the written tokens in",
                where=NAME,
                hint="give --calibration FILE, or --trim shortlist:corpus=FILE with answers as your users want them",
            )
        floor = len(self._floor(source, table_of(source.tokenizer)))
        if 0 < self.top < floor:
            raise RecipeError(
                f"{self.top} tokens are fewer than the {floor} that must be kept: special tokens and characters",
                where=f"{NAME}.top",
                hint=f"give at least {floor}",
            )
        refuse_unreadable(self.corpus)

    def run(self, given: TorchModel, ctx: Context) -> Outcome[TorchModel]:
        from converter.surgery.count import n_parameters
        from converter.surgery.shortlist import with_shortlist

        self.check(given, has_text=not ctx.calibration_is_builtin and bool(ctx.calibration))
        assert given.cache is not None
        kept = sorted(self._chosen(given, ctx))
        made = with_shortlist(given, kept)
        facts = {
            "tokens": given.cache.vocabulary,
            "kept": len(kept),
            "parameters_before": n_parameters(given),
            "parameters_after": n_parameters(made),
            "held_out": self._held_out(given, set(kept), ctx),
        }
        return Outcome(made, facts)

    def forecast(self, now: "Forecast", model: TorchModel, ctx: Context) -> "Forecast":
        from converter.forecast import spent

        kept = len(self._chosen(model, ctx))
        module: Any = model.module
        tied = module.get_output_embeddings().weight is module.get_input_embeddings().weight
        rows = kept if tied else kept - now.table.rows
        note = f"{NAME}: {kept} of {now.table.rows} tokens can be written"
        return spent(replace(now, matrices=now.matrices + rows * now.table.width), passes=64, note=note)

    def _floor(self, given: TorchModel, table: Mapping[str, Any]) -> set[int]:
        from converter.surgery.tokenizer import character_ids

        return given.task.needed_ids() | character_ids(table)

    def _chosen(self, given: TorchModel, ctx: Context) -> set[int]:
        from converter.surgery.tokenizer import table_of

        floor = self._floor(given, table_of(given.tokenizer))
        counts = self._counts(given, ctx)
        ordered = [i for i in sorted(counts, key=lambda i: (-counts[i], i)) if counts[i] >= self.least]
        if not self.top:
            return floor | set(ordered)
        return floor | set([i for i in ordered if i not in floor][: self.top - len(floor)])

    def _counts(self, given: TorchModel, ctx: Context) -> Counter[int]:
        from converter.surgery.token_usage import count_tokens, texts_of
        from converter.trim._written import count_written, text_of_user

        counts = count_written(given, self.corpus, ctx)
        if given.task.kind == "decoder":
            # What is continued is written in the same words.
            texts = list(texts_of(text_of_user(ctx), None, given.task.prompt))
            with ctx.progress.task("Reading the text", total=len(texts)) as ticker:
                counts.update(count_tokens(given.tokenizer, texts, ticker))
        return counts

    def _held_out(self, given: TorchModel, kept: set[int], ctx: Context) -> dict[str, Any]:
        """Count, in right answers that were not looked at, the tokens that cannot be written any more."""
        from converter.examples import References

        task: Any = given.task
        answers = [t for e in ctx.held_out if isinstance(e.label, References) for t in e.label.texts]
        ids = [task.answer_ids(text, 1 << 20).tolist() for text in answers]
        return {"answers": len(ids), "with_a_token_that_is_gone": sum(not kept.issuperset(row) for row in ids)}
