"""What every layer has in common: named parameters, children, freezing. No activations, no gradients.

A layer is a pair of functions over parameters that it owns:

    y, cache = layer.forward(x, train=True, cache=True, rng=None)
    dx, grads = layer.backward(dy, cache, need_dx=True)             grads has the names of parameters()

    train    noise is drawn, and statistics are those of the batch; False computes as in inference
    cache    backward will be called; False keeps nothing, and gives None in place of the cache

The two are independent: a layer can be differentiated as it infers. Frozen parameters have no entry in `grads` and the
work for them is not done; dx is None where it was not asked for.

All that backward may read is in the cache, so one layer can serve in two places, each use with its own cache. It stays
one set of parameters: counted and stored once, under the name of the first place, and its gradients are summed there.
How layers are put together: `layers.chain`, `layers.residual`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from types import ModuleType
from typing import Any

import numpy as np

from minilm.backend import Array, array_namespace, asarray_like, to_numpy
from minilm.memory import add

Gradients = dict[str, Array]


class Layer:
    """A named tree of parameters. Subclasses fill `params`, `buffers` and `children`, and define forward and backward.

    params    arrays that are trained, by PyTorch's names and layouts ("weight" of a linear map is (out, in))
    buffers   arrays that are saved but not trained (running statistics)
    children  layers inside this one; their names are prefixes of the dotted parameter names
    All three can be read as attributes: layer.weight, layer.norm1.
    """

    mixes_rows = False  # what a row of the batch gives depends on the other rows
    reads_memory = False  # forward takes a `memory` beside x, and backward gives (dx, dmemory) in place of dx

    def __init__(self) -> None:
        self.params: dict[str, Array] = {}
        self.buffers: dict[str, Array] = {}
        self.children: dict[str, Layer] = {}
        self.frozen: set[str] = set()  # own parameter names, not dotted

    def __getattr__(self, name: str) -> Any:
        for store in ("params", "buffers", "children"):
            entries = self.__dict__.get(store, {})
            if name in entries:
                return entries[name]
        raise AttributeError(f"{type(self).__name__} has no attribute, parameter or child {name!r}")

    def forward(self, x: Any, *, train: bool = True, cache: bool = True, rng: Any = None) -> tuple[Any, Any]:
        """y, cache. `rng` is needed where something is drawn (dropout while training)."""
        raise TypeError(f"{type(self).__name__} defines no forward")

    def backward(self, dy: Any, cache: Any, *, need_dx: bool = True) -> tuple[Any, Gradients]:
        """dx, gradients by parameter name."""
        raise TypeError(f"{type(self).__name__} defines no backward")

    def extend(self, x: Any, state: Any = None) -> tuple[Any, Any]:
        """Inference that continues: y of the x that follows what `state` remembers, and the new state.

        `state` is None at the start; the one given is not changed. y equals the same positions of `forward` over the
        whole text. A layer that looks at one position at a time remembers nothing, like this one.
        """
        return self.forward(x, train=False, cache=False)[0], None

    # ---- the tree

    @property
    def array(self) -> Array:
        """Some parameter: it tells the array library, and the device, that inputs must be on."""
        return next(array for _, layer in self.walk() for array in layer.params.values())

    def places(self, prefix: str = "") -> Iterator[tuple[str, Layer]]:
        """Every place of the tree: its dotted prefix ("" or "blocks.0.") and the layer there, this one first."""
        yield prefix, self
        for name, child in self.children.items():
            yield from child.places(f"{prefix}{name}.")

    def walk(self) -> Iterator[tuple[str, Layer]]:
        """Every layer of the tree once, with the prefix of its first place."""
        seen = set()
        for prefix, layer in self.places():
            if id(layer) not in seen:
                seen.add(id(layer))
                yield prefix, layer

    def parameters(self) -> dict[str, Array]:
        """All parameters by dotted name, in a fixed order. The arrays are the layer's own, not copies."""
        return {prefix + name: array for prefix, layer in self.walk() for name, array in layer.params.items()}

    def trainable(self) -> dict[str, Array]:
        """The parameters that are not frozen: the keys of the gradients."""
        return {
            prefix + name: array
            for prefix, layer in self.walk()
            for name, array in layer.params.items()
            if name not in layer.frozen
        }

    def state(self) -> dict[str, Array]:
        """Parameters and buffers by dotted name: what a checkpoint holds."""
        return {
            prefix + name: array
            for prefix, layer in self.walk()
            for name, array in (layer.params | layer.buffers).items()
        }

    def load_state(self, tensors: dict[str, Array]) -> None:
        """Copy `tensors` into parameters and buffers. Raises ValueError, and changes nothing, where they do not fit."""
        own = self.state()
        missing, unknown = own.keys() - tensors.keys(), tensors.keys() - own.keys()
        if missing or unknown:
            raise ValueError(
                f"weights do not fit {type(self).__name__}: missing {_some(missing)}, not expected {_some(unknown)}"
            )
        for name, array in own.items():
            if tensors[name].shape != array.shape:
                raise ValueError(f"weights do not fit: {name} has shape {tensors[name].shape}, expected {array.shape}")
        for name, array in own.items():
            array[...] = asarray_like(to_numpy(tensors[name]).astype(array.dtype, copy=False), array)

    def map_arrays(self, function: Callable[[str, Array], Array]) -> None:
        """Replace every parameter and buffer by function(dotted name, array)."""
        for prefix, layer in self.walk():
            for store in (layer.params, layer.buffers):
                for name, array in store.items():
                    store[name] = function(prefix + name, array)

    def to(self, xp: ModuleType | None = None, dtype: str | np.dtype | None = None) -> Layer:
        """Move parameters and buffers to the array library `xp` and to `dtype`, in place. Returns the layer."""

        def move(_: str, array: Array) -> Array:
            if dtype is not None:
                array = array.astype(dtype, copy=False)
            return array if xp is None or array_namespace(array) is xp else xp.asarray(to_numpy(array))

        self.map_arrays(move)
        return self

    def with_params(self, **arrays: Array) -> Layer:
        """A shallow copy that computes with other arrays in place of some of its own parameters."""
        other = copy.copy(self)
        other.params = {**self.params, **arrays}
        return other

    # ---- freezing

    def freeze(self, *patterns: str) -> list[str]:
        """Freeze the parameters whose dotted names match a pattern ("*", "blocks.0.*"). Returns the names."""
        return self._set_frozen(patterns or ("*",), True)

    def unfreeze(self, *patterns: str) -> list[str]:
        """Train the parameters whose dotted names match a pattern again. Returns the names."""
        return self._set_frozen(patterns or ("*",), False)

    def _set_frozen(self, patterns: tuple[str, ...], frozen: bool) -> list[str]:
        matched = []
        for prefix, layer in self.walk():
            for name in layer.params:
                if any(fnmatchcase(prefix + name, pattern) for pattern in patterns):
                    (layer.frozen.add if frozen else layer.frozen.discard)(name)
                    matched.append(prefix + name)
        if not matched:
            raise ValueError(f"no parameter matches {', '.join(patterns)}; names are {_some(self.parameters())}")
        return matched

    @property
    def is_frozen(self) -> bool:
        """True where no parameter in the whole tree is trained."""
        return self.frozen.issuperset(self.params) and all(child.is_frozen for child in self.children.values())

    # ---- for the backward of subclasses

    def wanted(self, need_dx: bool, **op_argument: str) -> set[str]:
        """The `wrt` of an op's backward: "x" if asked for, and the op's name of each parameter that is trained.

        Keywords rename: wanted(True, weight="gain") where the parameter "weight" is the op's argument "gain".
        """
        names = {op_argument.get(name, name) for name in self.params if name not in self.frozen}
        return names | {"x"} if need_dx else names

    def grads(self, **gradients: Array | None) -> Gradients:
        """The gradients of own parameters, without those that are frozen or None."""
        return {
            name: gradient
            for name, gradient in gradients.items()
            if gradient is not None and name in self.params and name not in self.frozen
        }


