"""What a TFLite package carries beside the model: tokenizer tables, samples for this very model, and their proof."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from converter.device.facts import facts_of, kind_of
from converter.device.golden_table import write_golden_table
from converter.device.gpu_forecast import FACT as GPU_FACT
from converter.device.parity import Expected, Parity, backend_of, prove
from converter.device.runtime import KEY, MODEL_FILE, inputs_in_order, least_runtime
from converter.device.samples import FOLDER, check_facts, write_samples
from converter.device.tables import NoTables, Tables, read_tables
from converter.device.tokenize import DeviceTokenizer
from converter.device.tokenizer_files import Proven, TokenizerFiles
from converter.device.tried import try_sample

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.package.golden import Golden
    from converter.reference import Reference
    from converter.target import Runner

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
class PackageFiles(TokenizerFiles):
    """The files of one package of an encoder that are not the model."""

    without = "an app needs a library"

    def tables(self, source: "TorchModel") -> Tables:
        return tables_of(source)

    def parity(
        self, source: "TorchModel", reference: "Reference", wanted: Sequence[Expected], max_length: int
    ) -> Parity:
        shipped, task = DeviceTokenizer(self.assets), source.task
        return prove(shipped, wanted, reference.probes, max_length, only_second=task.cuts_second, prompt=task.prompt)

    def complete(
        self, source: "TorchModel", golden: "Golden", runner: "Runner", known: Mapping[str, Any], tolerance: float
    ) -> dict[str, Any]:
        """Write the samples; returns what the manifest keeps of them."""
        runtime = least_runtime(self.folder)
        if not kind_of(source):
            return {KEY: runtime[MODEL_FILE]}
        proof = Proven.of(known)
        table = facts_of(
            source,
            runner,
            why_not=proof.why_not,
            n_differing=proof.n_differing,
            runtime=runtime,
            graph_inputs=inputs_in_order(self.folder),
        )
        made = check_facts(table)
        n_texts = write_golden_table(golden, source, table, tolerance, self.assets)
        return {
            **made,
            KEY: table.runtime[MODEL_FILE],
            "files": write_samples(table, self.folder / FOLDER, proof.n_hard, known.get(GPU_FACT, {})),
            "golden_texts": n_texts,
        }

    def try_python(self) -> None:
        """Run the Python sample as it ships, where the package has one; raises `StageFailed`."""
        path = self.folder / FOLDER / PYTHON
        if path.is_file():
            try_sample(path, self.folder)
