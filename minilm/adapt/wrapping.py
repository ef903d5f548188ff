"""Wrapping: layers put in front of others, for any method. Finding where, wrapping, merging, taking out, saving.

A wrapper stands where the layer that it adapts stood, and holds it as the child `base`:

    wrap(model, {"backbone.rnn": lambda layer: ...})     wrappers in the place of the named layers
    merge(model)                      plain layers that compute the same: nothing is left to pay for
    unmerge(model)                    the wrappers again, and every weight bit for bit as it was
    adapter_state(model)              the tensors of the wrappers alone, by their names in model.state()

Adapters are small; they go onto another copy of the same base by

    other.load_state(other.state() | adapter_state(model))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from minilm.backend import Array, array_namespace
from minilm.layers.base import Layer


class Wrapper(Layer):
    """A layer in the place of another, which is its child `base` and is frozen. Its own parameters are the adapter's.

    It takes the arguments of `base`. A method whose wrapper can be folded into weights defines `merged_weights`.
    """

    def __init__(self, base: Layer) -> None:
        super().__init__()
        self.children["base"] = base
        base.freeze()

    def merged_weights(self) -> dict[str, Array]:
        """The weights with which `base` alone computes what this computes, by their names there."""
        raise ValueError(f"{type(self).__name__} can't be merged into the layer that it wraps")

    def effective(self) -> Layer:
        """The wrapped layer with the merged weights: a plain layer that computes the same. `base` is not touched."""
        return self.base.with_params(**self.merged_weights())


class Site(NamedTuple):
    """Where a layer stands in a model: parent.children[key] is layer. `name` is its dotted name without wrappers."""

    name: str
    parent: Layer
    key: str
    layer: Any  # a Layer: often a Wrapper, and which kind of either is for the asker to know


class Merged(NamedTuple):
    """What a layer keeps while its wrapper is folded into it: the wrapper, and the weights as they were."""

    wrapper: Wrapper
    weights: dict[str, Array]


def sites(model: Layer, prefix: str = "") -> Iterator[Site]:
    """Every layer below `model`, a wrapper standing for the layer that it wraps."""
    for key, child in model.children.items():
        yield Site(prefix + key, model, key, child)
        yield from sites(child.base if isinstance(child, Wrapper) else child, f"{prefix}{key}.")


def wrap(model: Layer, makers: Mapping[str, Callable[[Any], Wrapper]]) -> None:
    """Put a wrapper, made from the layer, in the place of each named layer, and freeze all else.

    A layer that stands in two places gets one wrapper, in both. The optimizer must be made afterwards. Raises
    ValueError, and changes nothing, where the model has wrappers already or a name is not in it.
    """
    refuse_adapted(model)
    found = {site.name: site for site in sites(model)}
    if missing := makers.keys() - found.keys():
        raise ValueError(f"the model has no layer {min(missing)}; there are {listed(found)}")
    model.freeze()
    made: dict[int, Wrapper] = {}
    for name, maker in makers.items():
        layer = found[name].layer
        if id(layer) not in made:
            made[id(layer)] = maker(layer)
    for site in list(sites(model)):
        if id(site.layer) in made:
            site.parent.children[site.key] = made[id(site.layer)]


def refuse_adapted(model: Layer) -> None:
    """Raise ValueError where a layer of `model` is wrapped, or was before its wrapper was merged."""
    adapted = [s.name for s in sites(model) if isinstance(s.layer, Wrapper) or _merged(s.layer) is not None]
    if adapted:
        raise ValueError(f"the model has adapters already, or merged ones ({listed(adapted)}); start from a fresh copy")


def wrappers(model: Layer) -> list[Site]:
    """The sites of all wrappers."""
    return [site for site in sites(model) if isinstance(site.layer, Wrapper)]


def merge(model: Layer) -> list[str]:
    """Fold every wrapper into the layer that it wraps, and put that layer back. Returns the layers' names.

    The weights as they were are kept beside, unchanged, for `unmerge`: the memory of the adapted weights once more.
    """
    found = wrappers(model)
    if not found:
        raise ValueError("there is no adapter to merge; a method of adaptation puts them there")
    for site in found:
        wrapper, base = site.layer, site.layer.base
        if _merged(base) is None:  # else this layer stands in two places, and is done
            weights = wrapper.merged_weights()
            base.merged = Merged(wrapper, {name: base.params[name] for name in weights})
            base.params |= weights
        site.parent.children[site.key] = base
    return [site.name for site in found]


def unmerge(model: Layer) -> list[str]:
    """Undo `merge`: every weight is again, bit for bit, what it was, and the wrappers are back. Returns the names.

    Nothing is subtracted, so nothing is rounded. What was loaded into the merged weights in between is dropped; where
    the model has moved to another device or dtype, weights and wrappers follow it.
    """
    found = [site for site in sites(model) if _merged(site.layer) is not None]
    if not found:
        raise ValueError("there is no merged adapter to take out; merge(model) comes first")
    for site in found:
        wrapper, weights = site.layer.merged
        now = site.layer.params[next(iter(weights))]
        site.layer.params |= weights
        wrapper.to(array_namespace(now), now.dtype)
        site.parent.children[site.key] = wrapper
    for site in found:
        vars(site.layer).pop("merged", None)  # a layer in two places has it once
    return [site.name for site in found]


def adapter_state(model: Layer) -> dict[str, Array]:
    """The wrappers' tensors alone, by their names in `model.state()`."""
    return {
        prefix + name: array
        for prefix, layer in model.walk()
        if isinstance(layer, Wrapper)
        for name, array in layer.params.items()
    }


def load_base(model: Layer, tensors: Mapping[str, Array], part: str) -> None:
    """Copy the tensors named `part`... of a model without wrappers into `model`; what wraps them keeps its own."""
    state = model.state()
    plain = {name.replace(".base.", "."): name for name in state}
    taken = {plain[name]: tensor for name, tensor in tensors.items() if name.startswith(part) and name in plain}
    model.load_state(state | taken)


def matching_parameters(model: Layer, patterns: Iterable[str]) -> dict[tuple[int, str], tuple[Layer, str]]:
    """The parameters that each pattern names, by layer and own name. Raises ValueError for a pattern without any."""
    found = {}
    for pattern in patterns:
        matched = {
            (id(layer), name): (layer, name)
            for prefix, layer in model.walk()
            for name in layer.params
            if fnmatchcase(prefix + name, pattern)
        }
        if not matched:
            raise ValueError(f"train: no parameter matches {pattern}; there are {listed(model.parameters())}")
        found |= matched
    return found


def listed(names: Iterable[str], limit: int = 40) -> str:
    """The names in a line, at most `limit` of them."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none") + more


def _merged(layer: Layer) -> Merged | None:
    return vars(layer).get("merged")
