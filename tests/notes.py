"""Progress that keeps what it is told."""

from typing import Any

from converter.stage import SILENT


class Notes:
    """Notes end in `said`; tasks are drawn nowhere."""

    def __init__(self, said: list[str] | None = None) -> None:
        self.said = [] if said is None else said

    def task(self, title: str, total: float | None = None) -> Any:
        return SILENT.task(title, total)

    def note(self, text: str) -> None:
        self.said.append(text)
