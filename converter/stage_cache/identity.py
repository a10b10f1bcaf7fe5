"""What the outcome of a stage depends on, as digests: artifact, options, code, libraries, machine, text."""

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.artifact import Artifact, TorchModel
from converter.bounds.files import sha256_file, sha256_tree
from converter.jsonfile import json_values
from converter.resources import cpu_facts
from converter.stage import SILENT, Context, Stage, options_of

if TYPE_CHECKING:
    from converter.examples import Example

LIBRARIES = (
    "torch",
    "transformers",
    "accelerate",
    "numpy",
    "scipy",
    "scikit-learn",
    "tokenizers",
    "safetensors",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "litert-torch",
    "litert-converter",
    "ai-edge-litert",
    "ai-edge-quantizer",
    "tensorflow",
    "jax",
    "ml-dtypes",
    "flatbuffers",
    "protobuf",
    "sentence-transformers",
    "peft",
)
"""What stages compute with, and write files with."""
KERNELS = (
    *("ATEN_CPU_CAPABILITY", "DNNL_", "ONEDNN_", "MKL_CBWR", "MKL_DEBUG_CPU_TYPE", "MKL_ENABLE_INSTRUCTIONS"),
    *("OPENBLAS_CORETYPE", "TORCH_ALLOW_TF32", "NVIDIA_TF32_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG"),
)
ENVIRONMENT = ("WORLD_SIZE", "ACCELERATE_", "FSDP_", "CUDA_VISIBLE_DEVICES", "TF_ENABLE_ONEDNN_OPTS", *KERNELS)
"""Names of variables, or their beginnings, that training or kernels go by."""
FIELDS = ("seed", "calibration", "calibration_is_builtin", "teacher", "held_out", "aim", "threads", "measured")
"""Of a stage's context: what it may learn from. A stage depends on those alone that it has read."""


def text_digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value, or of what `json_values` makes of another."""
    return hashlib.sha256(json.dumps(json_values(value), sort_keys=True).encode()).hexdigest()


def base_key(stage: Stage[Any, Any], given: Artifact) -> str:
    """Return the digest of all that a stage depends on, but for the fields of its context."""
    import torch

    return text_digest(
        {
            "stage": [stage.name, f"{type(stage).__module__}.{type(stage).__qualname__}"],
            "options": options_of(stage),
            "files": _option_files(stage),
            "given": artifact_key(given),
            "code": code_version(),
            "machine": _machine(),
            "threads": torch.get_num_threads(),
            "environment": _environment(),
        }
    )


def field_digest(ctx: Context, name: str) -> str:
    """Return the digest of one of `FIELDS`."""
    value = getattr(ctx, name)
    if name in {"calibration", "held_out"}:
        return _examples_digest(value)
    if name == "teacher":
        return "" if value is None else artifact_key(value)
    if name == "aim":
        return "" if value is None else text_digest([value.target, repr(value.precision)])
    return text_digest(value)


def artifact_key(artifact: Artifact) -> str:
    """Return the digest of an artifact with all that stages may ask it: the weights alone are `Artifact.digest`."""
    found = _model_key(artifact) if isinstance(artifact, TorchModel) else _file_key(artifact)
    return text_digest({"class": type(artifact).__name__, "weights": artifact.digest, **found})


def _environment() -> dict[str, str]:
    """Return what of the environment counts; accelerate sets some of it itself, to what it is without."""
    usual = {"", "no", "false", "0", "none"}
    known = sorted(os.environ.items())
    return {k: v for k, v in known if k.startswith(ENVIRONMENT) and v.lower() not in usual}


def _file_key(artifact: Artifact) -> dict[str, Any]:
    """Return what there is to a model in files beside its weights."""
    known = dict(vars(artifact))
    source = known.pop("source")
    plain = {k: v for k, v in known.items() if isinstance(v, (str, tuple))}
    files = known.get("files")
    graphs = list(files) if isinstance(files, Mapping) else []
    return {"plain": plain, "graphs": graphs, "source": artifact_key(source)}


def _model_key(model: TorchModel) -> dict[str, Any]:
    config = json.loads(model.config.to_json_string(use_diff=False))
    config.pop("_name_or_path", None)
    derived = {k for cls in type(model.task).__mro__ for k, v in vars(cls).items() if isinstance(v, cached_property)}
    own = {k: v for k, v in vars(model.task).items() if k not in {"config", "_tokenizer", *derived}}
    return {
        "module": type(model.module).__name__,
        "config": config,
        "attention": str(getattr(model.config, "_attn_implementation", None)),
        "trained": [name for name, p in model.module.named_parameters() if not p.requires_grad],
        "task": [model.task.name, {k: _shown(v) for k, v in own.items()}],
        "tokenizer": _tokenizer_digest(model.tokenizer),
        "inputs": model.input_names,
        "max_length": model.max_length,
        "id": model.provenance.id,
        "head": None if model.head is None else [repr(model.head), _head_settings(model.head), _state(model.head)],
        "sentence": repr(model.sentence),
        "shape_map": repr(model.shape_map),
        "source_ids": None if model.source_ids is None else text_digest(list(model.source_ids)),
        "cache": repr(model.cache),
        "offloaded": model.offloaded,  # what runs piece by piece is rounded otherwise
    }


def _tokenizer_digest(tokenizer: Any) -> str:
    # Before its tokens stands how it cut and padded the last text.
    table = tokenizer.backend_tokenizer.to_str().partition('"added_tokens"')[2]
    habits = {
        "names": {k: str(v) for k, v in tokenizer.special_tokens_map.items()},
        "sides": [tokenizer.padding_side, tokenizer.truncation_side],
        "inputs": list(tokenizer.model_input_names),
        "template": getattr(tokenizer, "chat_template", None),
    }
    return text_digest([hashlib.sha256(table.encode()).hexdigest(), habits])


def _head_settings(head: Any) -> list[Any]:
    """Return the plain attributes of a sentence head's steps: two poolings may differ by a mode alone."""
    plain = (str, int, float, bool, tuple)
    return [{k: v for k, v in vars(step).items() if isinstance(v, plain)} for step in head.modules()]


