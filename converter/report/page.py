"""`report.html`: one page that needs nothing else, drawn from the table of `report_table`."""

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from converter.report import words


def page(table: Mapping[str, Any]) -> str:
    """Return the page. Everything that comes from a model, a text or an error is escaped."""
    environment = Environment(
        loader=PackageLoader("converter", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(table=table, words=words)
