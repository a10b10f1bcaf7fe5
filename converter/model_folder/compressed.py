"""A folder that pruning, sharing or factoring has made: plain safetensors, and maps of what they mean."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import SourceError, StageFailed
from converter.model_folder.replacement_map import StandIns
from converter.model_folder.shape_map import ShapeMap
from converter.registry import families

GENERATION = "generation_config.json"

if TYPE_CHECKING:
    import torch

    from converter.family import Family


def load_pruned(
    folder: Path, auto: Any, config: Any, attention: str, shape_map: ShapeMap | None, stand_ins: StandIns
) -> "torch.nn.Module":
    """Build the model of `config` at its full size with the transformers class `auto`, cut it, and load the weights.

    Raises:
        SourceError: shape map, config and weights do not belong together.

    """
    import torch
    from safetensors.torch import load_file

    from converter.model_folder.replacements import put_empty, tie_layers

    module = auto.from_config(config, dtype=torch.float32, attn_implementation=attention)
    if shape_map is not None:
        family = families().get(config.model_type)
        if family is None:
            raise SourceError(f"it has a shape map, but {config.model_type} has no family file", where=str(folder))
        _shape_like(module, family, shape_map, folder)
    tie_layers(module, stand_ins.ties, str(folder))
    put_empty(module, stand_ins.parts, str(folder))
    weights = {
        k: v.float() if v.is_floating_point() else v
        for f in sorted(folder.glob("*.safetensors"))
        for k, v in load_file(f).items()
    }
    try:
        missing, unexpected = module.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # a size that is not the map's
        raise SourceError(str(error).split("\n\t")[-1], where=str(folder)) from None
    same = tuple(f"{name}." for name in stand_ins.ties)
    tied = set(module.all_tied_weights_keys)  # none where the configuration unties them
    tied |= {name for name in missing if same and name.startswith(same)}
    # Sinusoids of positions: a class that computes them does not save them.
    computed = {str(name) for name in getattr(module, "_keys_to_ignore_on_save", None) or ()}
    if set(missing) - tied - computed or unexpected:
        wrong = min((set(missing) - tied - computed) | set(unexpected))
        raise SourceError(f"{wrong} is missing or unexpected for the shape map", where=str(folder))
    module.tie_weights()
    if (folder / GENERATION).is_file():
        from transformers import GenerationConfig

        module.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return module.eval()


def _shape_like(module: "torch.nn.Module", family: "Family", shape_map: ShapeMap, folder: Path) -> None:
    """Cut a newly built model to its shape map, so that the pruned weights fit."""
    originals = family.layers(module)
    passes: int = module.config.num_hidden_layers if family.shares_layers else len(originals)  # type: ignore[union-attr, assignment]
    if len(shape_map.layers) != len(originals) or len(shape_map.layers_kept) != passes:
        raise SourceError(
            f"the shape map has {len(shape_map.layers)} layers, config.json {passes}",
            where=str(folder),
            hint="the two files belong to different models",
        )
    family.fit_layers(module, shape_map.layers_kept)
    for index, (shape, original) in enumerate(zip(shape_map.layers, originals, strict=True)):
        across = original.cross.n_heads if original.cross else 0
        most = ((shape.heads, original.n_heads), (shape.neurons, original.n_neurons), (shape.cross, across))
        if any(max((*kept, -1)) >= n_units for kept, n_units in most):
            raise SourceError(
                f"the shape map keeps heads or neurons that layer {index} does not have", where=str(folder)
            )
        try:
            family.resize_layer(module, index, shape)
        except StageFailed as error:
            raise SourceError(f"the shape map of layer {index} is damaged: {error}", where=str(folder)) from None