def under_first_names(layer: Layer, grads: Gradients) -> Gradients:
    """`grads` with those of a layer that stands in several places of `layer`'s tree summed under its first name."""
    if not _stands_twice(layer):
        return grads
    first: dict[int, str] = {}
    later = {prefix: first[id(part)] for prefix, part in layer.places() if first.setdefault(id(part), prefix) != prefix}
    summed: Gradients = {}
    for name, gradient in grads.items():
        place, dot, own = name.rpartition(".")
        merge(summed, {own: gradient}, later.get(place + dot, place + dot))
    return summed


def _stands_twice(layer: Layer) -> bool:
    """Whether any layer stands in two places of the tree. One loop, as every composite asks at every backward."""
    seen, below = set(), [layer]
    while below:
        for child in below.pop().children.values():
            if id(child) in seen:
                return True
            seen.add(id(child))
            below.append(child)
    return False


def merge(into: Gradients, more: Gradients, prefix: str = "") -> Gradients:
    """Add the gradients `more`, under `prefix`, to those in `into`, which is changed and returned.

    A name that is there already is summed: tied weights and micro-batches come together here and nowhere else.
    """
    for name, gradient in more.items():
        key = prefix + name
        into[key] = add(into[key], gradient) if key in into else gradient
    return into


def bind(layer: Layer, x: Any, **options: Any) -> tuple[Any, Callable[[Any], tuple[Any, Gradients]]]:
    """(y, backward): the layer's forward, and its backward as a function of dy alone.

    y, backward = bind(layer, x);  dx, grads = backward(dy)
    """
    y, cache = layer.forward(x, **options)
    return y, lambda dy: layer.backward(dy, cache)


def _some(names: Any, limit: int = 5) -> str:
    """A few of the names, for an error message."""
    ordered = sorted(names)
    listed = ", ".join(ordered[:limit]) or "nothing"
    return listed if len(ordered) <= limit else f"{listed} and {len(ordered) - limit} more"
