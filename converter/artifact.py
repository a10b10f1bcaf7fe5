"""A model in one representation.

Each artifact's `verify()` is the specification of that representation; `run_stage` calls it on what a stage made,
every time.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.bounds.files import sha256_file
from converter.errors import SourceError, StageFailed
from converter.graphs import MODEL, CacheFacts, GraphSpec, ModelFacts, Run

if TYPE_CHECKING:
    import torch

    from converter.model_folder.sentence_config import SentenceFolder
    from converter.model_folder.sentence_head import SentenceHead
    from converter.model_folder.shape_map import ShapeMap
    from converter.task import Task

EXITS = "exits"
"""The module of a model that holds heads behind earlier layers."""


class Artifact(ABC):
    """Anything a stage takes or makes."""

    @abstractmethod
    def verify(self) -> None:
        """Raise `StageFailed` where this is not a sound artifact of its kind."""

    @property
    @abstractmethod
    def size_bytes(self) -> int:
        """Bytes of the weights as this representation stores them."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """SHA-256, in hex, of the weights as this representation stores them: of the file itself where there is one."""

    @property
    def file_precision(self) -> str | None:
        """How the weights are stored in a file that runs on its own; None where this is no such file."""
        return None

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """The files that hold its weights, where there are any."""
        return ()

    def runs(self) -> Run | None:
        """Return how it answers on its own; None where only its package's runtime opens it."""
        return None


def files_digest(files: Mapping[str, Path]) -> str:
    """Return the SHA-256 of one file, or of the names and digests of several."""
    found = {name: sha256_file(path) for name, path in sorted(files.items())}
    if len(found) == 1:
        return next(iter(found.values()))
    return hashlib.sha256("".join(f"{name} {one}\n" for name, one in found.items()).encode()).hexdigest()


