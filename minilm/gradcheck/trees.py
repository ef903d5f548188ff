"""A layer, a tree of named parameters, as an op pair: what the checker differentiates and holds to the laws.

The arguments of the pair are the layer's inputs and every parameter; a parameter is replaced by swapping the array in
the tree for the time of one call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from minilm.backend import Array
from minilm.gradcheck.checker import gradcheck
from minilm.gradcheck.laws import broken_laws
from minilm.gradcheck.report import Report, ReportRow
from minilm.gradcheck.structures import draw_like, fresh, leaves


class LayerLike(Protocol):
    """What is asked of a layer.

    Besides, y, cache = forward(x, train=..., cache=..., ...) and dx, grads = backward(dy, cache, need_dx=...). Dotted
    names are prefixes, which `walk` gives with every layer of the tree, and the names in `params`.
    """

    params: dict[str, Array]
    buffers: dict[str, Array]
    frozen: set[str]  # names in `params` that get no gradient

    def walk(self) -> Iterator[tuple[str, LayerLike]]: ...

    def parameters(self) -> dict[str, Array]: ...

    def trainable(self) -> dict[str, Array]: ...


class Tree:
    """A layer as forward(*arrays) and backward(dy, cache) over its inputs and parameters.

    forward    of the arrays by name, and train= and cache=: y and cache
    backward   of dy and that cache, and for layers need_dx=: gradients by name
    """

    def __init__(
        self, layer: Any, inputs: dict[str, Any],
        forward: Callable[..., tuple[Any, Any]], backward: Callable[..., dict[str, Any]],
    ) -> None:  # fmt: skip
        self.op, self.layer, self.inputs = type(layer).__name__, layer, inputs
        self.run_forward, self.run_backward = forward, backward
        self.names = [*inputs, *layer.parameters()]
        self.values = tuple(fresh(array) for array in [*inputs.values(), *layer.parameters().values()])

    def forward(self, *values: Any, train: bool, cache: bool = True) -> tuple[Any, Any]:
        by_name = dict(zip(self.names, values, strict=True))
        with swapped(self.layer, by_name):
            y, inner = self.run_forward(by_name, train=train, cache=cache)
        return y, (inner, by_name) if cache else inner

    def backward(self, dy: Any, cache: Any, **options: Any) -> dict[str, Any]:
        inner, by_name = cache
        with swapped(self.layer, by_name):
            return self.run_backward(dy, inner, **options)

    def gradients(self, seed: int, *, train: bool, **options: Any) -> dict[str, Any]:
        """All gradients by name, for the dy that is drawn from `seed`."""
        y, cache = self.forward(*map(fresh, self.values), train=train)
        return self.backward(draw_like(y, np.random.default_rng(seed)), cache, **options)

    def check(self, names: list[str], call: str, *, train: bool, seed: int, laws: bool, **options: Any) -> Report:
        """`gradcheck` of the arguments `names`, with `options`; the names of the gradients; and `check_laws`."""

        def forward(*values: Any, cache: bool = True) -> tuple[Any, Any]:
            return self.forward(*values, train=train, cache=cache)

        # The checker reads names from the signature; parameter names hold dots, so they are set, not written.
        forward.__name__ = self.op
        wrt = [self.names.index(name) for name in names]
        labels = [f"args[{position}]" for position in wrt]

        def backward(dy: Any, cache: Any) -> tuple[Any, ...]:
            found = self.backward(dy, cache)
            return tuple(found.get(name) for name in names)

        chosen = {"wrt": wrt, "gradients": labels, "seed": seed}
        report = gradcheck(forward, backward, self.values, **chosen, **options)
        rows = [row._replace(argument=self._renamed(row.argument)) for row in report.rows]
        rows += self._name_rows(self.gradients(seed, train=train))
        if laws and all(row.passed for row in rows):
            broken = broken_laws(forward, backward, self.values, **chosen)
            rows += [row._replace(note=self._renamed(row.note)) for row in broken]
        return Report(tuple(rows), call, seed, self._renamed(report.arguments))

    def _renamed(self, text: str) -> str:
        for position in reversed(range(len(self.names))):
            text = text.replace(f"args[{position}]", self.names[position])
        return text

    def _name_rows(self, gradients: dict[str, Any]) -> list[ReportRow]:
        """A failed row for each gradient that is missing, and for each that belongs to no trained parameter."""
        got, expected = gradients.keys() - self.inputs.keys(), self.layer.trainable().keys()
        missing = [ReportRow.broken(self.op, n, "no gradient came back for this parameter") for n in expected - got]
        extra = [ReportRow.broken(self.op, n, "a gradient for what is no trained parameter") for n in got - expected]
        return missing + extra


@contextlib.contextmanager
def swapped(layer: LayerLike, arrays: dict[str, Array]) -> Iterator[None]:
    """Within this block the tree computes with `arrays` (by dotted name); buffers are copies that may be written to.

    Buffers follow: complex where a parameter or input is, float32 where they are. Everything is put back at the end.
    """
    before = [(sub, dict(sub.params), dict(sub.buffers)) for _, sub in layer.walk()]
    floating = [array for value in arrays.values() for _, array in leaves(value) if array.dtype.kind in "fc"]
    dtype = np.result_type(*(array.dtype for array in floating)) if floating else None
    try:
        for prefix, sub in layer.walk():
            for name in sub.params:
                sub.params[name] = arrays.get(prefix + name, sub.params[name])
            for name, buffer in sub.buffers.items():
                follows = buffer.dtype.kind == "f" and dtype is not None
                sub.buffers[name] = buffer.astype(dtype) if follows else buffer.copy()
        yield
    finally:
        for sub, params, buffers in before:
            sub.params.update(params)
            sub.buffers.update(buffers)


@contextlib.contextmanager
def frozen(layer: LayerLike, names: set[str]) -> Iterator[None]:
    """Within this block the parameters `names` (dotted) are frozen, besides those that are."""
    before = [(sub, set(sub.frozen)) for _, sub in layer.walk()]
    try:
        for prefix, sub in layer.walk():
            sub.frozen |= {name for name in sub.params if prefix + name in names}
        yield
    finally:
        for sub, own in before:
            sub.frozen = own
