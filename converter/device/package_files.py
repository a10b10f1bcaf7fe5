"""What a TFLite package carries beside the model: tokenizer tables, samples for this very model, and their proof."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.device.facts import DeviceFacts, facts_of, kind_of
from converter.device.golden_table import write_golden_table
from converter.device.gpu_forecast import FACT as GPU_FACT
from converter.device.parity import CHECK, backend_of, expected, facts, parity_check, prove, write_parity
from converter.device.runtime import KEY, MODEL_FILE, inputs_in_order, least_runtime
from converter.device.samples import FOLDER, check_facts, write_samples
from converter.device.tables import TABLES_FILE, NoTables, Tables, read_tables, write_tables
from converter.device.tokenize import DeviceTokenizer
from converter.device.tried import try_sample
from converter.validate.checks import Check, Status

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.package.golden import Golden
    from converter.reference import Reference
    from converter.target import Runner

ASSETS = "samples/assets"
FACT = "device_tokenizer"
PYTHON = "python/text_model.py"
"""The sample that runs here."""


def tables_of(source: "TorchModel") -> Tables:
    """Return the tokenizer of a model as tables.

    Raises:
        NoTables: it has no such form, or no sample is there to read them; says why.

    """
    if not kind_of(source):
        raise NoTables(f"there are no samples for {source.task.name}")
    if source.tokenizer.truncation_side != "right":
        raise NoTables("it cuts texts at their beginning")
    return read_tables(backend_of(source))


@dataclass(frozen=True)
class PackageFiles:
    """The files of one package that are not the model."""

    folder: Path
    """The package."""

    @property
    def assets(self) -> Path:
        return self.folder / ASSETS

    def write_tokenizer(self, source: "TorchModel") -> None:
        """Write the tokenizer as tables, where it has such a form; `check` says why where it has none."""
        try:
            write_tables(tables_of(source), self.assets)
        except NoTables:
            shutil.rmtree(self.folder / FOLDER, ignore_errors=True)

    def check(self, source: "TorchModel", reference: "Reference", max_length: int) -> tuple[Check, dict[str, Any]]:
        """Prove the shipped tables on hard texts and on the probes; returns the check and the facts of it."""
        backend = backend_of(source)
        if not (self.assets / TABLES_FILE).is_file():
            why = self._why_not(source)
            detail = f"the package has no tokenizer tables for devices: {why}; an app needs a library"
            return Check(CHECK, Status.NOT_RUN, detail=detail), {FACT: {"why_not": why}}
        wanted = expected(backend, max_length)
        only_second = source.task.cuts_second
        shipped, prompt = DeviceTokenizer(self.assets), source.task.prompt
        parity = prove(shipped, wanted, reference.probes, max_length, only_second=only_second, prompt=prompt)
        check = parity_check(parity)
        found = facts(parity)
        if check.status is Status.PASS:
            write_parity(wanted, self.assets, max_length)
        else:
            shutil.rmtree(self.folder / FOLDER)
            found["why_not"] = "it gives other ids than the original"
        return check, {FACT: found}

    @staticmethod
    def _why_not(source: "TorchModel") -> str:
        try:
            tables_of(source)
        except NoTables as error:
            return str(error)
        return "the tables were not written"

    def complete(
        self, source: "TorchModel", golden: "Golden", runner: "Runner", known: Mapping[str, Any], tolerance: float
    ) -> dict[str, Any]:
        """Write the samples; returns what the manifest keeps of them."""
        runtime = least_runtime(self.folder)
        if not kind_of(source):
            return {KEY: runtime[MODEL_FILE]}
        proof = known.get(FACT, {})
        table = facts_of(
            source,
            runner,
            why_not=str(proof.get("why_not", "")),
            n_differing=sum(not d.startswith("your text") for d in proof.get("differing", ())),
            runtime=runtime,
            graph_inputs=inputs_in_order(self.folder),
        )
        made = check_facts(table)
        n_texts = write_golden_table(golden, source, table, tolerance, self.assets)
        return {
            **made,
            KEY: table.runtime[MODEL_FILE],
            "files": self._write(table, known),
            "golden_texts": n_texts,
        }

    def try_python(self) -> None:
        """Run the Python sample as it ships, where the package has one; raises `StageFailed`."""
        path = self.folder / FOLDER / PYTHON
        if path.is_file():
            try_sample(path, self.folder)

    def _write(self, table: DeviceFacts, known: Mapping[str, Any]) -> list[str]:
        n_hard = int(known.get(FACT, {}).get("hard_texts", 0))
        return write_samples(table, self.folder / FOLDER, n_hard, known.get(GPU_FACT, {}))
