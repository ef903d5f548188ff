"""LoRA on whole models: put adapters into a model, fold them into its weights, take them out, save them.

    apply_lora(model, rank=8, targets=("*.self_attn.*",), train=("head.*",), rng=rng)
    merge_lora(model)                    # plain layers that hold W' = W + s B A: nothing is left to pay for
    unmerge_lora(model)                  # W again, bit for bit, and the adapters

A model is rebuilt from three things: its own config, `lora_config(model)`, and its weights:

    model = build(**config);  apply_lora(model, **lora);  model.load_state(tensors)

Adapters alone are small; they go onto another copy of the same base by

    model.load_state(model.state() | lora_state(other))
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np

from minilm.adapt.lora import LoRA, LoRALinear, LoRAWeights, matrix_shape
from minilm.backend import Array, array_namespace, generator
from minilm.layers.base import Layer
from minilm.layers.embedding import Embedding
from minilm.layers.linear import Linear
from minilm.layers.positional import PositionalEncoding


class Place(NamedTuple):
    """Where a layer stands in a model: parent.children[key] is layer. `name` is its dotted name without adapters."""

    name: str
    parent: Layer
    key: str
    layer: Layer

    def put(self, layer: Layer) -> None:
        self.parent.children[self.key] = layer


class Merged(NamedTuple):
    """What a layer keeps while its adapter is folded into it: the adapter, and the weights as they were."""

    adapter: LoRA
    weights: dict[str, Array]


def places(model: Layer, prefix: str = "") -> Iterator[Place]:
    """Every layer below `model`, an adapter standing for the layer that it wraps."""
    for key, child in model.children.items():
        yield Place(prefix + key, model, key, child)
        yield from places(child.base if isinstance(child, LoRA) else child, f"{prefix}{key}.")


def layers_once(model: Layer) -> Iterator[Place]:
    """Every layer below `model` once, at the first of its places."""
    seen = set()
    for place in places(model):
        if id(place.layer) not in seen:
            seen.add(id(place.layer))
            yield place


def linear_maps(model: Layer, embeddings: bool = False) -> dict[str, tuple[Place, str]]:
    """The weights below `model` that LoRA can adapt, by dotted name: each with its layer's place and its name there.

    A linear map is a parameter called weight... with two axes or more. Tables of embeddings count where asked for,
    tables of positions never: they are looked up, not multiplied with.
    """
    tables = (LoRA, PositionalEncoding) if embeddings else (LoRA, PositionalEncoding, Embedding)
    return {
        f"{place.name}.{name}": (place, name)
        for place in layers_once(model)
        if not isinstance(place.layer, tables)
        for name, weight in place.layer.params.items()
        if name.startswith("weight") and weight.ndim >= 2
    }


def apply_lora(
    model: Layer,
    rank: int = 8,
    alpha: float = 16.0,
    targets: Iterable[str] = ("*",),
    *,
    train: Iterable[str] = (),
    dropout: float = 0.0,
    embeddings: bool = False,
    rng: np.random.Generator | None = None,
) -> list[str]:
    """Freeze `model` and put a LoRA adapter on every linear map that `targets` names. Returns the adapted names.

    targets     patterns over dotted names of layers ("*.self_attn.*", "backbone.rnn") or of weights ("*.weight_hh*")
    train       patterns over names of parameters that are trained whole, with no adapter: a new head, say
    dropout     on what the adapters read; only `Linear` layers have that
    embeddings  adapt embedding tables too where a target names them; not possible where the output layer is tied to one
    rng         draws A; without one it is generator(0), as when the weights are loaded next

    The optimizer must be made afterwards. Raises ValueError, and changes nothing, for a pattern that matches nothing, a
    rank outside 1..min(Cout, Cin) of a matched weight, or options out of range.
    """
    targets, train = _patterns("targets", targets), _patterns("train", train)
    if not isinstance(rank, int) or rank < 1 or not 0 < alpha < float("inf") or not 0 <= dropout < 1:
        raise ValueError(
            f"LoRA: expected an integer rank >= 1, a finite alpha > 0 and 0 <= dropout < 1; got rank {rank}, "
            f"alpha {alpha}, dropout {dropout}"
        )
    _refuse_adapted(model)
    if embeddings and any(getattr(layer, "tied", False) for _, layer in model.walk()):
        raise ValueError("the output layer is tied to the embedding, which can't have an adapter; use embeddings=False")
    trained = _matching_parameters(model, train)
    candidates = linear_maps(model, embeddings)
    chosen: dict[str, tuple[Place, list[str]]] = {}  # by layer
    for full_name, (place, name) in candidates.items():
        if (id(place.layer), name) in trained or not _matches(targets, place.name, full_name):
            continue
        rows, columns = matrix_shape(place.layer.params[name])
        if rank > min(rows, columns):
            raise ValueError(
                f"LoRA rank {rank} does not fit {full_name} ({rows}, {columns}): at most {min(rows, columns)}; lower "
                "the rank, or leave this layer out of targets, or train it whole (train=)"
            )
        if dropout and not isinstance(place.layer, Linear):
            raise ValueError(
                f"LoRA dropout {dropout} is not defined for {full_name}, whose update is added to the weight; use "
                "dropout=0 or targets that name Linear layers only"
            )
        chosen.setdefault(place.name, (place, []))[1].append(name)
    if not chosen:
        raise ValueError(f"no linear map matches targets {', '.join(targets)}; there are {_listed(candidates)}")

    model.freeze()
    rng = generator(0) if rng is None else rng
    adapters: dict[int, LoRA] = {}
    for place, names in chosen.values():
        adapters[id(place.layer)] = (
            LoRALinear(place.layer, rank, alpha, dropout, rng=rng)
            if isinstance(place.layer, Linear)
            else LoRAWeights(place.layer, tuple(names), rank, alpha, rng=rng)
        )
    for place in list(places(model)):  # a layer that stands in two places has one adapter, in both
        if id(place.layer) in adapters:
            place.put(adapters[id(place.layer)])
    for layer, name in trained.values():
        layer.frozen.discard(name)
    return [f"{layer_name}.{name}" for layer_name, (_, names) in chosen.items() for name in names]


def lora_config(model: Layer) -> dict[str, Any] | None:
    """The options of `apply_lora` that give a copy of the base its adapters, JSON-able; None where there are none."""
    adapters = [place for place in layers_once(model) if isinstance(place.layer, LoRA)]
    if not adapters:
        return None
    first = adapters[0].layer
    owners = [("", model)] + [
        (f"{p.name}.", p.layer.base if isinstance(p.layer, LoRA) else p.layer) for p in layers_once(model)
    ]
    return {
        "rank": first.rank,
        "alpha": first.alpha,
        "targets": [f"{place.name}.{name}" for place in adapters for name in place.layer.adapted],
        "train": [prefix + name for prefix, layer in owners for name in layer.params if name not in layer.frozen],
        "embeddings": any(isinstance(place.layer.base, Embedding) for place in adapters),
        "dropout": max((p.layer.dropout for p in adapters if isinstance(p.layer, LoRALinear)), default=0.0),
    }


def lora_state(model: Layer) -> dict[str, Array]:
    """The adapters' tensors alone, by their names in `model.state()`."""
    return {
        prefix + name: array
        for prefix, layer in model.walk()
        if isinstance(layer, LoRA)
        for name, array in layer.params.items()
    }


