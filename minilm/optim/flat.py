"""All trained parameters in one flat array, and their gradients in another of the same layout.

    values    [ weight₁ | weight₂ | … | bias₁ | gain₁ | … ]     (N,)   layer.params[...] are views of this array
    gradient  [ ∂weight₁ | ∂weight₂ | …                   ]     (N,)   same places

An update is then one pass over N numbers instead of a few small ones for each parameter, and the global norm of the
gradient is one dot product. Parameters with the same `group` lie together: a group (those that decay) is one slice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minilm.backend import Array, array_namespace
from minilm.layers.base import Gradients, Layer


class Slot(NamedTuple):
    """The place of one parameter."""

    owner: Layer
    key: str  # its name within the owner
    value: Array  # view of `values`; the owner's params[key] is this very array
    gradient: Array  # view of `gradient`, same shape


class FlatParameters:
    """Turns the trainable parameters of `layer` into views of one array.

    `group(name, array)` gives a sort key; parameters are laid out by group, then in the layer's order. Everything that
    replaces arrays (`to`, freezing, loading other layers) comes first, the flat array last: a parameter that is
    replaced afterwards is noticed at the next `accumulate`. `load_state` copies, so it may come at any time.
    """

    def __init__(self, layer: Layer, group: Callable[[str, Array], Any] = lambda name, array: 0) -> None:
        trainable = layer.trainable()
        if not trainable:
            raise ValueError("there is nothing to train: every parameter is frozen; unfreeze some first")
        dtypes = sorted({array.dtype.name for array in trainable.values()})
        if len(dtypes) > 1 or dtypes[0] not in ("float32", "float64"):
            raise TypeError(
                f"trained parameters must share float32 or float64, got {', '.join(dtypes)}; use layer.to()"
            )
        self.xp = array_namespace(*trainable.values())
        groups = {name: group(name, array) for name, array in trainable.items()}
        names = sorted(trainable, key=groups.__getitem__)  # a stable sort: the layer's order within a group

        size = sum(trainable[name].size for name in names)
        self.values = self.xp.empty(size, dtype=dtypes[0])  # (N,)
        self.gradient = self.xp.zeros(size, dtype=dtypes[0])  # (N,)
        self.segments: list[tuple[Any, slice]] = []  # each group with its part of the flat arrays
        self.slots: dict[str, Slot] = {}
        self.filled = False  # whether `gradient` holds something that was not used yet

        owners = {prefix + key: (owner, key) for prefix, owner in layer.walk() for key in owner.params}
        stop = 0
        for name in names:
            array, (owner, key) = trainable[name], owners[name]
            start, stop = stop, stop + array.size
            value = self.values[start:stop].reshape(array.shape)
            value[...] = array
            owner.params[key] = value
            self.slots[name] = Slot(owner, key, value, self.gradient[start:stop].reshape(array.shape))
            if self.segments and self.segments[-1][0] == groups[name]:
                start = self.segments.pop()[1].start
            self.segments.append((groups[name], slice(start, stop)))

    def accumulate(self, *grads: Gradients, scale: float = 1.0) -> None:
        """gradient += scale · Σ grads; the first call after a step overwrites instead.

        Raises ValueError, before anything is written, for a name that is missing or unknown, and for a wrong shape.
        """
        for each in grads:
            self._check(each)
        for name, slot in self.slots.items():
            first, *more = (each[name] if scale == 1.0 else each[name] * scale for each in grads)
            if self.filled:
                self.xp.add(slot.gradient, first, out=slot.gradient)
            elif more:  # two at once: one pass over memory less
                self.xp.add(first, more.pop(0), out=slot.gradient)
            else:
                slot.gradient[...] = first
            for gradient in more:
                self.xp.add(slot.gradient, gradient, out=slot.gradient)
        self.filled = True

    def _check(self, grads: Gradients) -> None:
        missing, unknown = self.slots.keys() - grads.keys(), grads.keys() - self.slots.keys()
        if missing:
            raise ValueError(
                f"no gradient for {min(missing)}, which the optimizer trains ({len(missing)} missing); was it frozen "
                "or removed after the optimizer was made?"
            )
        if unknown:
            raise ValueError(
                f"a gradient for {min(unknown)}, which the optimizer does not train ({len(unknown)} unknown); was it "
                "unfrozen or added after the optimizer was made?"
            )
        for name, slot in self.slots.items():
            if grads[name].shape != slot.value.shape or grads[name].dtype != slot.value.dtype:
                raise ValueError(
                    f"the gradient of {name} is {grads[name].dtype} {grads[name].shape}, expected {slot.value.dtype} "
                    f"{slot.value.shape}"
                )
            if slot.owner.params.get(slot.key) is not slot.value:
                raise ValueError(
                    f"parameter {name} was replaced after the optimizer was made, so it would not be trained; make the "
                    "optimizer last"
                )

    def gradients(self) -> Gradients:
        """The gathered gradients by parameter name: views."""
        return {name: slot.gradient for name, slot in self.slots.items()}

    def norm(self) -> Array:
        """√Σ g² over all parameters; a scalar of the array library (no synchronisation on a GPU).

        Infinite where a square overflows (|g| above 1e19 in float32): nobody can train with that.
        """
        with np.errstate(over="ignore", invalid="ignore"):  # the caller looks at the result, on either library
            return self.xp.sqrt(self.xp.dot(self.gradient, self.gradient))

    def clip(self, max_norm: float) -> Array:
        """Scale the gradient so that its global norm is at most `max_norm`. Returns the norm before.

        g ← g · min(1, max_norm / (‖g‖ + 1e-6)), as PyTorch's `clip_grad_norm_`. [Pascanu et al. 2013, section 3.2]
        Where the norm is not finite the gradient stays as it is, so that the guilty parameter can still be found.
        """
        norm = self.norm()
        factor = float(max_norm) / (norm + 1e-6)
        if self.xp is np:
            if 0.0 < factor < 1.0:
                np.multiply(self.gradient, factor, out=self.gradient)
        else:  # decided on the device: a Python `if` would wait for it
            factor = self.xp.where((factor > 0.0) & (factor < 1.0), factor, self.xp.ones_like(factor))
            self.xp.multiply(self.gradient, factor, out=self.gradient)
        return norm

    def layout(self) -> np.ndarray:
        """A fingerprint (32 bytes, uint8) of names, shapes and order: flat moments fit no other layout."""
        text = ";".join(f"{name}{tuple(slot.value.shape)}" for name, slot in self.slots.items())
        return np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype=np.uint8)


def find_nonfinite(grads: Gradients) -> str | None:
    """The name of the first array that holds NaN or infinity, or None. On a GPU this waits for the device."""
    for name, grad in grads.items():
        xp = array_namespace(grad)
        if not bool(xp.isfinite(grad).all()):
            return name
    return None
