"""The tokenizer tables of a TFLite package: written with the model, and proven before anything relies on them."""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from converter.device.parity import CHECK, Expected, Parity, backend_of, expected, facts, parity_check, write_parity
from converter.device.samples import FOLDER
from converter.device.tables import TABLES_FILE, NoTables, Tables, write_tables
from converter.validate.checks import Check, Status

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.reference import Reference

ASSETS = f"{FOLDER}/assets"
FACT = "device_tokenizer"


@dataclass(frozen=True)
class TokenizerFiles(ABC):
    """The tables of one package; what else it carries beside the model is up to its kind."""

    folder: Path
    """The package."""

    without: ClassVar[str]
    """What a package without tables means for an app."""

    @property
    def assets(self) -> Path:
        return self.folder / ASSETS

    @abstractmethod
    def tables(self, source: "TorchModel") -> Tables:
        """Return the tokenizer of a model as tables.

        Raises:
            NoTables: it has no such form; says why.

        """

    @abstractmethod
    def parity(
        self, source: "TorchModel", reference: "Reference", wanted: Sequence[Expected], max_length: int
    ) -> Parity:
        """Compare the shipped tables with the original on the hard texts `wanted`, and on probes."""

    def write_tokenizer(self, source: "TorchModel") -> None:
        """Write the tokenizer as tables, where it has such a form; `check` says why where it has none."""
        try:
            write_tables(self.tables(source), self.assets)
        except NoTables:
            shutil.rmtree(self.folder / FOLDER, ignore_errors=True)

    def check(self, source: "TorchModel", reference: "Reference", max_length: int) -> tuple[Check, dict[str, Any]]:
        """Prove the shipped tables on hard texts and on the probes; returns the check and the facts of it."""
        if not (self.assets / TABLES_FILE).is_file():
            why = self._why_not(source)
            detail = f"the package has no tokenizer tables for devices: {why}; {self.without}"
            return Check(CHECK, Status.NOT_RUN, detail=detail), {FACT: {"why_not": why}}
        wanted = expected(backend_of(source), max_length)
        parity = self.parity(source, reference, wanted, max_length)
        check, found = parity_check(parity), facts(parity)
        if check.status is Status.PASS:
            write_parity(wanted, self.assets, max_length)
        else:
            shutil.rmtree(self.folder / FOLDER)
            found["why_not"] = "it gives other ids than the original"
        return check, {FACT: found}

    def _why_not(self, source: "TorchModel") -> str:
        try:
            self.tables(source)
        except NoTables as error:
            return str(error)
        return "the tables were not written"


@dataclass(frozen=True)
class Proven:
    """What the samples tell of the proof of the tables."""

    why_not: str
    """Why the package has none; empty where it has."""
    n_differing: int
    """Hard texts to which they give other ids than the original."""
    n_hard: int

    @classmethod
    def of(cls, known: Mapping[str, Any]) -> "Proven":
        """Read it from the facts of the gate."""
        proof = known.get(FACT, {})
        n_differing = sum(not d.startswith("your text") for d in proof.get("differing", ()))
        return cls(str(proof.get("why_not", "")), n_differing, int(proof.get("hard_texts", 0)))
