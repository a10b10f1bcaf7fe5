"""A smaller copy of a model: fewer heads, neurons or layers, with a shape map that always speaks of the original."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from converter.artifact import TorchModel
from converter.errors import SourceError, StageFailed, nearest
from converter.model_folder.shape_map import LayerShape, ShapeMap
from converter.registry import families

if TYPE_CHECKING:
    from converter.family import Family


def family_of(model: TorchModel) -> "Family":
    """Return the family that knows where `model` keeps its heads, neurons and layers.

    Raises:
        SourceError: there is no file for this architecture.

    """
    kind = str(model.config.model_type)
    found = families().get(kind)
    if found is None:
        raise SourceError(
            f"{kind} cannot be pruned: converter/families has no file for this architecture",
            where=model.provenance.id,
            hint=f"it can be exported, quantized and distilled; {nearest(kind, families())}",
        )
    return found


def shape_map_of(model: TorchModel) -> ShapeMap:
    """Return the model's shape map, or that of a model from which nothing is missing."""
    if model.shape_map is not None:
        return model.shape_map
    layers = tuple(
        LayerShape(tuple(range(p.n_heads)), tuple(range(p.n_neurons))) for p in family_of(model).layers(model.module)
    )
    return ShapeMap(layers, tuple(range(model.config.num_hidden_layers)))


def resized(model: TorchModel, keep: Sequence[LayerShape]) -> TorchModel:
    """Return a copy with the heads and neurons of `keep`: one shape a layer, indices into the layers as they are now.

    Raises:
        StageFailed: a shape is unsorted or names what is not there, or no head is left in any layer.

    """
    return resized_in_place(replace(model, module=copy.deepcopy(model.module)), keep)


def resized_in_place(model: TorchModel, keep: Sequence[LayerShape]) -> TorchModel:
    """Do what `resized` does to the module itself: for a caller that owns it and cuts several times."""
    family, before = family_of(model), shape_map_of(model)
    if not any(shape.heads for shape in keep):
        # Without any attention no token would know of another, and the mask of the padding would be read by nobody.
        raise StageFailed("no heads would be left in any layer", hint="remove less")
    for index, shape in enumerate(keep):
        family.resize_layer(model.module, index, shape)
    layers = tuple(
        LayerShape(tuple(was.heads[i] for i in shape.heads), tuple(was.neurons[i] for i in shape.neurons))
        for was, shape in zip(before.layers, keep, strict=True)
    )
    return replace(model, shape_map=ShapeMap(layers, before.layers_kept))


def places_of(before: TorchModel, after: TorchModel) -> list[LayerShape]:
    """Return what `after`, cut from `before`, has left of it: indices into the layers of `before`.

    Raises:
        StageFailed: `after` has units or layers that `before` does not have.

    """
    was, now = shape_map_of(before), shape_map_of(after)
    return places_in(was, now)


def places_in(was: ShapeMap, now: ShapeMap) -> list[LayerShape]:
    """Do what `places_of` does, from the shape maps alone."""
    if was.layers_kept != now.layers_kept or len(was.layers) != len(now.layers):
        raise StageFailed(f"the layers are {list(now.layers_kept)}, wanted {list(was.layers_kept)}")
    made = []
    for i, (a, b) in enumerate(zip(was.layers, now.layers, strict=True)):
        heads, neurons = ({unit: place for place, unit in enumerate(units)} for units in (a.heads, a.neurons))
        if not (set(b.heads) <= set(heads) and set(b.neurons) <= set(neurons)):
            raise StageFailed(f"layer {i} does not have all the heads and neurons that are to stay")
        made.append(LayerShape(tuple(heads[u] for u in b.heads), tuple(neurons[u] for u in b.neurons)))
    return made


def shallower(model: TorchModel, kept: Sequence[int]) -> TorchModel:
    """Return a copy with the layers `kept`, ascending indices into the layers as they are now.

    Raises:
        StageFailed: `kept` is empty, unsorted, or names what is not there.

    """
    family, before = family_of(model), shape_map_of(model)
    module = copy.deepcopy(model.module)
    family.keep_layers(module, kept)
    layers = before.layers if family.shares_layers else tuple(before.layers[i] for i in kept)
    made = ShapeMap(layers, tuple(before.layers_kept[i] for i in kept))
    family.fit_layers(module, made.layers_kept)
    return replace(model, module=module, shape_map=made)
