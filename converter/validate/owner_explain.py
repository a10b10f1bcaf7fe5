"""What a difference from the owner's library comes from, found by trying."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.examples import Example
from converter.graphs import VOCABULARY, names_along
from converter.model_folder.locate import encoder_folder_of, sentence_modules
from converter.owner.contract import OwnerLibrary, Question, without_adapter
from converter.scoring.relative_error import relative_error
from converter.validate.difference import TOLERANCE, Difference

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from converter.artifact import TorchModel


def explain(source: "TorchModel", library: OwnerLibrary, found: Difference, scales: Mapping[str, float]) -> str:
    """Return a sentence that names the file, field or module; else what is alike and what is not."""
    hidden = tuple(at for at, _ in found.probe.encoding.masked) if names_along(source.task.outputs, VOCABULARY) else ()
    question = Question(found.probe.example, hidden)
    said = _about_input(source, library, question, found.probe.encoding.inputs)
    if said:
        return said
    if found.batched:
        return _about_padding(source, library)
    for said, outputs in library.variants(question):
        seen = dict(source.task.compared(outputs, found.probe.encoding))
        if seen.keys() & found.ours.keys() and _alike(found.ours, seen, scales):
            return said
    return _about_labels(source, library, found) or _about_layers(source, library, question)


def _alike(
    ours: "Mapping[str, NDArray[Any]]", theirs: "Mapping[str, NDArray[Any]]", scales: Mapping[str, float]
) -> bool:
    return all(relative_error(ours[n], theirs[n], scales[n]) <= TOLERANCE for n in theirs if n in ours)


def _about_input(
    source: "TorchModel", library: OwnerLibrary, question: Question, ours: "Mapping[str, NDArray[np.int64]]"
) -> str:
    """Say how the token ids and what goes with them differ; empty where they are the same."""
    theirs = library.fed(question)
    if not np.array_equal(ours["input_ids"], theirs["input_ids"]):
        return _about_ids(source, library, question, ours["input_ids"], theirs["input_ids"])
    for name, value in theirs.items():
        if name in {"special_tokens_mask", "offset_mapping"}:
            continue
        if name not in ours and value.any() and name in _parameters(source):
            return f"the library feeds the model {name}, our reading does not"
        if name in ours and not np.array_equal(ours[name], value):
            return f"{name} is {_head(value)} in the library, {_head(ours[name])} in our reading"
    return ""


def _parameters(source: "TorchModel") -> set[str]:
    import inspect

    return set(inspect.signature(source.module.forward).parameters)


def _head(values: "NDArray[np.int64]", n: int = 8) -> str:
    return f"[{', '.join(str(int(v)) for v in values[:n])}{', …' if len(values) > n else ''}]"


def _about_ids(
    source: "TorchModel",
    library: OwnerLibrary,
    question: Question,
    ours: "NDArray[np.int64]",
    theirs: "NDArray[np.int64]",
) -> str:
    prompt = _about_prompt(library, question, ours)
    if prompt:
        return prompt
    cased = _about_case(source, question.example, theirs)
    if cased:
        return cased
    if len(ours) != len(theirs) and _is_cut(ours, theirs):
        limit = len(theirs) if len(theirs) < len(ours) else "longer"
        named = _limit_file(source.folder, len(theirs)) if len(theirs) < len(ours) else _limit_file(source.folder, None)
        said = f"at {limit} tokens" if limit != "longer" else f"no earlier than at {len(theirs)} tokens"
        return f"the library cuts texts {said}, our reading at {len(ours)} ({named})"
    place = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    mine, other = (
        library.tokenizer.convert_ids_to_tokens([int(i) for i in ids[place : place + 1]]) for ids in (ours, theirs)
    )
    return (
        f"the tokenizer's own defaults are read otherwise (tokenizer_config.json, tokenizer.json): token {place} is "
        f"{other[0] if other else 'none'!r} in the library, {mine[0] if mine else 'none'!r} in our reading"
    )


def _about_prompt(library: OwnerLibrary, question: Question, ours: "NDArray[np.int64]") -> str:
    bare = getattr(library, "fed_without_prompt", None)
    if not library.prompt or bare is None or not np.array_equal(bare(question)["input_ids"], ours):
        return ""
    return (
        f"config_sentence_transformers.json: the prompt {library.prompt!r} (default_prompt_name) stands before every "
        "text in the library, not in our reading"
    )


def _about_case(source: "TorchModel", example: Example, theirs: "NDArray[np.int64]") -> str:
    lower = replace(
        example,
        text=example.text.lower(),
        pair=None if example.pair is None else example.pair.lower(),
        words=None if example.words is None else tuple(w.lower() for w in example.words),
    )
    if lower == example:
        return ""
    made = source.task.encode(source.tokenizer, lower, source.max_length).inputs["input_ids"]
    if not np.array_equal(made, theirs):
        return ""
    rooms = (source.folder, encoder_folder_of(source.folder))
    files = [
        f
        for name in ("sentence_bert_config.json", "tokenizer_config.json")
        for f in dict.fromkeys(r / name for r in rooms)
    ]
    named = next((f.name for f in files if _table(f).get("do_lower_case")), "tokenizer_config.json")
    return f"{named}: do_lower_case makes texts lower-case in the library, not in our reading"


def _is_cut(ours: "NDArray[np.int64]", theirs: "NDArray[np.int64]") -> bool:
    """Tell whether one is the other's beginning, but for a special token at its end."""
    shorter, longer = sorted((ours, theirs), key=len)
    return bool(np.array_equal(shorter[:-1], longer[: len(shorter) - 1]))


