"""TFLite packages of tiny models that write text, converted whole and once: what several contract tests look at."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.api import convert
from tests.tiny_text import save_causal, save_marian

OPTIONS: dict[str, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    "gpt2": (save_causal, {"cache": 48, "seq_len": [4, 16]}),
    "marian": (save_marian, {"cache": 40, "seq_len": [8]}),
}


@dataclass(frozen=True)
class PhoneWriter:
    """A package, what it was made of, and how its conversion ended; do not write into it."""

    model: Path
    package: Path
    outcome: Any

    @property
    def samples(self) -> Path:
        return self.package / "samples"

    @property
    def assets(self) -> Path:
        return self.samples / "assets"

    def recorded(self) -> list[list[str]]:
        """Return the cells of each text in `golden.tsv`."""
        lines = (self.assets / "golden.tsv").read_text("utf-8").split("\n")[:-1]
        return [line.split("\t")[1:] for line in lines if line.startswith("text\t")]


def make_phone_writer(kind: str, folder: Path) -> PhoneWriter:
    save, options = OPTIONS[kind]
    model = save(folder / "model")
    table = {"model": str(model), "targets": ["tflite"], "quantize": {"tflite": "none"}, "target": {"tflite": options}}
    (made,) = convert(table, folder / "out").targets
    return PhoneWriter(model, folder / "out" / "tflite", made)
