"""What a library said when it refused, in one line."""

import os
from pathlib import Path


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, without the path of the working folder."""
    if isinstance(error, KeyError):  # says the key and nothing else
        return f"{error} is not known"
    return (str(error).strip().splitlines() or [type(error).__name__])[0].replace(str(Path.cwd()) + os.sep, "")[:300]


def is_panic(error: BaseException) -> bool:
    """Tell whether a library in Rust broke off: its error is no `Exception`, as if the user had interrupted."""
    return type(error).__name__ == "PanicException"
