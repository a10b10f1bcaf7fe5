"""The tokenizer tables, samples and recorded texts of a package that writes text; encoders have `PackageFiles`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from converter.data.encode import tidies_text
from converter.device.golden_table import GOLDEN_FILE
from converter.device.parity import Expected, Parity, backend_of, prove, uncut
from converter.device.runtime import KEY, MODEL_FILE, least_runtime
from converter.device.samples import FOLDER
from converter.device.shipped_files import check_tokenizer_files
from converter.device.tables import TABLES_FILE, NoTables, Tables, read_tables
from converter.device.tokenize import DeviceTokenizer
from converter.device.tokenizer_files import ASSETS, Proven, TokenizerFiles
from converter.device.tried import try_sample
from converter.device.writing.facts import WriterFacts, names_of, writer_facts
from converter.device.writing.golden import check_recorded, write_recorded
from converter.device.writing.samples import write_samples

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.package.golden import Golden
    from converter.package.shipped import Shipped
    from converter.reference import Probe, Reference
    from converter.tflite.writing.runner import WriterRunner

PYTHON = "python/text_writer.py"
"""The sample that runs here."""
USAGE = """
### Samples

`samples/` holds source code that was generated for this model, with its tokenizer; `samples/README.md` says how each
part was tested. All of them give the answer piece by piece as it comes, and refuse a text that is too long.

- `samples/python/text_writer.py`: `python samples/python/text_writer.py . {text}`, with ai-edge-litert and numpy alone
- `samples/cpp/`: `plm::{name} model("model.tflite", "samples/assets"); model.{call}({text}, print);`
- `samples/java/`: `new {name}(model, tokenizer, 2).{call}({text}, piece -> show(piece));`
- `samples/kotlin/`: `{name}InBackground(context).{call}({text}, onToken = {{ show(it) }}) {{ answer -> … }}`
- `samples/swift/`: `try {name}(folder: folder).{call}({text}) {{ piece in show(piece) }}`
- `samples/android/`: a project for Android Studio, with a text field and the answer
"""
USAGE_IDS = """
### Samples

`samples/` holds source code that was generated for this model. It takes and gives token ids: the tokenizer has no
tables for devices, and `samples/README.md` says why, and which libraries read `tokenizer.json`.

- `samples/python/text_writer.py`: `python samples/python/text_writer.py . 12 7 45`, with ai-edge-litert and numpy alone
- `samples/cpp/`: `plm::{name} model("model.tflite"); model.write_ids(ids, model.kMost, print);`
- `samples/java/`: `new {name}(model, 2).writeIds(ids, {name}.MOST, id -> show(id));`
- `samples/kotlin/`: `{name}InBackground(context).{call}(ids, onToken = {{ show(it) }}) {{ end -> … }}`
- `samples/swift/`: `try {name}(folder: folder).writeIds(ids) {{ id in show(id) }}`
"""


def writer_tables(source: "TorchModel") -> Tables:
    """Return the tokenizer of a model as tables.

    Raises:
        NoTables: it has no such form, or the tables cannot say how ids become text; says why.

    """
    tables = read_tables(backend_of(source))
    if not tables.decoder:
        raise NoTables("its tables do not say how ids become text")
    if tidies_text(source.tokenizer):
        raise NoTables("it takes out spaces before punctuation (clean_up_tokenization_spaces), which its tables do not")
    return tables


@dataclass(frozen=True)
class WriterFiles(TokenizerFiles):
    """The files of one package that writes text which are not the model."""

    without = "its samples take token ids"

    def tables(self, source: "TorchModel") -> Tables:
        return writer_tables(source)

    def parity(
        self, source: "TorchModel", reference: "Reference", wanted: Sequence[Expected], max_length: int
    ) -> Parity:
        """Prove the tables on the probes that were not cut: the samples cut none."""
        own, prompt = uncut(backend_of(source)), source.task.prompt
        whole = [p for p in reference.probes if _is_whole(p, own.encode(prompt + p.example.text).ids)]
        return prove(DeviceTokenizer(self.assets), wanted, whole, max_length, prompt=prompt)

    def usage(self, source: "TorchModel") -> str:
        """Return the Markdown that names each sample with a line of use."""
        task: Any = source.task
        name, call = names_of(task.name, causal=task.causal)
        text = '"Once upon a time"' if task.causal else '"Good morning"'
        given = {"name": name, "call": call, "text": text}
        return (USAGE if (self.assets / TABLES_FILE).is_file() else USAGE_IDS).format(**given)

    def complete(
        self, source: "TorchModel", golden: "Golden", runner: "WriterRunner", known: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write the samples; returns what the manifest keeps of them."""
        proof = Proven.of(known)
        table = writer_facts(
            source,
            runner,
            why_not=proof.why_not,
            n_differing=proof.n_differing,
            runtime=least_runtime(self.folder),
        )
        tables = DeviceTokenizer(self.assets) if table.own_tokenizer else None
        n_texts = write_recorded(golden, source, self.assets, tables)
        names = write_samples(table, self.folder / FOLDER, proof.n_hard)
        return {**_kept(table), KEY: table.runtime[MODEL_FILE], "files": names, "golden_texts": n_texts}

    def try_python(self, made: Mapping[str, Any]) -> None:
        """Run the Python sample as it ships, where texts were recorded for it; raises `StageFailed`."""
        if made["golden_texts"]:
            try_sample(self.folder / FOLDER / PYTHON, self.folder)


def _is_whole(probe: "Probe", ids: list[int]) -> bool:
    return bool(probe.encoding.inputs["input_ids"].tolist() == ids)


def _kept(table: WriterFacts) -> dict[str, Any]:
    """Return the facts as the manifest keeps them."""
    kept = ("lengths", "cache", "why_not", "tokenizer", "runtime")
    return {k: v for k, v in asdict(table).items() if k in kept} | {"own_tokenizer": table.own_tokenizer}


def check_writer_files(shipped: "Shipped") -> tuple[str, ...]:
    """Hold the tokenizer tables and the recorded texts of a package to it; returns what was checked.

    Raises:
        PackageDamaged: they say something else, or what the manifest tells of is not there.

    """
    made = check_tokenizer_files(shipped)
    path = shipped.folder / ASSETS / GOLDEN_FILE
    if "golden_texts" in shipped.manifest.beside or path.is_file():
        check_recorded(shipped, path)
        made = (*made, f"{ASSETS}/{GOLDEN_FILE}")
    return made
