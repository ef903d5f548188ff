"""`check_layer` and `check_model`: gradient checks and laws of whole layers, parameters included.

A layer becomes an op pair for the checker: its arguments are x, the floating arrays among the keywords of forward, and
every parameter; a parameter is replaced by swapping the array in the tree for the time of one call.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minilm.backend import Array, generator, to_numpy
from minilm.gradcheck.checker import gradcheck
from minilm.gradcheck.comparison import Comparison
from minilm.gradcheck.laws import LawViolation, check_laws
from minilm.gradcheck.report import Report, Row
from minilm.gradcheck.structures import draw_like, fresh, is_floating, leaves, map_leaves


def check_layer(
    layer: Any,
    x: Any,
    *,
    seed: int = 0,
    method: str = "auto",
    mode: str = "fast",
    rtol: float | None = None,
    laws: bool = True,
    **forward_options: Any,
) -> Report:
    """Check every parameter of `layer`, x, and the floating arrays among the keywords of its forward.

    Beyond the numbers, each a failed row of the report where broken: gradients have the names of `layer.trainable()`; a
    frozen parameter has no gradient and leaves the others as they are; need_dx=False gives None; and with `laws` all of
    `check_laws`. Dropout draws the same at each call: an `rng` in the options is handed over in its present state, and
    a forward that takes an `rng` gets generator(seed) if the options hold none.

    layer      parameters in float64 (layer.to(dtype="float64")); its tree is left as it was
    x          an array, floating or ids
    Raises TypeError for parameters that are not float64.
    """
    _require_float64(layer)
    options = dict(forward_options)
    if "rng" in inspect.signature(layer.forward).parameters:
        options.setdefault("rng", generator(seed))
    inputs = {"x": x} | {name: value for name, value in options.items() if any(map(is_floating, _arrays(value)))}
    flat = {f"{name}{path}": array for name, value in inputs.items() for path, array in leaves(value)}

    def forward(values: dict[str, Any]) -> tuple[Any, Any]:
        given = {name: _refill(value, name, values) for name, value in inputs.items()}
        return layer.forward(given.pop("x"), **{name: fresh(value) for name, value in options.items()} | given)

    def backward(dy: Any, cache: Any) -> dict[str, Any]:
        dx, grads = layer.backward(dy, cache, need_dx=True)
        back = dict(zip(inputs, _parts(dx, x, len(inputs)), strict=False))
        return {f"{name}{path}": array for name, value in back.items() for path, array in leaves(value)} | grads

    tree = _Tree(type(layer).__name__, layer, flat, forward, backward)
    differentiable = [name for name, array in flat.items() if is_floating(array)]
    if len(inputs) > 1 and len(differentiable) > 1:  # an additive mask among the options, say, has no gradient
        returned = tree.gradients_at(seed)
        differentiable = [name for name in differentiable if name in returned or name.partition("[")[0] == "x"]
    report = tree.check(
        [*differentiable, *layer.trainable()], seed, method, mode, rtol, laws, "check_layer(layer, x, ...)"
    )
    return _with_rows(report, _frozen_rows(tree, seed))


def check_model(
    model: Any,
    batch: Any,
    *,
    train: bool = True,
    rng_seed: int = 0,
    seed: int = 0,
    method: str = "auto",
    mode: str = "fast",
    rtol: float | None = None,
    laws: bool = True,
) -> Report:
    """Check every parameter of `model` through `loss(batch, train=train, rng=generator(rng_seed))` and `loss_backward`.

    Model parameters in float64; the tree is left as it was. Gradients must have the names of `model.trainable()`.
    """
    _require_float64(model)

    def forward(values: dict[str, Any]) -> tuple[Any, Any]:
        like = next(iter(model.parameters().values())).real.dtype  # floating features follow the parameters
        given = map_leaves(lambda array: array.astype(like) if array.dtype.kind == "f" else array, batch)
        return model.loss(given, train=train, rng=generator(rng_seed))

    def backward(dy: Any, cache: Any) -> dict[str, Any]:
        return model.loss_backward(dy, cache)

    tree = _Tree(type(model).__name__, model, {}, forward, backward)
    return tree.check(
        [*model.trainable()], seed, method, mode, rtol, laws, f"check_model(model, batch, {train=}, {rng_seed=})"
    )


class _Tree:
    """A layer or model as forward(*arrays) and backward(dy, cache) over its inputs and parameters, by name."""

    def __init__(
        self, op: str, layer: Any, inputs: dict[str, Any],
        forward: Callable[[dict[str, Any]], tuple[Any, Any]], backward: Callable[[Any, Any], dict[str, Any]],
    ) -> None:  # fmt: skip
        self.op, self.layer, self.inputs, self.run_forward, self.run_backward = op, layer, inputs, forward, backward
        self.names = [*inputs, *layer.parameters()]
        self.values = tuple(fresh(array) for array in [*inputs.values(), *layer.parameters().values()])

    def forward(self, *values: Any) -> tuple[Any, Any]:
        by_name = dict(zip(self.names, values, strict=True))
        with swapped(self.layer, by_name):
            y, cache = self.run_forward(by_name)
        return y, (cache, by_name)

    def backward_by_name(self, dy: Any, cache: Any) -> dict[str, Any]:
        inner, by_name = cache
        with swapped(self.layer, by_name):
            return self.run_backward(dy, inner)

    def gradients_at(self, seed: int) -> dict[str, Any]:
        y, cache = self.forward(*self.values)
        return self.backward_by_name(draw_like(y, np.random.default_rng(seed)), cache)

    def check(
        self, checked: list[str], seed: int, method: str, mode: str, rtol: float | None, laws: bool, call: str
    ) -> Report:
        def forward(*values: Any) -> tuple[Any, Any]:
            return self.forward(*values)

        # The checker reads names from the signature; parameter names hold dots, so they are set, not written.
        forward.__name__ = self.op
        wrt = [self.names.index(name) for name in checked]
        labels = [f"args[{position}]" for position in range(len(self.names))]

        def backward(dy: Any, cache: Any) -> tuple[Any, ...]:
            found = self.backward_by_name(dy, cache)
            return tuple(found.get(self.names[position]) for position in wrt)

        selected = [labels[position] for position in wrt]
        report = gradcheck(
            forward, backward, self.values, wrt=wrt, method=method, mode=mode, seed=seed, rtol=rtol, gradients=selected
        )
        rows = [row._replace(argument=self._name(row.argument)) for row in report.rows]
        rows += self._key_rows(seed)
        if laws and all(row.passed for row in rows):
            try:
                check_laws(forward, backward, self.values, seed=seed, wrt=wrt, gradients=selected)
            except LawViolation as violation:
                rows.append(_broken(self.op, "(all)", self._renamed(str(violation))))
        described = self._renamed(report.arguments)
        return Report(tuple(rows), call.replace(")", f", {seed=}, {method=}, {mode=})"), seed, described)

    def _name(self, label: str) -> str:
        return self.names[int(label[5:-1])] if label.startswith("args[") else label

    def _renamed(self, text: str) -> str:
        for position in reversed(range(len(self.names))):
            text = text.replace(f"args[{position}]", self.names[position])
        return text

    def _key_rows(self, seed: int) -> list[Row]:
        keys, expected = self.gradients_at(seed).keys() - self.inputs.keys(), self.layer.trainable().keys()
        rows = [_broken(self.op, name, "no gradient came back for this parameter") for name in expected - keys]
        return rows + [
            _broken(self.op, name, "a gradient for what is no trained parameter") for name in keys - expected
        ]


def _frozen_rows(tree: _Tree, seed: int) -> list[Row]:
    """Freezing each parameter in turn, and all; need_dx=False."""
    layer, rows = tree.layer, []
    y, _ = tree.forward(*tree.values)
    dy = draw_like(y, np.random.default_rng(seed))

    def run(need_dx: bool) -> tuple[Any, dict[str, Any]]:
        with swapped(layer, dict(zip(tree.names, map(fresh, tree.values), strict=True))):
            _, cache = tree.run_forward(dict(zip(tree.names, tree.values, strict=True)))
            return layer.backward(fresh(dy), cache, need_dx=need_dx)

    dx, whole = run(True)
    without_dx, grads = run(False)
    if _arrays(_parts(without_dx, tree.inputs.get("x", ()), len(tree.inputs))[0]):
        rows.append(_broken(tree.op, "x", "need_dx=False still gives dx"))
    rows += _differences(tree.op, grads, whole, "need_dx=False")
    for frozen in [[name] for name in whole] + [list(whole)] * (len(whole) > 1):
        with _frozen(layer, set(frozen)):
            got_dx, grads = run(True)
        expected = {name: gradient for name, gradient in whole.items() if name not in frozen}
        what = "freezing all" if len(frozen) > 1 else f"freezing {frozen[0]}"
        rows += _differences(tree.op, grads, expected, what)
        if not _close(got_dx, dx):
            rows.append(_broken(tree.op, "x", f"{what} changes dx"))
    return rows


def _differences(op: str, got: dict[str, Any], expected: dict[str, Any], what: str) -> list[Row]:
    rows = [_broken(op, name, f"{what}: it still has a gradient") for name in got.keys() - expected.keys()]
    rows += [_broken(op, name, f"{what}: its gradient is missing") for name in expected.keys() - got.keys()]
    shared = got.keys() & expected.keys()
    return rows + [_broken(op, n, f"{what} changes its gradient") for n in shared if not _close(got[n], expected[n])]


def _close(a: Any, b: Any) -> bool:
    left, right = [to_numpy(array) for _, array in leaves(a)], [to_numpy(array) for _, array in leaves(b)]
    return len(left) == len(right) and all(
        x.shape == y.shape and np.allclose(x, y, rtol=1e-10, atol=1e-12 * float(np.abs(y).max(initial=0.0)))
        for x, y in zip(left, right, strict=True)
    )


@contextlib.contextmanager
def swapped(layer: Any, arrays: dict[str, Array]) -> Iterator[None]:
    """Within this block the tree computes with `arrays` (by dotted name); buffers are copies that may be written to.

    Buffers follow: complex where a parameter or input is, float32 where they are. Everything is put back at the end.
    """
    kept = [(sub, dict(sub.params), dict(sub.buffers)) for _, sub in layer.walk()]
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
        for sub, params, buffers in kept:
            sub.params.update(params)
            sub.buffers.update(buffers)


@contextlib.contextmanager
def _frozen(layer: Any, names: set[str]) -> Iterator[None]:
    kept = [(sub, set(sub.frozen)) for _, sub in layer.walk()]
    try:
        for prefix, sub in layer.walk():
            sub.frozen |= {name for name in sub.params if prefix + name in names}
        yield
    finally:
        for sub, frozen in kept:
            sub.frozen = frozen


def _require_float64(layer: Any) -> None:
    wrong = {name: array.dtype for name, array in layer.parameters().items() if array.dtype != np.float64}
    if wrong:
        name, dtype = next(iter(wrong.items()))
        raise TypeError(f"parameter {name} is {dtype}; gradients are checked in float64: use .to(dtype='float64')")


def _parts(dx: Any, x: Any, inputs: int) -> tuple[Any, ...]:
    """What a layer's backward gives for its inputs: dx, or (dx, gradients of further inputs)."""
    return dx if isinstance(dx, tuple) and (inputs > 1 or not isinstance(x, tuple)) else (dx,)


def _arrays(value: Any) -> list[Array]:
    return [array for _, array in leaves(value)]


def _refill(value: Any, name: str, values: dict[str, Any]) -> Any:
    """`value` with its arrays taken from `values`, in the order in which `leaves` numbers them."""
    names = iter([f"{name}{path}" for path, _ in leaves(value)])
    return map_leaves(lambda _: values[next(names)], value)


def _broken(op: str, name: str, note: str) -> Row:
    return Comparison(None, op, "auto", "fast", {}).broken(name, note)


def _with_rows(report: Report, rows: list[Row]) -> Report:
    return report._replace(rows=(*report.rows, *rows))
