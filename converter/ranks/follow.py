"""What every process but the first does: it trains when it is told to, writes nothing, and ends as the first does."""

import tempfile
from pathlib import Path

from converter.bounds.watch import NO_LIMITS, Limits
from converter.context import NOTHING_RESOLVED, DeviceMap, context_of, placement_of, read_text, with_threads
from converter.errors import UsageError
from converter.ranks.group import NOTHING_TO_TRAIN, Ranks, identity_of
from converter.ranks.watch import together
from converter.recipe import Recipe
from converter.resources import fixed_threads
from converter.stage import SILENT, Context, options_of
from converter.stage_cache.identity import text_digest


def follow(ranks: Ranks, recipe: Recipe, device_map: DeviceMap | None = None, limits: Limits = NO_LIMITS) -> int:
    """Take part in every training of the first process; returns its exit code.

    Raises:
        ExportError: this process cannot take part; all others end with that too.

    """
    from converter.model_folder.given import load_model

    with together(ranks), tempfile.TemporaryDirectory(prefix="plm-export-rank-") as work:
        if any(stage.trains for stage in recipe.compress):
            source = load_model(recipe, SILENT, placement_of(recipe, device_map, limits, Path(work)))
            text = read_text(recipe, source, SILENT)
            resolved = with_threads(NOTHING_RESOLVED, recipe)
            _train(ranks, recipe, context_of(recipe, source, text, Path(work), SILENT, resolved=resolved))
        else:
            ranks.introduce(NOTHING_TO_TRAIN)  # the first would wait for this one where it has something
        ending = ranks.wait(lambda: ranks.told("ended/0"), seconds=None)
    ranks.end(0)
    return int(ending["code"])


def _train(ranks: Ranks, recipe: Recipe, ctx: Context) -> None:
    assert ctx.teacher is not None
    stages = {text_digest([s.name, options_of(s)]): s for s in recipe.compress}
    ranks.introduce(identity_of(ctx))
    while (order := ranks.next_order()) is not None:
        stage = stages.get(text_digest([order["stage"], order["options"]]))
        if stage is None:
            raise UsageError(
                f"this process has no stage {order['stage']} as process 0 has it",
                where="several processes",
                hint="start all of them with the same arguments",
            )
        with tempfile.TemporaryDirectory(prefix="given-", dir=ctx.work) as name:
            given = ranks.receive(order, ctx.teacher, Path(name))
        with fixed_threads(ctx.threads or 1):
            stage.run(given, ctx)