def merge_lora(model: Layer) -> list[str]:
    """Fold every adapter into its weight, W' = W + s B A, and put the plain layers back. Returns their names.

    W itself is kept beside, unchanged, for `unmerge_lora`: the memory of the adapted weights once more.
    """
    adapted = [place for place in places(model) if isinstance(place.layer, LoRA)]
    if not adapted:
        raise ValueError("there is no LoRA adapter to merge; apply_lora(model, ...) puts them there")
    for place in adapted:
        adapter, base = place.layer, place.layer.base
        if "merged_lora" not in vars(base):  # else this layer stands in two places, and is done
            base.merged_lora = Merged(adapter, {name: base.params[name] for name in adapter.adapted})
            base.params |= {name: adapter.effective_weight(name) for name in adapter.adapted}
        place.put(base)
    return [place.name for place in adapted]


def unmerge_lora(model: Layer) -> list[str]:
    """Undo `merge_lora`: every weight is again, bit for bit, what it was, and the adapters are back. Returns the names.

    Nothing is subtracted, so nothing is rounded. What was loaded into the merged weights in between is dropped; where
    the model has moved to another device or dtype, weights and adapters follow it.
    """
    merged = [place for place in places(model) if "merged_lora" in vars(place.layer)]
    if not merged:
        raise ValueError("there is no merged LoRA adapter to take out; merge_lora(model) comes first")
    for place in merged:
        adapter, weights = place.layer.merged_lora
        now = place.layer.params[adapter.adapted[0]]
        place.layer.params |= weights
        adapter.to(array_namespace(now), now.dtype)
        place.put(adapter)
    for place in merged:
        vars(place.layer).pop("merged_lora", None)  # a layer in two places has it once
    return [place.name for place in merged]


def _patterns(option: str, patterns: Iterable[str]) -> tuple[str, ...]:
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(f"{option}: expected name patterns, got {patterns}")
    return patterns


def _matches(patterns: Iterable[str], *names: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)


def _refuse_adapted(model: Layer) -> None:
    found = [p.name for p in places(model) if isinstance(p.layer, LoRA) or "merged_lora" in vars(p.layer)]
    if found:
        raise ValueError(
            f"the model has LoRA adapters already, or merged ones ({_listed(found)}); start from a fresh copy"
        )


def _matching_parameters(model: Layer, patterns: tuple[str, ...]) -> dict[tuple[int, str], tuple[Layer, str]]:
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
            raise ValueError(f"train: no parameter matches {pattern}; there are {_listed(model.parameters())}")
        found |= matched
    return found


def _listed(names: Iterable[str], limit: int = 40) -> str:
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none") + more
