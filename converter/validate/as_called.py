"""The package as its user opens it: shipped tokenizer with its own defaults, shipped labels, text in, words out."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.generate.read_settings import table_of_settings
from converter.model_folder.labels import label_of_line
from converter.reference import Probe, Reference
from converter.validate.answers import shorten
from converter.validate.checks import Check, Status
from converter.validate.interface import load_tokenizer

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.target import Runner
    from converter.task import Judged, Task

NAME = "as called"
PADDED = 8
"""Texts of one batch that the shipped tokenizer pads."""
DEFAULTS = ("padding_side", "truncation_side", "pad_token_id", "pad_token_type_id")


@dataclass(frozen=True)
class _Package:
    """A package opened without anything that made it, and what it is held to."""

    folder: Path
    made: "TorchModel"
    """What the package was made of: its tokenizer and labels are what must ship."""
    shown: "TorchModel"
    longest: int
    tokenizer: Any
    task: "Task"
    probes: Sequence[Probe]

    def faults(self) -> Iterator[str]:
        """Yield what a user of the package would get otherwise than the model gives it."""
        yield from self._labels()
        yield from self._defaults()
        yield from self._ids()
        yield from self._plain_tokenizer()
        yield from self._padding()
        yield from self._files()
        yield from self._writing()

    def _labels(self) -> Iterator[str]:
        wanted = self.made.task.labels
        if self.task.labels != wanted:
            yield f"config.json names the classes {_list(self.task.labels)}, the model {_list(wanted)}"
        back = {str(k): v for k, v in (getattr(self.task.config, "label2id", None) or {}).items()}
        own = getattr(self.made.config, "label2id", None) or {}
        if wanted and back != {str(k): v for k, v in own.items()}:
            yield f"label2id of config.json is {back}, the model's is {dict(own)}"
        path = self.folder / "labels.txt"
        if wanted and path.is_file():
            lines = tuple(label_of_line(x) for x in path.read_text(encoding="utf-8").split("\n")[:-1])
            if lines != wanted:
                yield f"labels.txt names the classes {_list(lines)}, the model {_list(wanted)}"
        for name in ("problem_type",):
            found, own = (getattr(c, name, None) for c in (self.task.config, self.made.config))
            if found != own:
                yield f"{name} of config.json is {found}, the model's is {own}"

    def _defaults(self) -> Iterator[str]:
        cut = self.tokenizer.model_max_length
        if cut != self.longest:
            yield f"the shipped tokenizer cuts at {cut} tokens by itself, and the package takes {self.longest}"
        for name in DEFAULTS:
            found, wanted = (getattr(t, name, None) for t in (self.tokenizer, self.made.tokenizer))
            if found != wanted:
                yield f"{name} of the shipped tokenizer is {found}, the model's is {wanted}"

    def _ids(self) -> Iterator[str]:
        """Texts are cut as the tokenizer itself says, not at a length that only we know."""
        limit = min(self.tokenizer.model_max_length, self.longest)
        for probe in self.probes:
            found = self.task.encode(self.tokenizer, probe.example, limit).inputs
            for name in self.made.input_names:
                if name not in found or not np.array_equal(found[name], probe.encoding.inputs[name]):
                    yield f"text as it is gets other {name} than from the model, as {_text(probe)}"
                    return

    def _plain_tokenizer(self) -> Iterator[str]:
        """Clients without transformers read tokenizer.json alone."""
        from tokenizers import Tokenizer

        path = self.folder / "tokenizer.json"
        if not path.is_file():
            return
        plain = Tokenizer.from_file(str(path))
        cut = (plain.truncation or {}).get("max_length", self.longest)
        if self.made.cache is not None and cut < self.longest:
            yield f"tokenizer.json alone cuts at {cut} tokens, and the package takes {self.longest}"
        if self.made.cache is not None:
            return
        asked = [p for p in self.probes if p.example.pair is None and p.example.words is None]
        texts = [self.made.task.prompt + p.example.text for p in asked]
        every = self.made.tokenizer(texts, verbose=False)["input_ids"] if texts else []
        for probe, text, wanted in zip(asked, texts, every, strict=True):
            if plain.encode(text).ids != list(wanted):
                yield f"tokenizer.json alone gives other ids than the model's tokenizer, as for {_text(probe)}"
                return

    def _padding(self) -> Iterator[str]:
        """A batch that the shipped tokenizer pads is what the graph expects, or what the model's own gives."""
        if self.made.cache is not None or len(self.probes) < 2:
            return
        some = sorted(self.probes, key=lambda p: p.encoding.length)
        some = [some[i * (len(some) - 1) // (PADDED - 1)] for i in range(PADDED)]
        rows = [{n: p.encoding.inputs[n].tolist() for n in self.made.input_names} for p in some]
        table = {n: [row[n] for row in rows] for n in self.made.input_names}
        found, wanted = (t.pad(dict(table), padding=True, return_tensors="np") for t in self._tokenizers())
        for name in self.made.input_names:
            if not np.array_equal(found[name], wanted[name]):
                yield f"a batch that the shipped tokenizer pads has other {name} than one of the model's tokenizer"
                return

    def _tokenizers(self) -> tuple[Any, Any]:
        return self.tokenizer, self.made.tokenizer

    def _files(self) -> Iterator[str]:
        """What sentence-transformers does around the graph."""
        if self.made.sentence is None:
            return
        path = self.folder / "sentence_bert_config.json"
        cut = _table(path).get("max_seq_length", self.longest)
        if cut != self.longest:
            yield f"sentence_bert_config.json cuts at {cut} tokens, and the package takes {self.longest}"
        for module in self.made.sentence.modules[1:]:
            own = self.made.folder / module.path / "config.json"
            shipped = self.folder / module.path / "config.json"
            if own.is_file() and _table(own) != _table(shipped):
                yield f"{module.path}/config.json is not the model's"

    def _writing(self) -> Iterator[str]:
        """What ends an answer, how its words are chosen, and what a conversation becomes."""
        if self.made.cache is None:
            return
        tasks: tuple[Any, Any] = (self.task, self.made.task)
        found, wanted = (table_of_settings(t.settings) for t in tasks)
        for name in sorted(found.keys() | wanted.keys()):
            if found.get(name) != wanted.get(name):
                yield f"{name} is {found.get(name)} in what ships, the model's is {wanted.get(name)}"
        ours, theirs = (getattr(t, "chat_template", None) for t in self._tokenizers())
        if ours != theirs:
            yield "the chat template that ships is not the model's"


def check_as_called(
    folder: Path,
    made: "TorchModel",
    shown: "TorchModel",
    reference: Reference,
    runner: "Runner",
    judged: "Sequence[Judged]",
) -> Check:
    """Open the folder as its user does and compare what comes out, in words, with what the source says.

    `made` is what the package was made of, `shown` and `reference` are the source as the package sees it, and `judged`
    what the package answered to the texts of `reference`.
    """
    import transformers

    from converter.errors import ExportError

    longest = min(made.max_length, runner.max_length or made.max_length)
    try:
        tokenizer = load_tokenizer(folder)
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        task = type(shown.task)(config, shown.task.prompt)
        task.read_folder(folder, tokenizer, longest)
    except ExportError as error:
        return Check(NAME, Status.FAIL, detail=f"the folder does not open: {error}")
    except Exception as error:  # noqa: BLE001 - transformers and tokenizers raise classes of their own
        return Check(NAME, Status.FAIL, detail=f"the folder does not open: {error}".splitlines()[0][:300])
    fault = next(_Package(folder, made, shown, longest, tokenizer, task, reference.probes).faults(), None)
    if fault:
        return Check(NAME, Status.FAIL, detail=fault)
    n = len(reference.judged)
    same = _same_words(task, shown.task, reference, judged)
    detail = (
        f"opened as its user opens it, the package reads {n} texts as the source does and names its answers alike "
        f"({same} of {n} the same in words)"
    )
    return Check(NAME, Status.PASS, float(same), float(n), detail)


def _same_words(task: "Task", owner: "Task", reference: Reference, judged: "Sequence[Judged]") -> int:
    found = task.decisions(judged) if judged else []
    pairs = zip(reference.judged, reference.decisions, found, strict=True)
    return sum(owner.describe(wanted, j.example) == task.describe(mine, j.example) for j, wanted, mine in pairs)


def _table(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _list(names: Sequence[str]) -> str:
    return shorten(", ".join(names) or "not at all", 100)


def _text(probe: Probe) -> str:
    return repr(shorten(probe.example.text))
