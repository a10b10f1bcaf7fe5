"""A local folder or Hub id to a `TorchModel`: safetensors only, no remote code, no pickle, float32."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.artifact import Provenance, SourceCard, TorchModel
from converter.bounds.files import sha256_file
from converter.errors import ExportError, SourceError, UsageError
from converter.generate.read_settings import read_settings
from converter.graphs import MODEL, SEQUENCE
from converter.jsonfile import read_table
from converter.model_folder.adapters import Adapter, find_adapter
from converter.model_folder.architecture import ANY_TASK, check_model_type, choose_task
from converter.model_folder.causes import refusal
from converter.model_folder.contents import (
    WEIGHTS,
    check_config,
    check_files,
    check_inputs,
    check_keys,
    check_remote_code,
    weight_files,
)
from converter.model_folder.fields import Configuration, check_fields
from converter.model_folder.labels import check_labels
from converter.model_folder.licence import joined, read_card
from converter.model_folder.links import check_links
from converter.model_folder.locate import SentenceModule, encoder_folder_of, locate, sentence_modules
from converter.model_folder.offload import Placement
from converter.model_folder.plausible import check_entries, check_settings, check_size
from converter.model_folder.replacement_map import StandIns
from converter.model_folder.said import first_line, is_panic
from converter.model_folder.sentence_config import RERANKER, SentenceFolder, read_sentence_folder
from converter.model_folder.sentence_steps import check_modules, read_head
from converter.model_folder.shape_map import ShapeMap
from converter.model_folder.tokenizer import agree_on_inputs, has_tokenizer, load_tokenizer, max_length, prompt_length
from converter.model_folder.tried import try_texts
from converter.model_folder.weights import check_weights
from converter.model_folder.weights_header import stored_in
from converter.model_folder.writing_tokenizer import load_writing_tokenizer
from converter.registry import task_class

if TYPE_CHECKING:
    import torch

    from converter.task import Task

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
ADAPTER_WEIGHTS = "adapter_model.safetensors"
TRANSFORMER = SentenceModule("Transformer", "", "sentence_transformers.models.Transformer", "0")
WANTED = "a model's folder holds config.json, model.safetensors and a tokenizer"


def load_source(
    model: str,
    *,
    revision: str | None = None,
    task: str | None = None,
    prompt: str | None = None,
    language: str | None = None,
    placement: Placement | None = None,
    longest: int | None = None,
) -> TorchModel:
    """Load `model` (a folder, else a Hub id at `revision`).

    `prompt` names one of its prompts; without it the model's default one stands before every text. `language` is what
    a translator of several answers in. `placement`: weights for which there is no room stay on disk. `longest`: it is
    tried on texts of at most so many tokens; None: of as many as it takes.

    Raises:
        SourceError: nothing there, damaged, refused, or of a kind that cannot be exported; says what to do.
        UsageError: `task` is unknown, or the model has no head for it; the model has no such prompt.

    """
    folder, resolved = locate(model, revision)
    try:
        name = model if resolved else Path(model).resolve().name
        return _read(folder, name, resolved, task, prompt, language, placement, longest)
    except (ExportError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        said = {"kind": type(error).__name__, "detail": first_line(error)}
        raise refusal("unforeseen", folder, said) from error


def _read(
    folder: Path,
    name: str,
    revision: str | None,
    task: str | None,
    prompt: str | None,
    language: str | None,
    placement: Placement | None,
    longest: int | None,
) -> TorchModel:
    sentence = _read_checked(folder)
    own = encoder_folder_of(folder)
    adapter = find_adapter(own)
    encoder = own if adapter is None else adapter.base
    raw = _check_files(encoder)
    wanted = task or (adapter.task if adapter else None)
    kind = choose_task(raw, wanted, sentence=sentence.kind if sentence else None, where=str(encoder))
    if task_class(kind).kind != "encoder":
        read_settings(encoder)  # transformers refuses most of what it refuses, and does not say in which file
    module, shape_map = _load_module(encoder, task_class(kind), raw, adapter, placement)
    words = own if adapter is None or has_tokenizer(own) else encoder
    if task_class(kind).kind != "encoder":
        writer: Any = task_class(kind)(module.config)
        writer.chosen, writer.language = prompt, language
        tokenizer = load_writing_tokenizer(words, module, causal=writer.kind == "decoder")
        # How it generates stands beside the weights: an adapter's folder may say nothing of it.
        writer.read_folder(encoder, tokenizer, max_length(module, tokenizer, None))
        made = _writer(module, writer, tokenizer, folder, _provenance(folder, encoder, own, name, revision, raw))
        return replace(made, card=_card(folder, encoder), shape_map=shape_map)
    if language is not None:
        raise UsageError(f"a model for {kind} answers in no language", where="--language", hint="leave it out")
    tokenizer = load_tokenizer(words, module, sentence)
    source = TorchModel(
        module=module,
        task=task_class(kind)(module.config),
        tokenizer=tokenizer,
        input_names=agree_on_inputs(module, tokenizer),
        max_length=max_length(module, tokenizer, sentence),
        provenance=_provenance(folder, encoder, own, name, revision, raw),
        folder=folder,
        shape_map=shape_map,
        card=_card(folder, encoder),
    )
    source = _as_sentence_transformers(source, sentence or _reranker(raw, kind) or SentenceFolder(()), prompt)
    source.verify()
    _check_dropping(source)
    try_texts(source, longest)
    return source


def _read_checked(folder: Path) -> SentenceFolder | None:
    """Check what the folder holds; returns what it says of itself where it is of sentence-transformers."""
    check_links(folder)
    check_entries(folder)
    sentence = read_sentence_folder(folder)
    if sentence is not None:
        check_modules(sentence, folder)
    for part in dict.fromkeys((folder, encoder_folder_of(folder))):
        _check_not_empty(part)
        check_files(part)
    return sentence


def _card(folder: Path, encoder: Path) -> SourceCard:
    """Return what is said of the model's use; the base of an adapter has a card of its own."""
    own = read_card(folder)
    return own if encoder.is_relative_to(folder) else joined(own, read_card(encoder))