def _state(module: Any) -> str:
    made = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        made.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        made.update(tensor.detach().cpu().contiguous().numpy().reshape(-1).view("uint8").data)
    return made.hexdigest()


def _shown(value: Any) -> Any:
    """Return a task's own setting; objects that show an address would be new in every run."""
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(json_values(value))


def _examples_digest(examples: "Sequence[Example]") -> str:
    made = hashlib.sha256()
    for one in examples:
        made.update(repr(one).encode("utf-8", "surrogatepass") + b"\n")
    return made.hexdigest()


def _option_files(stage: Stage[Any, Any]) -> dict[str, str]:
    """Return the hashes of files that options name: a name says nothing of what is in it now."""
    from converter.model_folder.recipe_files import FILE_OPTIONS
    from converter.model_folder.samples import is_sample, resolve_data

    found: dict[str, str] = {}
    for name, value in options_of(stage).items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and text:
                path = resolve_data(Path(text), SILENT) if is_sample(text) else Path(text).expanduser()
                found |= {text: sha256_file(path)} if path.is_file() else {}
                # Any word may be the name of a folder too; only of an option that takes one is it read.
                found |= {text: sha256_tree(path)} if name in FILE_OPTIONS and path.is_dir() else {}
    return found


@cache
def code_version() -> str:
    """Return the digest of this tool's own code and of the versions of the libraries that it computes with."""
    made = hashlib.sha256(own_version().encode())
    for name in LIBRARIES:
        made.update(f"{name} {_version(name)}\n".encode())
    return made.hexdigest()


@cache
def own_version() -> str:
    """Return the digest of this tool's own code."""
    import converter

    root = Path(converter.__file__).parent.parent
    made = hashlib.sha256()
    for package in ("converter", "targets", "sample_models"):
        for path in sorted((root / package).rglob("*.py")):
            made.update(f"{path.relative_to(root).as_posix()} {sha256_file(path)}\n".encode())
    return made.hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


PROCESSOR = ("flags", "Features", "vendor_id", "model name", "CPU implementer", "CPU part")
"""Of `/proc/cpuinfo`: libraries look at the make too, and two makes of one instruction set are not equally fast."""


@cache
def _machine() -> str:
    """Return what kernels are chosen by, and what times that stages go by are of."""
    import torch

    told = sorted({(name, value) for name, value in cpu_facts() if name in PROCESSOR})
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return text_digest([platform.machine(), platform.python_version(), told, device])