def _limit_file(folder: Path, limit: int | None) -> str:
    """Return the file and field that state such a limit."""
    rooms = dict.fromkeys((folder, encoder_folder_of(folder)))
    for room in rooms:
        stated = _table(room / "sentence_bert_config.json").get("max_seq_length")
        if isinstance(stated, int) and limit in {None, stated}:
            return "sentence_bert_config.json: max_seq_length"
    return "tokenizer_config.json: model_max_length"


def _table(path: Path) -> dict[str, Any]:
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return made if isinstance(made, dict) else {}


def _about_padding(source: "TorchModel", library: OwnerLibrary) -> str:
    side = library.tokenizer.padding_side
    after = f", or one of the modules {', '.join(_listed(source.folder))}" if source.head is not None else ""
    return (
        f"alone the text is answered alike, in a batch not: tokenizer_config.json: padding_side is {side}, and padding "
        f"changes our answer (the attention mask{after})"
    )


def _listed(folder: Path) -> list[str]:
    return [m.path or m.kind for m in sentence_modules(folder)[1:]]


def _about_labels(source: "TorchModel", library: OwnerLibrary, found: Difference) -> str:
    if source.task.labels == library.labels or not source.task.labels:
        return ""
    ours, theirs = found.ours[found.output], found.theirs[found.output]
    if ours.shape != theirs.shape or not np.allclose(np.sort(ours), np.sort(theirs), atol=1e-4):
        return ""
    pairs = [(i, a, b) for i, (a, b) in enumerate(zip(library.labels, source.task.labels, strict=False)) if a != b]
    place, right, wrong = pairs[0] if pairs else (0, "", "")
    return f"config.json: id2label: class {place} is {right!r} in the library, {wrong!r} in our reading"


def _about_layers(source: "TorchModel", library: OwnerLibrary, question: Question) -> str:
    """Follow the same token ids through both models, to the first layer whose output differs."""
    fed = library.fed(question)
    ours, theirs = _layer_outputs(source.module, fed), _layer_outputs(library.encoder, fed)
    names = [n for n in ours if n in theirs]
    differing = next((n for n in names if _far(ours[n], theirs[n])), None)
    if differing is None:
        if source.head is not None:
            listed = ", ".join(_listed(source.folder))
            return f"the encoder answers alike, the modules after it do not (modules.json: {listed})"
        return "the same token ids and layers give other answers: it is in what follows the last layer"
    fields = _config_difference(source, library)
    weight = _weight_difference(source.module, library.encoder)
    why = fields or weight or "of the same weights and config.json"
    return f"the token ids are the same, the layer {differing or 'of the model'} is the first that differs: {why}"


def _layer_outputs(module: "torch.nn.Module", fed: "Mapping[str, NDArray[np.int64]]") -> "dict[str, torch.Tensor]":
    """Return what every layer gave, in the order in which they ended (the innermost first)."""
    import inspect

    import torch

    base = without_adapter(module)
    prefix = f"{getattr(base, 'base_model_prefix', '')}."
    made: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: Any, _given: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) and output else output
            if isinstance(first, torch.Tensor):
                made.setdefault(name, first.detach())

        return hook

    hooks = [part.register_forward_hook(keep(n.removeprefix(prefix))) for n, part in base.named_modules() if n]
    accepted = inspect.signature(base.forward).parameters
    try:
        with torch.inference_mode():
            base(**{n: torch.from_numpy(v[None].astype(np.int64)) for n, v in fed.items() if n in accepted})
    finally:
        for one in hooks:
            one.remove()
    return made


def _far(ours: "torch.Tensor", theirs: "torch.Tensor") -> bool:
    if ours.shape != theirs.shape:
        return True
    if not ours.numel() or not ours.is_floating_point():
        return False
    scale = float(theirs.abs().max()) or 1.0
    return not float((ours - theirs).abs().max()) <= TOLERANCE * scale


def _config_difference(source: "TorchModel", library: OwnerLibrary) -> str:
    ours, theirs = source.config.to_dict(), library.encoder.config.to_dict()
    skipped = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "id2label", "label2id"}
    differ = [n for n in theirs if n in ours and n not in skipped and not n.startswith("_") and ours[n] != theirs[n]]
    if not differ:
        return ""
    name = differ[0]
    return f"config.json: {name} is {theirs[name]!r} in the library, {ours[name]!r} in our reading"


def _weight_difference(ours: "torch.nn.Module", theirs: "torch.nn.Module") -> str:
    import torch

    mine, other = _weights(ours), _weights(theirs)
    differ: Sequence[str] = [n for n in other if n in mine and not torch.equal(mine[n], other[n])]
    if differ:
        more = f" and {len(differ) - 1} more" if len(differ) > 1 else ""
        return f"the weights {differ[0]}{more} are not the same (model.safetensors)"
    lacking = sorted(set(other) - set(mine))
    return f"our reading lacks the weights {lacking[0]}" if lacking else ""


def _weights(module: "torch.nn.Module") -> "dict[str, torch.Tensor]":
    base = without_adapter(module)
    prefix = f"{getattr(base, 'base_model_prefix', '')}."
    return {n.removeprefix(prefix): t for n, t in base.state_dict().items()}
