"""Why a candidate could not be made, in words."""

from converter.bounds.exhausted import exhausted
from converter.errors import ExportError
from converter.validate.answers import RunFailed


def said_of(error: Exception) -> str:
    """Return why a candidate could not be made.

    Of a hundred combinations one may trip over a bug of ours: that is told, and costs the user no night.

    Raises:
        ResourceLimit: memory or disk ran out.

    """
    if isinstance(error, (ExportError, RunFailed)):
        return str(error)
    if (limit := exhausted(error)) is not None:
        raise limit from error
    return f"internal error (bug): {type(error).__name__}: {str(error)[:200]}"
