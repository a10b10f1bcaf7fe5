"""What a package ships beside its model: tokenizer and labels, held to the source's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import ExportError
from converter.jsonfile import read_json
from converter.validate.checks import Status
from converter.validate.interface import check_tokenizer, load_tokenizer

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.reference import Probe

Fault = tuple[str, str]
"""What is wrong and the file; both empty where nothing is."""
SOUND: Fault = ("", "")


def tokenizer_fault(
    folder: Path, manifest: Mapping[str, Any], source: "TorchModel", probes: "Sequence[Probe]"
) -> Fault:
    """Return how the shipped tokenizer differs from the source's: other ids, or other defaults of its own."""
    made = check_tokenizer(folder, source, probes)
    if made.status is Status.FAIL:
        return made.detail, "tokenizer.json"
    shipped, own = load_tokenizer(folder), source.tokenizer
    longest = manifest.get("max_length")
    wanted = longest if isinstance(longest, int) else source.max_length
    if shipped.model_max_length < min(wanted, own.model_max_length):
        return f"it cuts texts at {shipped.model_max_length} tokens, the model takes {wanted}", "tokenizer_config.json"
    for name in ("padding_side", "truncation_side", "pad_token_id", "cls_token_id", "sep_token_id", "unk_token_id"):
        before, after = getattr(own, name, None), getattr(shipped, name, None)
        if before != after:
            return f"its {name} is {after!r}, the source's {before!r}", "tokenizer_config.json"
    return SOUND


def label_fault(folder: Path, manifest: Mapping[str, Any], source: "TorchModel") -> Fault:
    """Return where the shipped names of the classes differ from the source's, or their order."""
    wanted = list(source.task.labels)
    if not wanted:
        return SOUND
    given: list[tuple[str, Any]] = []
    try:
        named = read_json(folder / "config.json").get("id2label", {})
    except (ExportError, OSError, ValueError) as error:
        return f"config.json cannot be read ({error})", "config.json"
    given.append(("config.json", [named.get(str(i)) for i in range(len(wanted))]))
    path = folder / "labels.txt"
    if path.is_file():
        given.append(("labels.txt", path.read_text(encoding="utf-8").splitlines()))
    given.append(("manifest.json", list(manifest.get("labels", wanted))))
    for file, found in given:
        if found != wanted:
            place = next((i for i, (a, b) in enumerate(zip(wanted, found, strict=False)) if a != b), len(found))
            other = found[place] if place < len(found) else "nothing"
            return f"class {place} is {other!r} there, {wanted[place]!r} in the source", file
    return SOUND
