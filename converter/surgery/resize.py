"""A smaller copy of a model: fewer heads, neurons or layers, with a shape map that always speaks of the original."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from converter.artifact import TorchModel
from converter.errors import SourceError, StageFailed, nearest
from converter.model_folder.offload import bring_in
from converter.model_folder.shape_map import UNITS, LayerShape, ShapeMap
from converter.registry import families

if TYPE_CHECKING:
    from converter.family import Family, LayerParts


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
    if found.writes and model.cache is None:
        raise SourceError(
            f"a {kind} for {model.task.name} cannot be pruned: its stacks are known for models that write text",
            where=model.provenance.id,
            hint="it can be exported, quantized and distilled",
        )
    return found


def shape_map_of(model: TorchModel) -> ShapeMap:
    """Return the model's shape map, or that of a model from which nothing is missing."""
    if model.shape_map is not None:
        return model.shape_map
    family = family_of(model)
    layers = tuple(whole_shape(part) for part in family.layers(model.module))
    passes = int(model.config.num_hidden_layers) if family.shares_layers else len(layers)
    return ShapeMap(layers, tuple(range(passes)))


def whole_shape(part: "LayerParts") -> LayerShape:
    """Return the shape of a layer that keeps all that it has now."""
    cross = range(part.cross.n_heads if part.cross else 0)
    return LayerShape(tuple(range(part.n_heads)), tuple(range(part.n_neurons)), tuple(cross))


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
        LayerShape(*(tuple(getattr(was, kind)[i] for i in getattr(shape, kind)) for kind in UNITS))
        for was, shape in zip(before.layers, keep, strict=True)
    )
    return with_own_cache(replace(model, shape_map=ShapeMap(layers, before.layers_kept)))


def with_own_cache(model: TorchModel) -> TorchModel:
    """Return a model that writes text with the sizes that its cache has now; any other as it is."""
    if model.cache is None:
        return model
    from converter.generate.modules import cache_facts

    return replace(model, cache=cache_facts(model.module))


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
        places = [{unit: place for place, unit in enumerate(getattr(a, kind))} for kind in UNITS]
        wanted = [getattr(b, kind) for kind in UNITS]
        if not all(set(units) <= set(known) for units, known in zip(wanted, places, strict=True)):
            raise StageFailed(f"layer {i} does not have all the heads and neurons that are to stay")
        made.append(LayerShape(*(tuple(known[u] for u in units) for units, known in zip(wanted, places, strict=True))))
    return made


def shallower(model: TorchModel, kept: Sequence[int]) -> TorchModel:
    """Return a copy with the layers `kept`, ascending indices into the layers as they are now.

    Raises:
        StageFailed: `kept` is empty, unsorted, or names what is not there.

    """
    from converter.model_folder.dropped_tokens import settle

    family, before = family_of(model), shape_map_of(model)
    module = copy.deepcopy(model.module)
    family.keep_layers(module, kept)
    settle(module)
    bring_in(module)  # what is left may fit where the whole does not
    layers = before.layers if family.shares_layers else tuple(before.layers[i] for i in kept)
    made = ShapeMap(layers, tuple(before.layers_kept[i] for i in kept))
    family.fit_layers(module, made.layers_kept)
    return with_own_cache(replace(model, module=module, shape_map=made))
