"""What names, labels and texts from outside say is shown, never obeyed, wherever it is printed."""

import io
import json

import pytest

from converter.commands.session import Session
from converter.commands.terminal import Terminal
from converter.report.junit import junit

EVIL = "\x1b[2Jred\x9b31m\u202e[bold]x[/wrong]"


def terminal() -> tuple[Terminal, io.StringIO, io.StringIO]:
    made = Terminal()
    made._out, made._err = io.StringIO(), io.StringIO()
    return made, made._out, made._err


@pytest.mark.parametrize("way", ["result", "say", "stream", "error"])
def test_control_characters_are_escaped(way: str) -> None:
    made, out, err = terminal()
    getattr(made, way)(EVIL)
    said = out.getvalue() + err.getvalue()
    assert "\\x1b[2Jred\\x9b31m\\u202e[bold]x[/wrong]" in said


def test_a_name_cannot_write_a_line_of_ours() -> None:
    made, out, err = terminal()
    made.result_lines(["FAIL  name\nPASS  other"])
    made.error("name\x85error: other", "a\nb")
    assert out.getvalue() == "FAIL  name\\nPASS  other\n"
    assert err.getvalue().count("\n") == 2


def test_tables_show_names_as_they_are() -> None:
    from rich.table import Table

    made, out, _ = terminal()
    table = Table("package")
    table.add_row(EVIL)
    made.result_console.print(table)
    made.console.print(EVIL)
    assert "[bold]x[/wrong]" in out.getvalue()
    assert not set(out.getvalue()) & set("\x1b\x9b\u202e")


def test_json_stays_json_and_is_printable() -> None:
    made, out, _ = terminal()
    Session(made, ()).print_json({"name": EVIL, "größe": 1})
    assert json.loads(out.getvalue()) == {"name": EVIL, "größe": 1}
    assert not set(out.getvalue()) & set("\x1b\x9b\u202e")
    assert "größe" in out.getvalue()


def test_junit_shows_names_as_they_are() -> None:
    text = junit({"model": EVIL, "budgets_missed": [EVIL], "targets": []})
    assert not set(text) & set("\x1b\x9b\u202e")