def _provenance(
    folder: Path, encoder: Path, own: Path, name: str, revision: str | None, raw: Mapping[str, Any]
) -> Provenance:
    """`own` is where an adapter lies, if there is one: then `encoder`, its base model, is elsewhere."""
    adapter = _hashes(own, ADAPTER_WEIGHTS) if (own / ADAPTER_WEIGHTS).is_file() else {}
    modules = [f"{m.path}/{WEIGHTS}" for m in sentence_modules(folder)[1:] if (folder / m.path / WEIGHTS).is_file()]
    return Provenance(
        id=name,
        revision=revision,
        weights_sha256=_hashes(encoder) | adapter | {name: sha256_file(folder / name) for name in modules},
        licence=_card(folder, encoder).licence,
        dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "float32"),
    )


def _writer(
    module: "torch.nn.Module", task: "Task", tokenizer: Any, folder: Path, provenance: Provenance
) -> TorchModel:
    """Return a model that writes text, with the sizes of its cache."""
    from converter.generate.modules import cache_facts

    made = TorchModel(
        module=module,
        task=task,
        tokenizer=tokenizer,
        input_names=tuple(tokenizer.model_input_names),
        max_length=max_length(module, tokenizer, None),
        provenance=provenance,
        folder=folder,
        cache=cache_facts(module),
    )
    made.verify()
    return made


def _check_dropping(source: TorchModel) -> None:
    """Refuse a model that gives no state for dropped tokens although its head reads every token's."""
    from converter.model_folder.dropped_tokens import TokenDropping

    one_token = not source.specs[MODEL].outputs_along(SEQUENCE)
    loops = [part for part in source.module.modules() if isinstance(part, TokenDropping)]
    if not one_token and not all(loop.restores for loop in loops):
        raise SourceError(
            f"its layers drop tokens that {source.task.name} answers for: stand_ins.json has restores = false",
            where=str(source.folder),
            hint="make it with prune.tokens from a model for this task; nothing else decides `restores`",
        )


def _reranker(raw: Mapping[str, Any], task: str) -> SentenceFolder | None:
    """Return what an older cross-encoder says of itself, in config.json alone; None for any other model."""
    told = raw.get("sentence_transformers")
    if task != "text-classification" or not (told or "sbert_ce_default_activation_function" in raw):
        return None
    path = told.get("activation_fn") if isinstance(told, Mapping) else raw.get("sbert_ce_default_activation_function")
    return SentenceFolder((TRANSFORMER,), RERANKER, activation=path)


def _as_sentence_transformers(source: TorchModel, sentence: SentenceFolder, name: str | None) -> TorchModel:
    """Give a model what stands around its encoder: modules after it and the prompt before every text."""
    of_folder = sentence.kind == RERANKER or source.task.name == ANY_TASK
    if not of_folder and name is None:  # another head of the encoder, which the folder's prompts are not for
        return source
    prompt = sentence.prompt(name)
    source.task.prompt = prompt.text
    head = None
    if sentence.modules and source.task.name == ANY_TASK:
        head = read_head(
            sentence,
            source.folder,
            source.config.hidden_size,
            left_padded=source.tokenizer.padding_side == "left",
            prompt_length=prompt_length(source.tokenizer, prompt.text, source.max_length),
        )
    kept = replace(sentence, default_prompt_name=prompt.name) if sentence.modules else None
    return replace(source, head=head, sentence=kept)


def _check_not_empty(folder: Path) -> None:
    if not folder.is_dir() or not any(folder.iterdir()):
        raise SourceError("the folder is empty", where=str(folder), hint=WANTED)
    check_entries(folder)


