"""The modules after the encoder of a sentence-transformers folder, read in their listed order."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.jsonfile import read_table
from converter.model_folder.causes import refusal
from converter.model_folder.locate import SentenceModule
from converter.model_folder.plausible import check_entries
from converter.model_folder.sentence_config import EMBEDDER, RERANKER, SentenceFolder
from converter.model_folder.weights_header import stored_in

if TYPE_CHECKING:
    import torch

    from converter.model_folder.sentence_head import SentenceHead, Step

OWN = "sentence_transformers."
WITHOUT_ENCODER = ("StaticEmbedding", "BoW", "WordEmbeddings", "CLIPModel", "SparseStaticEmbedding")
CAUSES_BY_KIND = {
    **dict.fromkeys(("Router", "Asym"), "module-router"),
    "WeightedLayerPooling": "module-weighted-layers",
    **dict.fromkeys(
        ("MLMTransformer", "SpladePooling", "SparseAutoEncoder", "IDF", "SparseStaticEmbedding"), "module-sparse"
    ),
    **dict.fromkeys(
        ("WordWeights", "CNN", "LSTM", "LogitScore", "MultiVectorMask", "TokenPooling"), "module-word-vectors"
    ),
}
KNOWN_KINDS = ("Transformer", "Pooling", "Dense", "Normalize", "LayerNorm", "Dropout")
POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
KEYS = {
    "Pooling": {"word_embedding_dimension", "embedding_dimension", "pooling_mode", "include_prompt", *POOLING_FLAGS},
    "Dense": {"in_features", "out_features", "bias", "activation_function", "module_input_name", "module_output_name"}
    | {"use_residual"},
    "Normalize": {"module_input_name", "module_output_name"},
    "LayerNorm": {"dimension"},
    "Dropout": {"dropout"},
}
NOT_FOR_VECTORS = {"Threshold", "GLU", "MultiheadAttention", "Softmax2d"}
"""Activations of torch that need arguments, halve the vector or want images."""


def check_modules(sentence: SentenceFolder, folder: Path) -> None:
    """Refuse modules that cannot go into the graph, by name.

    Raises:
        SourceError: names the module and what to do.

    """
    listing, names = folder / "modules.json", set()
    for place, module in enumerate(sentence.modules):
        kind = module.kind
        if (folder / module.path).is_dir():
            check_entries(folder / module.path)
        if module.name in names:
            raise refusal("modules-of-one-name", listing, {"name": module.name})
        names.add(module.name)
        if not module.type.startswith(OWN):
            raise refusal("module-of-own-code", listing, {"kind": module.type})
        if place == 0 and kind in WITHOUT_ENCODER:
            raise refusal("module-without-encoder", listing, {"kind": kind})
        if kind in CAUSES_BY_KIND:
            raise refusal(CAUSES_BY_KIND[kind], listing, {"kind": kind})
        if module.kwargs:
            raise refusal("module-kwargs", listing, {"kind": kind, "names": ", ".join(map(str, module.kwargs))})
        if kind not in KNOWN_KINDS or (kind == "Transformer") != (place == 0):
            raise refusal(
                "module-unknown" if kind not in KNOWN_KINDS else "module-word-vectors", listing, {"kind": kind}
            )
    if sentence.kind == RERANKER and len(sentence.modules) > 1:
        raise refusal("module-word-vectors", listing, {"kind": f"{sentence.modules[1].kind} in a cross-encoder"})


def read_head(
    sentence: SentenceFolder, folder: Path, width: int, *, left_padded: bool, prompt_length: int
) -> "SentenceHead | None":
    """Read what makes one vector of the token vectors `[batch, length, width]`; None for a cross-encoder.

    `prompt_length`: tokens that the prompt takes at the beginning of every text.

    Raises:
        SourceError: a key, value or size that is not known, or does not fit, by name.

    """
    from converter.model_folder.sentence_head import SentenceHead, Truncate

    if sentence.kind != EMBEDDER:
        return None
    steps: list[Step] = []
    for module in sentence.modules[1:]:
        table = _table(module, folder)
        if module.kind == "Pooling":
            steps.append(_pooling(table, folder / module.path, left_padded=left_padded, prompt_length=prompt_length))
        elif module.kind != "Dropout":  # which does nothing once a model is trained
            steps.append(READERS[module.kind](table, folder / module.path))
    if sentence.truncate_dim is not None:
        steps.append(Truncate(sentence.truncate_dim))
    head = SentenceHead(steps).eval()
    _try(head, width, folder)
    return head


def _try(head: "SentenceHead", width: int, folder: Path) -> None:
    """Run the head once: sizes that do not follow each other, and a head that makes no sentence embedding, show."""
    import torch

    from converter.model_folder.sentence_head import SENTENCE

    try:
        with torch.inference_mode():
            head(torch.zeros(1, 2, width), torch.ones(1, 2, dtype=torch.long))
    except KeyError as error:
        if error.args == (SENTENCE,):
            raise refusal("no-sentence-embedding", folder / "modules.json") from None
        raise refusal("modules-do-not-fit", folder, {"detail": f"nothing makes {error}"}) from None
    except RuntimeError as error:
        detail = (str(error).splitlines() or ["?"])[0][:200]
        raise refusal("modules-do-not-fit", folder, {"detail": detail}) from None


def _table(module: SentenceModule, folder: Path) -> dict[str, Any]:
    file = folder / module.path / "config.json"
    # Normalize has nothing to say, and not every download keeps its empty folder.
    table = read_table(file) if file.is_file() or module.kind not in {"Normalize", "Dropout"} else {}
    for key in table:
        if key not in KEYS[module.kind]:
            raise refusal("module-key", file, {"kind": module.kind, "key": key})
    return table


def _pooling(table: Mapping[str, Any], folder: Path, *, left_padded: bool, prompt_length: int) -> "Step":
    from converter.model_folder.sentence_head import MODES, Pool

    named = table.get("pooling_mode")
    if named is None:
        modes = tuple(mode for flag, mode in POOLING_FLAGS.items() if table.get(flag)) or ("mean",)
    else:
        modes = (named,) if isinstance(named, str) else tuple(named) if isinstance(named, list) else (named,)
    for mode in modes or (named,):
        if mode not in MODES:
            found = {"kind": "Pooling", "key": "pooling_mode", "value": mode, "supported": ", ".join(MODES)}
            raise refusal("module-value", folder, found)
    left_out = prompt_length if table.get("include_prompt") is False else 0
    return Pool(modes, left_padded=left_padded, prompt_length=left_out)


def _dense(table: Mapping[str, Any], folder: Path) -> "Step":
    from converter.model_folder.sentence_head import Project

    return _loaded(
        "Dense",
        folder,
        (table.get("in_features"), table.get("out_features")),
        lambda: Project(
            (table["in_features"], table["out_features"]),
            _activation(table.get("activation_function", "torch.nn.modules.activation.Tanh"), folder),
            bias=bool(table.get("bias", True)),
            residual=bool(table.get("use_residual", False)),
            names=_names("Dense", table, folder),
        ),
    )


def _layer_norm(table: Mapping[str, Any], folder: Path) -> "Step":
    from converter.model_folder.sentence_head import LayerNorm

    return _loaded("LayerNorm", folder, (table.get("dimension"),), lambda: LayerNorm(table["dimension"]))


def _normalize(table: Mapping[str, Any], folder: Path) -> "Step":
    from converter.model_folder.sentence_head import Normalize

    return Normalize(_names("Normalize", table, folder))


READERS: Mapping[str, "Callable[[Mapping[str, Any], Path], Step]"] = {
    "Dense": _dense,
    "LayerNorm": _layer_norm,
    "Normalize": _normalize,
}


def _loaded(kind: str, folder: Path, sizes: Sequence[Any], make: "Callable[[], Step]") -> "Step":
    """Make a module of `sizes` and load its weights: all of them, and no others."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / "model.safetensors"
    if not file.is_file():
        raise refusal("module-without-weights", folder, {"kind": kind})
    largest = stored_in([file]).largest_size
    try:
        for size in sizes:
            if type(size) is not int or not 0 < size <= largest:
                raise ValueError(f"its size {size!r:.40} is not that of its weights")  # noqa: TRY301
        step = make()
        step.load_state_dict({name: tensor.float() for name, tensor in load_file(file).items()})
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        detail = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise refusal("module-damaged", folder, {"kind": kind, "detail": detail}) from None
    return step


