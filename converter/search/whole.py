"""A finalist made in full: exported as any recipe is exported, and gated. What comes of it is told in plain values."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.context import Resolved
from converter.errors import ExportError, GateFailed, ResourceLimit
from converter.jsonfile import read_json
from converter.pipeline import run_recipe
from converter.recipe import load_recipe_table, recipe_table
from converter.search.saying import said_of

if TYPE_CHECKING:
    from converter.recipe import Recipe
    from converter.search.workbench import Workbench
    from converter.stage import Progress

FAILED = "FAIL"
STATUS, REASON, EXIT, FOLDER, SIZE = "status", "error", "exit_code", "folder", "size_bytes"


def made_in_full(
    recipe: "Recipe", out: Path, bench: "Workbench", progress: "Progress", threads: int | None
) -> dict[str, Any]:
    """Return status, reason, exit code, folder (empty where there is no package) and bytes.

    `threads`: of what compresses the model, as many as its trial had: it is the same model then.

    Raises:
        ResourceLimit: memory or disk ran out.

    """
    try:
        return finished(recipe, out) or _run(recipe, out, bench, progress, threads)
    except ResourceLimit:
        raise
    except Exception as error:  # noqa: BLE001 - said_of tells what is a bug, and raises what is no candidate's
        code = error.exit_code if isinstance(error, ExportError) else GateFailed.exit_code
        return not_made(said_of(error), code)


def not_made(why: str, exit_code: int = GateFailed.exit_code) -> dict[str, Any]:
    """Return what is told of a finalist of which there is no package."""
    return {STATUS: FAILED, EXIT: exit_code, REASON: why, FOLDER: "", SIZE: 0}


def finished(recipe: "Recipe", out: Path) -> dict[str, Any] | None:
    """Return what an interrupted search has made of this recipe; None, too, where `--eval` was written since."""
    report = out / "report.json"
    try:
        if load_recipe_table(out / "recipe.toml") != recipe_table(recipe) or _newer(recipe.evaluation, report):
            return None
        return dict(read_json(report)["targets"][0])
    except (ExportError, OSError, KeyError, IndexError, TypeError):
        return None


def _newer(text: "Path | str | None", report: Path) -> bool:
    """Tell whether a file of text was written after what was judged by it; that of a sample never is."""
    return text is not None and Path(text).is_file() and Path(text).stat().st_mtime_ns > report.stat().st_mtime_ns


def _run(recipe: "Recipe", out: Path, bench: "Workbench", progress: "Progress", threads: int | None) -> dict[str, Any]:
    out.parent.mkdir(parents=True, exist_ok=True)
    with progress.task(f"Making {out.name} in full"):
        # By the same tables of times, too, as the trials had.
        known = Resolved(threads=threads, measured=bench.measured)
        result = run_recipe(recipe, out, force=True, progress=progress, resolved=known, cache=bench.cache)
    (made,) = result.targets
    return {
        STATUS: str(made.status),
        EXIT: made.exit_code,
        REASON: made.error,
        FOLDER: made.folder,
        SIZE: made.size_bytes,
    }