def _check_files(folder: Path) -> dict[str, Any]:
    """Return config.json's table once everything needed is there and nothing is refused."""
    _check_not_empty(folder)
    raw = read_table(folder / "config.json")
    check_fields(raw, Configuration, folder / "config.json")
    check_config(raw, folder / "config.json")
    weights = _weight_files(folder)
    if not weights:
        pickles = [f.name for f in sorted(folder.iterdir()) if f.suffix in PICKLES]
        if pickles:
            raise SourceError(
                f"{pickles[0]} is a pickle, which can run code when it is read; it was not opened",
                where=str(folder),
                hint='if you trust it: python -c "from transformers import AutoModel as M; '
                "M.from_pretrained('FOLDER', weights_only=True).save_pretrained('NEW')\" with its own class",
            )
        raise SourceError("there are no weights (*.safetensors)", where=str(folder), hint=WANTED)
    check_settings(raw, stored_in(weights), folder / "config.json")
    check_model_type(raw, str(folder / "config.json"))
    return raw


def _weight_files(folder: Path) -> list[Path]:
    """Return the files that are read: those of a folder that this project saved are all that there are."""
    compressed = (folder / "shape_map.json").is_file() or (folder / "stand_ins.json").is_file()
    return sorted(folder.glob("*.safetensors")) if compressed else weight_files(folder)


def _load_module(
    folder: Path,
    task: "type[Task]",
    raw: Mapping[str, Any],
    adapter: Adapter | None,
    placement: Placement | None,
) -> "tuple[torch.nn.Module, ShapeMap | None]":
    import transformers

    from converter.model_folder.compressed import load_pruned

    shape_map, stand_ins = ShapeMap.load(folder), StandIns.load(folder)
    if placement is not None and (shape_map is not None or stand_ins is not None or adapter is not None):
        raise UsageError(
            "a model that was compressed, or has an adapter, is loaded whole",
            where="--device-map",
            hint="leave it out, or merge the adapter into its model",
        )
    check_remote_code(raw, task.auto_class, folder)
    config = _config(folder)
    _check_inputs(config, folder)
    check_keys(raw, config, _class_of(config), folder / "config.json")
    if task.has_labels:
        check_labels(raw, folder / "config.json")
    auto = getattr(transformers, task.auto_class)
    try:
        whole = shape_map is None and stand_ins is None
        check_size(auto, config, _attention(config), stored_in(_weight_files(folder)), folder, whole=whole)
        if shape_map is not None or stand_ins is not None:
            module = load_pruned(folder, auto, config, _attention(config), shape_map, stand_ins or StandIns())
            return module, shape_map
        if adapter is None:
            module, info = _from_pretrained(auto, folder, config, placement)
        else:
            if adapter.labels() is not None:
                config.num_labels = adapter.labels()
            with adapter.base_alone() as base:
                module, info = _from_pretrained(auto, base, config)
            info["missing_keys"] = [n for n in info["missing_keys"] if not adapter.brings(n)]
            info["mismatched_keys"] = [m for m in info["mismatched_keys"] if not adapter.brings(str(m[0]))]
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise refusal("not-loaded", folder, {"detail": first_line(error)}) from None
    check_weights(info, module, folder, has_head=task.architecture != "Model")
    if adapter is not None:
        module = adapter.merged(module)
    return module.eval().requires_grad_(requires_grad=True), None


def _from_pretrained(
    auto: Any, folder: Path, config: Any, placement: Placement | None = None
) -> "tuple[torch.nn.Module, dict[str, Any]]":
    import torch

    module, info = auto.from_pretrained(
        folder,
        config=config,
        dtype=torch.float32,
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # so that the mismatch is listed; `check_weights` refuses it by name
        attn_implementation=_attention(config),
        **(placement.options() if placement is not None else {}),
    )
    if placement is not None:
        placement.check(module)
    return module, info


def _check_inputs(config: Any, folder: Path) -> None:
    cls = _class_of(config)
    if cls is not None:
        check_inputs(config, cls.forward, folder)


def _config(folder: Path) -> Any:
    import transformers

    try:
        return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # noqa: BLE001 - each configuration class checks its fields in its own way
        raise SourceError(
            f"config.json is not valid ({first_line(error)})",
            where=str(folder / "config.json"),
            hint="compare it with that of the original model",
        ) from None


def _class_of(config: Any) -> Any:
    """Return the encoder's class, None where transformers has none."""
    from transformers import AutoModel

    cls = AutoModel._model_mapping.get(type(config), None)  # noqa: SLF001 - the only map from config to class
    return cls[0] if isinstance(cls, tuple) else cls


def _attention(config: Any) -> str:
    """Return `sdpa` where the architecture has it."""
    return "sdpa" if getattr(_class_of(config), "_supports_sdpa", False) else "eager"


def _hashes(folder: Path, name: str | None = None) -> dict[str, str]:
    """Hash what is loaded, and nothing that only lies there."""
    files = _weight_files(folder) if name is None else [folder / name]
    return {f.name: sha256_file(f) for f in files}