def _names(kind: str, table: Mapping[str, Any], folder: Path) -> tuple[str, str]:
    from converter.model_folder.sentence_head import SENTENCE, TOKENS

    first = table.get("module_input_name") or SENTENCE
    names = (first, table.get("module_output_name") or first)
    for key, name in zip(("module_input_name", "module_output_name"), names, strict=True):
        if name not in {SENTENCE, TOKENS}:
            found = {"kind": kind, "key": key, "value": name, "supported": f"{SENTENCE}, {TOKENS}"}
            raise refusal("module-value", folder, found)
    return names


def _activation(path: object, folder: Path) -> "torch.nn.Module":
    """Return the activation of a dotted path such as `torch.nn.modules.activation.Tanh`; no other code is run."""
    from torch.nn.modules import activation

    known = {name: getattr(activation, name) for name in activation.__all__ if name not in NOT_FOR_VECTORS}
    import torch

    known["Identity"] = torch.nn.Identity
    name = str(path).rsplit(".", 1)[-1]
    if not str(path).startswith("torch.nn.") or name not in known:
        supported = ", ".join(f"torch.nn.{n}" for n in sorted(known))
        found = {"kind": "Dense", "key": "activation_function", "value": path, "supported": supported}
        raise refusal("module-value", folder, found)
    made: torch.nn.Module = known[name](dim=-1) if name in {"Softmax", "LogSoftmax", "Softmin"} else known[name]()
    return made
