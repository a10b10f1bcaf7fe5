"""Everything that a package is tested for before it is sealed."""

from typing import TYPE_CHECKING

from converter.validate.compare import compare

if TYPE_CHECKING:
    from converter.artifact import Bundle, TorchModel
    from converter.stage import Context
    from converter.target import Target
    from converter.validate.checks import Evaluation
    from converter.validate.limits import Limits


def evaluate_package(
    target: "Target",
    bundle: "Bundle",
    source: "TorchModel",
    limits: "Limits",
    ctx: "Context",
    *,
    require_device: bool,
) -> "Evaluation":
    """Open the shipped files in their runtime and judge them against the source."""
    assert ctx.reference is not None
    runner = target.open(bundle.folder, source.pad)
    return compare(source, ctx.reference, runner.run, limits, ctx.progress, f"Proving {target.name}")
