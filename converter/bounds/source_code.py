"""Text from outside within generated source code: nothing in it ends a comment or a literal."""

from pathlib import Path
from typing import TYPE_CHECKING

from converter.errors import StageFailed

if TYPE_CHECKING:
    from jinja2 import Environment


def code_templates(*folders: Path) -> "Environment":
    """Return what renders the templates of folders to source code, with the filters `python` and `prose`.

    A name that two folders have is that of the first.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # Source code has its own escapes, one filter a language; what is HTML escapes what it shows itself.
    environment = Environment(
        loader=FileSystemLoader(folders),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"python": ascii, "prose": prose}
    return environment


def check_compiles(text: str, name: str) -> None:
    """Raise `StageFailed` where Python that was made of a template does not compile."""
    try:
        compile(text, name, "exec")
    except (SyntaxError, ValueError) as error:
        raise StageFailed(f"the sample {name} does not compile ({error})") from error


def prose(text: str) -> str:
    r"""Return text for a comment of any language, on one line: nothing in it ends the comment, or is an escape.

    >>> print(prose('a"b\\u */'))
    a'b/u * /
    """
    text = "".join(c if c.isprintable() else " " for c in text)
    return text.translate({ord("\\"): "/", ord('"'): "'"}).replace("*/", "* /").replace("/*", "/ *")