def weight_map_of(module: "torch.nn.Module", name: str) -> tuple[Any, str]:
    """Return where accelerate finds a weight that it has left on disk (`dispatch_model`), and its name there."""
    path, _, own = name.rpartition(".")
    hook: Any = getattr(module.get_submodule(path), "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):
        if getattr(one, "offload", False):
            return one.weights_map, own
    raise StageFailed(f"{name} has no values, and nothing says where they are")


def place_on_disk(module: "torch.nn.Module", name: str) -> tuple[str, str]:
    """Return file and name of a weight that was left on disk: those of a tied one are the same."""
    weights, own = weight_map_of(module, name)
    found = weights.dataset.index[weights.prefix + own]
    return found["safetensors_file"], found["weight_name"]


def stored_weight(linear: "torch.nn.Linear") -> "torch.Tensor":
    """Return the weight of a linear layer `[out, in]`; one that is on disk is read."""
    if linear.weight.device.type != "meta":
        return linear.weight
    weights, own = weight_map_of(linear, "weight")
    found: torch.Tensor = weights[own]
    return found


def stored_tensors(module: "torch.nn.Module", *, by_name: bool = False) -> "Iterator[tuple[str, torch.Tensor]]":
    """Yield what `state_dict` has, by name; what was left on disk is read for as long as it is looked at.

    In the order of the state, or in that of the names (`by_name`).
    """
    state = module.state_dict()
    for name, tensor in sorted(state.items(), key=lambda pair: pair[0]) if by_name else state.items():
        if tensor.device.type == "meta":
            weights, own = weight_map_of(module, name)
            yield name, weights[own]
        else:
            yield name, tensor


def untold_of(module: "torch.nn.Module") -> str:
    """Return what no tensor of a module tells, a line each: how many tokens layers drop, where texts leave early."""
    parts: list[tuple[str, Any]] = [(n, p) for n, p in module.named_modules() if getattr(p, "weightless", False)]
    return "".join(f"{name} {sorted(part.spec().items())}\n" for name, part in parts)


@dataclass(frozen=True)
class Provenance:
    """Where a model came from: kept in the manifest of every package made from it."""

    id: str
    """Hub id, or the folder's name (never a full local path: packages are shared)."""
    revision: str | None = None
    weights_sha256: dict[str, str] = field(default_factory=dict)
    licence: str | None = None
    dtype: str = "float32"
    """The number format the checkpoint was stored in; everything is computed in float32."""


@dataclass(frozen=True)
class SourceCard:
    """What the folder of a model says of its use: its licence, its languages, and files that must go with it."""

    licence: str | None = None
    """As the Hub spells it: `apache-2.0`, or `other` where `licence_name` says more."""
    licence_name: str | None = None
    licence_link: str | None = None
    languages: tuple[str, ...] = ()
    notices: Mapping[str, Path] = field(default_factory=dict)
    """Licences and notices by the name that they get in packages."""

    @property
    def licensed(self) -> bool:
        return self.licence is not None or bool(self.notices)


@dataclass(frozen=True)
class TorchModel(Artifact):
    """A PyTorch model in float32 and evaluation mode, with all that is needed to feed and to judge it."""

    module: "torch.nn.Module"
    """The transformers model."""
    task: "Task"
    tokenizer: Any
    input_names: tuple[str, ...]
    max_length: int
    """Longest input in tokens, special tokens included."""
    provenance: Provenance
    folder: Path
    """Where tokenizer and configuration files are copied from."""
    head: "SentenceHead | None" = None
    """The modules after the encoder of an embedding model: pooling, projections, normalization."""
    sentence: "SentenceFolder | None" = None
    """What a sentence-transformers folder says of the model; `default_prompt_name` is the prompt that is applied."""
    shape_map: "ShapeMap | None" = None
    """What pruning has left; None for an unpruned model."""
    source_ids: tuple[int, ...] | None = None
    """The id in the source of every token that trimming has left, by its id now; None: the source's own vocabulary."""
    cache: CacheFacts | None = None
    """What a model that writes text keeps between tokens; None for an encoder."""
    card: SourceCard = field(default_factory=SourceCard)

    @property
    def config(self) -> Any:
        return self.module.config

    @property
    def specs(self) -> Mapping[str, GraphSpec]:
        """What each graph takes and gives, by the graph's name."""
        facts = ModelFacts.of(self.tokenizer, self.input_names, embeds=self.head is not None, cache=self.cache)
        return self.task.graphs(facts)

    @property
    def prompt_facts(self) -> dict[str, str | None] | None:
        """Name and text of the prompt that stands before every text, as a manifest keeps them; None without one."""
        if not self.task.prompt:
            return None
        return {"name": self.sentence.default_prompt_name if self.sentence else None, "text": self.task.prompt}

    @property
    def size_bytes(self) -> int:
        # What a file holds: buffers that are codes too, a tied weight once.
        tensors = {}
        for name, tensor in self.module.state_dict().items():
            key: Any = tensor.data_ptr()
            if tensor.device.type == "meta":
                key = place_on_disk(self.module, name)
            tensors[key] = tensor
        return sum(t.numel() * t.element_size() for t in tensors.values())

    @property
    def offloaded(self) -> bool:
        """Whether some weights are on disk, and in memory only while they are used."""
        return any(t.device.type == "meta" for t in self.module.state_dict().values())

    @property
    def leaves_early(self) -> bool:
        """Whether heads behind earlier layers answer for the whole of it; see `converter.model_folder.exits`."""
        return hasattr(self.module, EXITS)

    @cached_property
    def digest(self) -> str:
        """Of every tensor's name, type, shape and bytes; a tied one once for each of its names.

        And of what no tensor tells: how many tokens layers drop, and behind which of them texts leave.
        """
        made = hashlib.sha256()
        for name, tensor in stored_tensors(self.module):
            made.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            made.update(tensor.detach().cpu().contiguous().numpy().reshape(-1).view("uint8").data)
        made.update(untold_of(self.module).encode())
        return made.hexdigest()

    def graphs(self) -> "Mapping[str, torch.nn.Module]":
        """Return what is measured and exported, by name, to a dict of named float32 outputs.

        An encoder takes its inputs by name, a model that writes text a dict of them.
        """
        if self.cache is not None:
            from converter.generate.modules import graph_modules

            return graph_modules(self.module)
        from converter.forward import Forward

        return {MODEL: Forward(self)}

    def whole(self) -> "torch.nn.Module":
        """Return the model as one differentiable call, from what its task feeds to named float32 outputs.

        Of an encoder that is its graph. A model that writes text says at each step of an answer what comes next.
        """
        from converter.forward import Forward

        return Forward(self)

    def runs(self) -> Run:
        from converter.reference import torch_run

        return torch_run(self)

    def verify(self) -> None:
        import torch

        if self.module.training:
            raise StageFailed("the model is in training mode: dropout would be exported")
        for name, tensor in stored_tensors(self.module):
            if tensor.is_floating_point() and tensor.dtype != torch.float32:
                raise StageFailed(f"{name} is {tensor.dtype}, wanted float32")
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise SourceError(
                    f"the weights hold NaN or infinite values in {name}", hint="the checkpoint is damaged"
                )


@dataclass(frozen=True)
class Bundle(Artifact):
    """The files of one package, before they are sealed: what is measured is what ships."""

    folder: Path
    files: Mapping[str, str]
    """The model, relative to `folder`, by the name of the graph. Graphs may share a file."""
    source: TorchModel
    left_out: Mapping[str, str] = field(default_factory=dict)
    """What the package could have held and does not, and why."""

    @property
    def size_bytes(self) -> int:
        return sum((self.folder / name).stat().st_size for name in self.model_files)

    @property
    def model_files(self) -> tuple[str, ...]:
        """The model's files, and those beside them (`model.onnx_data`) that hold weights of models past 2 GB."""
        beside = [
            p for name in set(self.files.values()) for p in (self.folder / name).parent.glob(f"{Path(name).name}_data*")
        ]
        return tuple(sorted({*self.files.values(), *(p.relative_to(self.folder).as_posix() for p in beside)}))

    @property
    def digest(self) -> str:
        return files_digest({name: self.folder / name for name in self.model_files})

    def verify(self) -> None:
        for needed in (*self.files.values(), "config.json", "tokenizer.json", "tokenizer_config.json"):
            path = self.folder / needed
            if not path.is_file() or path.stat().st_size == 0:
                raise StageFailed(f"the package lacks {needed}, or it is empty")
