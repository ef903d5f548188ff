"""The base of all optimizers: flat buffers, accumulation, clipping, saved state, and the walk over blocks.

    optimizer.accumulate(grads)       once for each micro-batch
    optimizer.clip(1.0)               optional
    optimizer.step(lr)                updates the layer's parameters in place; the next accumulate starts anew

A rule subclasses `Optimizer` and gives `_update`, a few in-place operations on one block of the flat arrays. On the CPU
a block fits the cache, so that the rule's dozen operations read and write memory once; on a GPU a block is everything.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilm.backend import Array, asarray_like, to_numpy
from minilm.checks import number
from minilm.layers.base import Gradients, Layer
from minilm.optim.flat import FlatParameters
from minilm.threads import spread

BLOCK = 1 << 17  # numbers: passes over a block stay in the cache; with smaller ones threads wait for each other
THREAD_BLOCKS = 2  # that a thread has at least: a quarter of a million numbers; 2 threads are 1.5 times as fast as 1


class Optimizer:
    """The base of SGD, Adam and AdamW. `no_decay(name, array)` is True for parameters without weight decay."""

    moments: tuple[str, ...] = ()  # names of the flat arrays that the rule keeps

    def __init__(
        self,
        layer: Layer,
        lr: float,
        weight_decay: float,
        no_decay: Callable[[str, Array], bool] = lambda name, array: False,
    ) -> None:
        self.lr, self.weight_decay = number("lr", lr), number("weight_decay", weight_decay)
        self.flat = FlatParameters(layer, group=lambda name, array: bool(no_decay(name, array)))
        self.xp = self.flat.xp
        self.steps = 0
        self._moments = {name: self.xp.zeros_like(self.flat.values) for name in self.moments}

    def accumulate(self, *grads: Gradients, scale: float = 1.0) -> None:
        """Add scale · Σ grads to the gradient of this step. Each must name exactly the trained parameters."""
        self.flat.accumulate(*grads, scale=scale)

    def clip(self, max_norm: float) -> Array:
        """Scale the accumulated gradient to a global norm of at most `max_norm`; returns the norm before."""
        if not max_norm > 0:
            raise ValueError(f"max_norm must be above 0, got {max_norm}")
        return self.flat.clip(max_norm)

    def norm(self) -> Array:
        """The global norm of the accumulated gradient."""
        return self.flat.norm()

    def step(self, lr: float | None = None) -> None:
        """One update with the accumulated gradient, at `lr` or else the rate given at the start."""
        if not self.flat.filled:
            raise ValueError("there is no gradient to step with; call accumulate(grads) first")
        self.flat.filled = False
        self.steps += 1
        lr = self.lr if lr is None else float(lr)  # a NumPy float64 would make float32 blocks float64
        flat = self.flat
        size = BLOCK if self.xp is np else max(1, flat.values.size)
        blocks = [
            (0.0 if undecayed else self.weight_decay, slice(start, min(start + size, part.stop)))
            for undecayed, part in flat.segments
            for start in range(part.start, part.stop, size)
        ]

        def update(first: int, last: int) -> None:
            scratch = self.xp.empty(min(size, flat.values.size), dtype=flat.values.dtype)
            for decay, block in blocks[first:last]:
                moments = [array[block] for array in self._moments.values()]
                part = scratch[: block.stop - block.start]
                self._update(flat.values[block], flat.gradient[block], part, *moments, lr=lr, decay=decay)

        spread(update, len(blocks), most=len(blocks) // THREAD_BLOCKS)

    def _update(self, p: Array, g: Array, scratch: Array, *moments: Array, lr: float, decay: float) -> None:
        """Update one block: p in place, and its moments. g and scratch may be overwritten."""
        raise TypeError(f"{type(self).__name__} defines no update rule")

    def state(self) -> dict[str, Array]:
        """For a checkpoint, besides the parameters: moments (the arrays themselves), step count, layout."""
        return {**self._moments, "steps": np.array(self.steps, dtype=np.int64), "layout": self.flat.layout()}

    def load_state(self, state: dict[str, Array]) -> None:
        """Take over what `state()` gave. Raises ValueError, and changes nothing, where it does not fit."""
        expected = {*self.moments, "steps", "layout"}
        if state.keys() != expected:
            raise ValueError(
                f"this is not the state of {type(self).__name__}: it holds {', '.join(sorted(state)) or 'nothing'}, "
                f"expected {', '.join(sorted(expected))}"
            )
        if not np.array_equal(to_numpy(state["layout"]), self.flat.layout()):
            raise ValueError(
                "the optimizer's state was written for other parameters; freeze the same ones and build the same model"
            )
        for name in self.moments:
            if state[name].shape != self.flat.values.shape:
                raise ValueError(f"{name} has shape {state[name].shape}, expected {self.flat.values.shape}")
        for name, own in self._moments.items():
            own[...] = asarray_like(to_numpy(state[name]).astype(own.dtype, copy=False), own)
        self.steps = int(to_numpy(state["steps"]))
        self.flat.filled = False
