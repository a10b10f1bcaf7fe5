"""The proof that a device gets the ids that the model was trained with: hard texts and the probes, one by one."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.device.hard_texts import HardText, hard_texts
from converter.device.tables import escaped
from converter.device.tokenize import DeviceTokenizer, Encoded
from converter.device.tokenizer.models import decoder_rows
from converter.validate.answers import shorten
from converter.validate.checks import Check, Status

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from converter.artifact import TorchModel
    from converter.reference import Probe

CHECK = "device tokenizer"
LEAST = 0.99
"""Below this share of equal ids no tokenizer is shipped for devices: an app is better off with the original library."""
PARITY_FILE = "parity.tsv"
N_NAMED = 5


@dataclass(frozen=True)
class Expected:
    """A text, and what Hugging Face's tokenizer makes of it."""

    hard: HardText
    ids: list[int]
    types: list[int]
    decoded: str | None
    """The text of the ids; None where the tables do not say how ids become text."""


@dataclass(frozen=True)
class Parity:
    """How often the ids are the same."""

    n: int
    n_hard: int
    differing: tuple[str, ...]
    """The kind and the text of each that got different ids."""

    @property
    def share(self) -> float:
        return 1 - len(self.differing) / self.n if self.n else 0.0


def expected(backend: "Tokenizer", max_length: int) -> list[Expected]:
    """Ask the original tokenizer for the ids of the hard texts, and for the text of those ids."""
    own = uncut(backend)
    decodes = bool(decoder_rows(json.loads(backend.to_str())["decoder"]))
    # Ordinary added tokens are cut out of a text too, before anything else is.
    added = sorted(own.get_added_tokens_decoder().values(), key=lambda t: (not t.special, t.content))
    made = []
    for hard in hard_texts([t.content for t in added]):
        own.enable_truncation(min(hard.max_length or max_length, max_length))
        found = own.encode(hard.text, hard.pair)
        made.append(Expected(hard, found.ids, found.type_ids, own.decode(found.ids) if decodes else None))
    return made


def prove(
    tokenizer: DeviceTokenizer,
    wanted: Sequence[Expected],
    probes: "Sequence[Probe]",
    max_length: int,
    *,
    only_second: bool = False,
    prompt: str = "",
) -> Parity:
    """Compare the shipped tables' ids with the original's: on the hard texts, and on the probes that have no masks.

    `only_second`: of a pair, the second text is cut (a question's context). `prompt` stands before every probe.
    """
    differing = []
    for e in wanted:
        found = tokenizer.encode(e.hard.text, e.hard.pair, min(e.hard.max_length or max_length, max_length))
        decoded = tokenizer.decode(e.ids) if tokenizer.decodes else None
        if found != Encoded(e.ids, e.types) or decoded != e.decoded:
            differing.append(f"{e.hard.kind}: {_shown(e.hard.text, e.hard.pair)}")
    plain = [p for p in probes if not p.encoding.masked and not p.example.window]
    for p in plain:
        text = prompt + (p.example.text if p.example.words is None else " ".join(p.example.words))
        # A question always has a context, an empty one where none is given.
        pair = p.example.pair or "" if only_second else p.example.pair
        found = tokenizer.encode(text, pair, max_length, only_second=only_second)
        if found.ids != p.encoding.inputs["input_ids"].tolist():
            differing.append(f"your text: {_shown(text, pair)}")
    return Parity(len(wanted) + len(plain), len(wanted), tuple(differing))


def _shown(text: str, pair: str | None) -> str:
    # Hugging Face takes an empty second text for none, its tables for a second one: the text alone would not tell.
    return repr(shorten(text if pair is None else f"{text} ⏎ {pair or '(an empty second text)'}", 60))


def parity_check(parity: Parity) -> Check:
    """PASS where the shipped tokenizer may be used in place of the original; every difference is named."""
    equal = parity.n - len(parity.differing)
    detail = (
        f"the tokenizer tables for devices give the ids of Hugging Face's tokenizer for {equal} of {parity.n} texts "
        f"({parity.n_hard} of them edge cases)"
    )
    if parity.differing:
        detail += f"; other ids for {'; '.join(parity.differing[:N_NAMED])}"
    status = Status.PASS if parity.share >= LEAST else Status.NOT_RUN
    if status is Status.NOT_RUN:
        detail += "; too many differ, so the package has no tables"
    return Check(CHECK, status, parity.share, LEAST, detail)


def write_parity(wanted: Iterable[Expected], folder: Path, max_length: int) -> None:
    """Write the hard texts and their ids as a table that the samples' self-test reads on any device."""
    lines = []
    for e in wanted:
        pair = "-" if e.hard.pair is None else f"+{escaped(e.hard.pair)}"
        ids, types = (" ".join(map(str, values)) for values in (e.ids, e.types))
        length = min(e.hard.max_length or max_length, max_length)
        decoded = () if e.decoded is None else (escaped(e.decoded),)
        lines.append("\t".join((str(length), escaped(e.hard.text), pair, ids, types, *decoded)))
    (folder / PARITY_FILE).write_bytes(("\n".join(lines) + "\n").encode())


def facts(parity: Parity) -> dict[str, Any]:
    """Return what the manifest keeps."""
    return {"texts": parity.n, "hard_texts": parity.n_hard, "share": parity.share, "differing": list(parity.differing)}


def uncut(backend: "Tokenizer") -> "Tokenizer":
    """Return a copy that neither cuts nor pads: transformers leaves in a tokenizer what a call has asked for."""
    own = type(backend).from_str(backend.to_str())
    own.no_truncation()
    own.no_padding()
    return own


def backend_of(source: "TorchModel") -> "Tokenizer":
    backend: Tokenizer = source.tokenizer.backend_tokenizer
    return backend
