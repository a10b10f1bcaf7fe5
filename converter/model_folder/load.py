"""A local folder or Hub id to a `TorchModel`: safetensors only, no remote code, no pickle, float32."""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.artifact import Provenance, TorchModel
from converter.errors import SourceError
from converter.graphs import ENCODER_INPUTS
from converter.jsonfile import read_table
from converter.model_folder.architecture import check_model_type, choose_task
from converter.model_folder.locate import encoder_folder_of, locate
from converter.model_folder.replacement_map import StandIns
from converter.model_folder.shape_map import ShapeMap
from converter.registry import task_class

if TYPE_CHECKING:
    import torch

    from converter.task import Task

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
WANTED = "a model's folder holds config.json, model.safetensors and a tokenizer"
LEAST_VOCABULARY = 0.75
"""Share of the embeddings that a model's own tokenizer uses at least: tables are padded, but by a few per cent."""
_NUMBER = re.compile(r"\.\d+\.")
UNBOUNDED = 10**6
"""Tokenizers without a limit state about 1e30."""


def load_source(model: str, *, revision: str | None = None, task: str | None = None) -> TorchModel:
    """Load `model` (a folder, else a Hub id at `revision`).

    Raises:
        SourceError: nothing there, damaged, refused, or of a kind that cannot be exported; says what to do.
        UsageError: `task` is unknown, or the model has no head for it.

    """
    from converter.model_folder.sentence_head import read_sentence_head

    folder, resolved = locate(model, revision)
    encoder_folder = encoder_folder_of(folder)
    raw = _check_files(encoder_folder)
    head = read_sentence_head(folder)
    name = choose_task(raw, task, has_sentence_head=head is not None, where=str(encoder_folder))
    module, shape_map = _load_module(encoder_folder, task_class(name))
    tokenizer = _load_tokenizer(encoder_folder, module)
    made_task = task_class(name)(module.config)
    source = TorchModel(
        module=module,
        task=made_task,
        tokenizer=tokenizer,
        input_names=_agree_on_inputs(module, tokenizer),
        max_length=_max_length(encoder_folder, folder, module, tokenizer),
        provenance=Provenance(
            id=model if resolved else Path(model).resolve().name,
            revision=resolved,
            weights_sha256=_hashes(encoder_folder),
            licence=_licence(folder),
            dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "float32"),
        ),
        folder=folder,
        head=head if name == "feature-extraction" else None,
        shape_map=shape_map,
    )
    source.verify()
    return source


