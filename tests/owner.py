"""Folders of sentence-transformers made by its own classes, and readings of them that are wrong on purpose."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from converter.artifact import TorchModel
from converter.examples import Example
from converter.reference import capture_reference
from converter.stage import SILENT
from converter.validate.owner import OwnerVerdict, check_owner
from tests.tiny import SENTENCES

TEXTS = tuple(Example(s) for s in (*SENTENCES[:10], "A text in UPPER case, with Names", "", " ".join(SENTENCES[:6])))
PAIRS = tuple(Example(a, b) for a, b in zip(SENTENCES[:8], SENTENCES[8:16], strict=True))


def checked(model: TorchModel, examples: Sequence[Example] = TEXTS) -> OwnerVerdict:
    """Hold this reading to the library of the folder's owner."""
    return check_owner(model, capture_reference(model, examples, SILENT), SILENT)


def sentence_folder(folder: Path, encoder: Path, modules: Sequence[Any], **options: Any) -> Path:
    """Save an encoder and the modules after it as sentence-transformers saves them."""
    import sentence_transformers
    from sentence_transformers.sentence_transformer.modules import Transformer

    transformer = Transformer(str(encoder), **options.pop("transformer", {}))
    made = sentence_transformers.SentenceTransformer(modules=[transformer, *modules], device="cpu", **options)
    made.save(str(folder))
    return folder


def drawn(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Draw a module's weights, large enough that it matters whether it is applied."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.3)
    return module


def change(path: Path, **values: Any) -> None:
    table = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(table | values))


def with_adapter(base: Path, folder: Path, layers: int = 3, width: int = 32) -> Path:
    """Copy a BERT classifier and put a LoRA adapter beside it, as `Trainer` and a push leave them."""
    from safetensors.torch import save_file

    shutil.copytree(base, folder)
    targets = ("query", "value")
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": "base",
        "r": 4,
        "lora_alpha": 64,
        "target_modules": list(targets),
        "bias": "none",
        "inference_mode": True,
    }
    rng = torch.Generator().manual_seed(0)
    weights = {}
    for layer in range(layers):
        for target in targets:
            name = f"base_model.model.bert.encoder.layer.{layer}.attention.self.{target}"
            weights[f"{name}.lora_A.weight"] = torch.randn(4, width, generator=rng) * 0.3
            weights[f"{name}.lora_B.weight"] = torch.randn(width, 4, generator=rng) * 0.3
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


class Reading(torch.nn.Module):
    """A head that applies `steps` to what it is given: ours, for a test that needs to know what ours does."""

    def __init__(self, *steps: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        features = {"token_embeddings": hidden, "attention_mask": attention_mask}
        for step in self.steps:
            features = step(features)
        return features["sentence_embedding"]
