"""Pooling and normalization of sentence-transformers folders, inside the graph."""

from pathlib import Path

import torch

from converter.errors import SourceError
from converter.jsonfile import read_table
from converter.model_folder.locate import sentence_modules

MODES = ("cls", "mean", "max", "mean_sqrt_len_tokens")


class SentenceHead(torch.nn.Module):
    """`last_hidden_state` `[batch, length, hidden]` and `attention_mask` `[batch, length]` to `[batch, width]`.

    Several modes are concatenated in the order of `MODES`, as sentence-transformers does.
    """

    def __init__(self, modes: tuple[str, ...], *, normalize: bool, dense: torch.nn.Sequential | None = None) -> None:
        super().__init__()
        self.modes, self.normalize, self.dense = modes, normalize, dense

    def forward(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        pooled = torch.cat([self._pool(mode, hidden, mask) for mode in self.modes], dim=-1)
        if self.dense is not None:
            pooled = self.dense(pooled)
        if self.normalize:
            pooled = pooled / pooled.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        return pooled

    @staticmethod
    def _pool(mode: str, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if mode == "cls":
            return hidden[:, 0]
        if mode == "max":
            return (hidden + (mask - 1.0) * 1e9).amax(dim=1)
        total = (hidden * mask).sum(dim=1)
        count = mask.sum(dim=1).clamp(min=1e-9)
        return total / (count if mode == "mean" else count.sqrt())


def read_sentence_head(folder: Path) -> SentenceHead | None:
    """Read `modules.json`; None where the folder is no sentence-transformers model.

    Raises:
        SourceError: a module that has no graph form here.

    """
    modules = sentence_modules(folder)
    if not modules:
        return None
    modes: tuple[str, ...] = ("mean",)
    normalize, layers = False, []
    for module in modules[1:]:
        path = folder / module.path
        if module.kind == "Pooling":
            modes = _modes(path / "config.json")
        elif module.kind == "Normalize":
            normalize = True
        elif module.kind == "Dense":
            layers += _dense(path)
        else:
            raise SourceError(
                f"modules.json names {module.kind}, which cannot go into the graph",
                where=str(folder),
                hint="known: Transformer, Pooling, Dense, Normalize",
            )
    return SentenceHead(modes, normalize=normalize, dense=torch.nn.Sequential(*layers) if layers else None).eval()


def _modes(config: Path) -> tuple[str, ...]:
    table = read_table(config)
    if "pooling_mode" in table and isinstance(table["pooling_mode"], str):
        found = {table["pooling_mode"]}
    else:
        flags = {
            "cls": "pooling_mode_cls_token",
            "mean": "pooling_mode_mean_tokens",
            "max": "pooling_mode_max_tokens",
            "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
        }
        found = {mode for mode, flag in flags.items() if table.get(flag)}
        for other in ("pooling_mode_weightedmean_tokens", "pooling_mode_lasttoken"):
            if table.get(other):
                found.add(other)
    if not found or found - set(MODES):
        raise SourceError(
            f"pooling {', '.join(sorted(found)) or 'of no kind'} is not supported",
            where=str(config),
            hint=f"supported: {', '.join(MODES)}",
        )
    return tuple(mode for mode in MODES if mode in found)


def _dense(folder: Path) -> list[torch.nn.Module]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    table = read_table(folder / "config.json")
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise SourceError(
            "the Dense module has no model.safetensors",
            where=str(folder),
            hint="load and save the model once with a current sentence-transformers",
        )
    try:
        layer = torch.nn.Linear(table["in_features"], table["out_features"], bias=bool(table.get("bias", True)))
        layer.load_state_dict({k.removeprefix("linear."): v.float() for k, v in load_file(weights).items()})
    except (SafetensorError, OSError, KeyError, TypeError, RuntimeError) as error:
        raise SourceError(
            f"the Dense module does not load ({type(error).__name__})",
            where=str(folder),
            hint="its weights must match its config.json; fetch both again",
        ) from None
    activation = str(table.get("activation_function", "Identity")).rsplit(".", 1)[-1]
    known = {"Tanh": torch.nn.Tanh, "Identity": torch.nn.Identity, "ReLU": torch.nn.ReLU, "GELU": torch.nn.GELU}
    if activation not in known:
        raise SourceError(
            f"Dense activation {activation} is not supported", where=str(folder), hint=f"known: {', '.join(known)}"
        )
    return [layer, known[activation]()]