def _check_files(folder: Path) -> dict[str, Any]:
    """Return config.json's table once everything needed is there and nothing is refused."""
    if not folder.is_dir() or not any(folder.iterdir()):
        raise SourceError("the folder is empty", where=str(folder), hint=WANTED)
    raw = read_table(folder / "config.json")
    if raw.get("auto_map"):
        raise SourceError(
            "the model needs remote code, which is never run",
            where=str(folder),
            hint="export a model that transformers itself implements",
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickles = [f.name for f in sorted(folder.iterdir()) if f.suffix in PICKLES]
        if pickles:
            raise SourceError(
                f"{pickles[0]} is a pickle, which can run code when it is read; it was not opened",
                where=str(folder),
                hint='where you trust it: python -c "from transformers import AutoModel as M; '
                "M.from_pretrained('FOLDER', weights_only=True).save_pretrained('NEW')\" with its own class",
            )
        raise SourceError("there are no weights (*.safetensors)", where=str(folder), hint=WANTED)
    for file in weights:
        _check_safetensors(file)
    check_model_type(raw, str(folder / "config.json"))
    return raw


def _check_safetensors(file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            opened.keys()
    except (SafetensorError, OSError) as error:
        raise SourceError(
            f"the weights cannot be read ({error})",
            where=str(file),
            hint="the file is damaged or cut off: fetch it again",
        ) from None


def _load_module(folder: Path, task: "type[Task]") -> "tuple[torch.nn.Module, ShapeMap | None]":
    import torch
    import transformers

    from converter.model_folder.compressed import load_pruned

    shape_map, stand_ins = ShapeMap.load(folder), StandIns.load(folder)
    auto = getattr(transformers, task.auto_class)
    try:
        config = _config(folder)
        if shape_map is not None or stand_ins is not None:
            module = load_pruned(folder, auto, config, _attention(config), shape_map, stand_ins or StandIns())
            return module, shape_map
        module, info = auto.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that the mismatch is listed; `_refuse_partial` refuses it by name
            attn_implementation=_attention(config),
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(
            f"the model does not load ({_first_line(error)})",
            where=str(folder),
            hint="the weights must match config.json",
        ) from None
    _refuse_partial(info, folder, has_head=task.architecture != "Model")
    _refuse_left_over(info["unexpected_keys"], module, folder)
    return module.eval().requires_grad_(requires_grad=True), None


def _config(folder: Path) -> Any:
    import transformers

    try:
        return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # noqa: BLE001 - each configuration class checks its fields in its own way
        raise SourceError(
            f"config.json is not valid ({_first_line(error)})",
            where=str(folder / "config.json"),
            hint="compare it with that of the original model",
        ) from None


def _attention(config: Any) -> str:
    """Return `sdpa` where the architecture has it."""
    from transformers import AutoModel

    cls = AutoModel._model_mapping.get(type(config), None)  # noqa: SLF001 - the only map from config to class
    cls = cls[0] if isinstance(cls, tuple) else cls
    return "sdpa" if getattr(cls, "_supports_sdpa", False) else "eager"


def _refuse_partial(info: Mapping[str, Any], folder: Path, *, has_head: bool) -> None:
    """A weight that was not in the file is random: that is refused, whatever transformers thinks of it.

    Weights that are really tied to others are not among the missing. A pooler is nothing that is exported of a model
    without a head; a head reads it.
    """
    missing = sorted(n for n in info["missing_keys"] if has_head or ".pooler." not in f".{n}")
    wrong = [str(m[0] if isinstance(m, tuple) else m) for m in info.get("mismatched_keys", ())]
    if wrong:
        raise SourceError(
            f"{wrong[0]} has another shape than config.json says",
            where=str(folder),
            hint="the weights must match config.json",
        )
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise SourceError(
            f"the weights lack {missing[0]}{more}: the model would answer at random",
            where=str(folder),
            hint="was the head trained? give a fine-tuned model, or another --task",
        )


def _refuse_left_over(names: Iterable[str], module: "torch.nn.Module", folder: Path) -> None:
    """Refuse weights of more layers than config.json counts: the model would be another one, and nobody would see.

    Heads that the task does not use are left over too, and are nobody's loss.
    """
    prefix = f"{getattr(module, 'base_model_prefix', '')}."
    known = {_NUMBER.sub(".N.", name).removeprefix(prefix) for name in module.state_dict()}
    layers = sorted(n for n in names if _NUMBER.search(n) and _NUMBER.sub(".N.", n).removeprefix(prefix) in known)
    if layers:
        more = f" and {len(layers) - 1} more" if len(layers) > 1 else ""
        raise SourceError(
            f"the weights hold {layers[0]}{more}, for which config.json has no layer",
            where=str(folder),
            hint="the weights must match config.json",
        )


def _load_tokenizer(folder: Path, module: "torch.nn.Module") -> Any:
    import transformers

    wanted = ("tokenizer.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "vocab.json")
    if not any((folder / name).is_file() for name in wanted):
        raise SourceError("there is no tokenizer", where=str(folder), hint=f"one of {', '.join(wanted)} is needed")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exception
        raise SourceError(
            f"the tokenizer does not load ({_first_line(error)})",
            where=str(folder),
            hint="its files are damaged or cut off: fetch them again",
        ) from None
    if not tokenizer.is_fast:
        raise SourceError(
            "the tokenizer has no fast form (tokenizer.json), which every package needs",
            where=str(folder),
            hint="convert it: AutoTokenizer.from_pretrained(FOLDER, use_fast=True).save_pretrained(FOLDER)",
        )
    largest = max(tokenizer.get_vocab().values())
    rows = module.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    if largest >= rows:
        raise SourceError(
            f"the tokenizer has ids up to {largest}, the model {rows} embeddings",
            where=str(folder),
            hint="the tokenizer is another model's",
        )
    if len(tokenizer) < LEAST_VOCABULARY * rows:
        raise SourceError(
            f"the tokenizer has {len(tokenizer)} tokens, the model {rows} embeddings",
            where=str(folder),
            hint="the tokenizer is another model's, or cut off",
        )
    if tokenizer.pad_token_id is None:
        raise SourceError(
            "the tokenizer has no pad token", where=str(folder), hint="set pad_token in tokenizer_config.json"
        )
    return tokenizer


def _agree_on_inputs(module: "torch.nn.Module", tokenizer: Any) -> tuple[str, ...]:
    """Return the inputs that the tokenizer gives and the model takes; the tokenizer gives no others from now on.

    DistilBERT takes no token types, yet many of its checkpoints are saved with BERT's tokenizer, which gives them.
    """
    import inspect

    accepted = inspect.signature(module.forward).parameters
    names = tuple(n for n in ENCODER_INPUTS if n in tokenizer.model_input_names and n in accepted)
    tokenizer.model_input_names = list(names)
    return names


def _max_length(encoder: Path, folder: Path, module: "torch.nn.Module", tokenizer: Any) -> int:
    """Return the longest input: the least of what positions, tokenizer and sentence-transformers allow."""
    config: Any = module.config
    found = [int(tokenizer.model_max_length)] if tokenizer.model_max_length < UNBOUNDED else []
    positions = getattr(config, "max_position_embeddings", None)
    if positions:
        found.append(int(positions) - _unused_positions(module))
    sentence = next(
        (p for p in (encoder / "sentence_bert_config.json", folder / "sentence_bert_config.json") if p.is_file()), None
    )
    if sentence is not None:
        limit = read_table(sentence).get("max_seq_length")
        found += [limit] if isinstance(limit, int) and limit > 0 else []
    return max(4, min(found, default=512))


def _unused_positions(module: "torch.nn.Module") -> int:
    """Return how many rows of the table no token gets: RoBERTa and its kin count positions from the padding id on."""
    import torch

    for name, part in module.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, torch.nn.Embedding):
            return 0 if part.padding_idx is None else part.padding_idx + 1
    return 0


def _hashes(folder: Path) -> dict[str, str]:
    return {f.name: sha256_file(f) for f in sorted(folder.glob("*.safetensors"))}


def sha256_file(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _licence(folder: Path) -> str | None:
    """Return the licence that the model card's front matter names."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return None
    for line in lines[1:]:
        if line.strip() == "---":
            return None
        key, _, value = line.partition(":")
        if key.strip() in {"license", "licence"}:
            return value.strip() or None
    return None


def _first_line(error: BaseException) -> str:
    if isinstance(error, KeyError):  # says the key and nothing else
        return f"{error} is not known"
    return (str(error).strip().splitlines() or [type(error).__name__])[0].replace(str(Path.cwd()) + os.sep, "")[:300]
