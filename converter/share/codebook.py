"""Embedding rows spelled with a codebook: four or two bits a weight, the commonest tokens exact."""

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from converter.artifact import TorchModel
from converter.binding import among, option
from converter.errors import RecipeError, UsageError
from converter.stage import Context, Outcome, Stage

if TYPE_CHECKING:
    import torch

    from converter.forecast import Forecast
    from converter.model_folder.replacements import CodebookEmbedding

NAME = "share.codebook"
ENTRIES = 256
BITS_OF_A_CODE = 8
ROW_BYTES = 8
"""A scale, and the place of what is kept whole."""
TOO_DEAR = "not worth it: the plain table in int8 is no larger"


@dataclass(frozen=True)
class CodebookSharing(Stage[TorchModel, TorchModel]):
    """Vector quantization of embeddings: each piece of a row is one of 256 shared pieces, times a scale per row.

    `bits=4`: two weights per byte; `bits=2`: four. On MiniLM-L6 four bits leave a relative error of 9 %, rounding to
    four bits 13 %, an SVD of the same size 46 %. Most of the effect on the answers comes from the most frequent tokens,
    so their rows are left unchanged (`exact`). As in Gersho and Gray (1992), for embeddings only: a lookup needs no
    special kernel, a matrix product would.

    As a recipe: `compress = [{stage = "share.codebook", bits = 4, exact = 500}]`
    """

    bits: int = option(4, "bits per weight: 4 or 2", low=2, high=4, search=among(4, 2))
    exact: int = option(500, "number of most frequent tokens whose rows are left unchanged", low=0)

    name = NAME
    summary = "compress embeddings by vector quantization, to 4 or 2 bits per weight"
    why_not = (
        "the embedding of a model that writes text is its output layer too, and its rows are compared with every state"
    )
    needs_text = True
    place = 6  # after training: it would move what is spelled here
    bars = ("trim.", "factorize.embeddings", "share.codebook")

    def __post_init__(self) -> None:
        if self.bits not in {2, 4}:
            raise RecipeError(f"bits must be 4 or 2, found {self.bits}", where=f"{NAME}.bits")

    def check(self, source: TorchModel, *, has_text: bool) -> None:
        refuse_tied(source, NAME)
        width = source.module.get_input_embeddings().weight.shape[1]  # type: ignore[operator]
        if width % self._span:
            raise UsageError(f"rows of {width} weights cannot be divided into pieces of {self._span}", where=NAME)

    @property
    def _span(self) -> int:
        return BITS_OF_A_CODE // self.bits

    def run(self, given: TorchModel, ctx: Context) -> Outcome[TorchModel]:
        import torch

        from converter.model_folder.replacements import put
        from converter.validate.cost import cost_of

        self.check(given, has_text=True)
        table = given.module.get_input_embeddings()  # type: ignore[operator]
        with torch.no_grad(), ctx.progress.task("Learning the codebook"):
            part = self._encode(table, self._commonest(given, ctx), ctx.seed)
        made = replace(given, module=copy.deepcopy(given.module))
        put(made.module, name_of_embedding(made.module), part)
        rows = table.weight.detach()
        error = float((part.weight - rows).norm() / rows.norm())
        facts = _sizes(part) | {"relative_error": round(error, 4), "cost": cost_of(given, made, ctx)}
        return Outcome(made, facts)

    def forecast(self, now: "Forecast", model: TorchModel, ctx: Context) -> "Forecast":
        from converter.forecast import Table, spent

        rows, width = now.table.rows, now.table.width
        fixed = rows * (width // self._span + ROW_BYTES) + ENTRIES * self._span * 4
        table = Table(rows, width, min(self.exact, rows) * width, fixed)
        return spent(replace(now, table=table), passes=2 * 64)

    def _commonest(self, given: TorchModel, ctx: Context) -> list[int]:
        """Return the tokens whose rows stay whole: those of every text first, then by their number in the text."""
        from converter.surgery.token_usage import count_tokens, texts_of
        from converter.surgery.tokenizer import special_ids, table_of

        texts = list(texts_of(ctx.calibration, given.tokenizer.mask_token))
        with ctx.progress.task("Counting tokens", total=len(texts)) as ticker:
            counts = count_tokens(given.tokenizer, texts, ticker)
        special = sorted(special_ids(given.tokenizer, table_of(given.tokenizer)))
        ordered = [*special, *sorted(counts, key=lambda i: (-counts[i], i))]
        return list(dict.fromkeys(ordered))[: self.exact]

    def _encode(self, table: Any, exact: list[int], seed: int) -> "CodebookEmbedding":
        import torch

        from converter.model_folder.replacements import FIRST_CODE, CodebookEmbedding
        from converter.share._vectors import assign, learn_codebook

        rows = table.weight.detach()
        scale = rows.pow(2).mean(dim=1, keepdim=True).sqrt().clamp(min=1e-12)
        pieces = (rows / scale).reshape(-1, self._span)
        book = learn_codebook(pieces, ENTRIES, seed)
        codes = assign(pieces, book)
        near = book[codes].view_as(rows)
        part = CodebookEmbedding((len(rows), rows.shape[1]), self._span, ENTRIES, len(exact), table.padding_idx)
        part.codes.copy_((codes.view(len(rows), -1) - FIRST_CODE).to(torch.int8))
        # The best factor for the pieces as they are now, by least squares.
        part.scale.copy_((rows * near).sum(1, keepdim=True) / near.pow(2).sum(1, keepdim=True).clamp(min=1e-12))
        part.codebook.copy_(book)
        index = torch.tensor(exact, dtype=torch.long)
        part.place[index] = torch.arange(1, len(exact) + 1, dtype=torch.int32)
        part.rest[1:] = rows[index] - (near * part.scale)[index]
        return part.eval()


def _sizes(part: "CodebookEmbedding") -> dict[str, Any]:
    """Return bytes of the table as an int8 package stores it, before and after."""
    spec = part.spec()
    before = spec["rows"] * (spec["width"] + 4)
    own = spec["rows"] * (spec["width"] // spec["span"] + ROW_BYTES) + spec["entries"] * spec["span"] * 4
    after = own + (spec["exact"] + 1) * (spec["width"] + 4)
    facts = {"int8_table_bytes_before": before, "int8_table_bytes_after": after, "pays": after < before}
    return facts if after < before else facts | {"note": TOO_DEAR}


def refuse_tied(model: TorchModel, where: str) -> None:
    """Raise where the embedding is not a table of its own."""
    import torch

    if model.module.get_output_embeddings() is not None:  # type: ignore[operator]
        raise UsageError(
            "not supported for fill-mask: the output layer shares its weights with the embedding",
            where=where,
            hint="trim.vocabulary makes both smaller",
        )
    if not isinstance(model.module.get_input_embeddings(), torch.nn.Embedding):  # type: ignore[operator]
        raise UsageError("the embedding has already been compressed", where=where, hint="one such stage is enough")


def name_of_embedding(module: "torch.nn.Module") -> str:
    table = module.get_input_embeddings()  # type: ignore[operator]
    return next(name for name, part in module.named_modules() if part is table)
