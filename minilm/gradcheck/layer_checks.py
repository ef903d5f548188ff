"""`check_layer` and `check_model`: gradient checks and laws of whole layers and models, parameters included."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from minilm.backend import generator
from minilm.gradcheck.layer_laws import freezing_rows, inference_rows
from minilm.gradcheck.report import Report, call_text
from minilm.gradcheck.structures import fresh, is_floating, leaves, map_leaves
from minilm.gradcheck.trees import LayerLike, Tree


def check_layer(
    layer: Any,
    x: Any,
    *,
    train: bool = True,
    seed: int = 0,
    method: str = "auto",
    mode: str = "fast",
    rtol: float | None = None,
    laws: bool = True,
    **forward_options: Any,
) -> Report:
    """Check every parameter of `layer`, x, and the floating arrays among the keywords of its forward.

    Beyond the numbers, each a failed row of the report where broken: gradients have the names of `layer.trainable()`; a
    frozen parameter has no gradient and leaves the others as they are; need_dx=False gives None; cache=False gives the
    same y and no cache; with `laws` all of `check_laws`. A layer that trains is differentiated as it infers too.
    Dropout draws the same at each call: an `rng` in the options is handed over in its present state, and a forward that
    takes an `rng` gets generator(seed) if the options hold none.

    layer      anything like `trees.LayerLike`, parameters in float64; its tree is left as it was
    x          an array, floating or ids
    train      of the forward; False: as it infers, alone
    Raises TypeError for parameters that are not float64.
    """
    _require_float64(layer)
    options = dict(forward_options)
    if "rng" in inspect.signature(layer.forward).parameters:
        options.setdefault("rng", generator(seed))
    inputs = {"x": x} | {
        name: value for name, value in options.items() if any(is_floating(a) for _, a in leaves(value))
    }
    flat = {f"{name}{path}": array for name, value in inputs.items() for path, array in leaves(value)}

    def forward(values: dict[str, Any], **flags: bool) -> tuple[Any, Any]:
        given = {name: _refill(value, name, values) for name, value in inputs.items()}
        return layer.forward(given.pop("x"), **flags, **{name: fresh(value) for name, value in options.items()} | given)

    def backward(dy: Any, cache: Any, need_dx: bool = True) -> dict[str, Any]:
        dx, grads = layer.backward(dy, cache, need_dx=need_dx)
        # What a backward gives for its inputs: dx, or (dx, gradients of further inputs).
        several = isinstance(dx, tuple) and (len(inputs) > 1 or not isinstance(x, tuple))
        back = dict(zip(inputs, dx if several else (dx,), strict=False))
        return {f"{name}{path}": array for name, value in back.items() for path, array in leaves(value)} | grads

    tree = Tree(layer, flat, forward, backward)
    differentiable = [name for name, array in flat.items() if is_floating(array)]
    if len(inputs) > 1 and len(differentiable) > 1:  # an additive mask among the options, say, has no gradient
        returned = tree.gradients(seed, train=train)
        differentiable = [name for name in differentiable if name in returned or name.partition("[")[0] == "x"]
    checked = [*differentiable, *layer.trainable()]
    settings: dict[str, Any] = {"seed": seed, "method": method, "mode": mode, "rtol": rtol}
    optional = {"train": None if train else False, "laws": None if laws else False}
    call = call_text("check_layer", "layer", "x", **settings, **optional, **forward_options)
    report = tree.check(checked, call, train=train, laws=laws, **settings)
    rows = [*report.rows, *freezing_rows(tree, seed, train=train)]
    if train:
        rows += inference_rows(tree, checked, **settings)
    return report._replace(rows=tuple(rows))


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
    """Check every parameter of `model` through `loss(batch, train=, cache=, rng=generator(rng_seed))`, `loss_backward`.

    Model parameters in float64; the tree is left as it was. Gradients must have the names of `model.trainable()`.
    """
    _require_float64(model)

    def forward(values: dict[str, Any], **flags: bool) -> tuple[Any, Any]:
        like = next(iter(model.parameters().values())).real.dtype  # floating features follow the parameters
        given = map_leaves(lambda array: array.astype(like) if array.dtype.kind == "f" else array, batch)
        return model.loss(given, **flags, rng=generator(rng_seed))

    settings: dict[str, Any] = {"seed": seed, "method": method, "mode": mode, "rtol": rtol}
    optional = {"train": None if train else False, "laws": None if laws else False}
    call = call_text("check_model", "model", "batch", rng_seed=rng_seed, **settings, **optional)
    return Tree(model, {}, forward, model.loss_backward).check(
        [*model.trainable()], call, train=train, laws=laws, **settings
    )


def _require_float64(layer: LayerLike) -> None:
    wrong = {name: array.dtype for name, array in layer.parameters().items() if array.dtype != np.float64}
    if wrong:
        name, dtype = next(iter(wrong.items()))
        raise TypeError(f"parameter {name} is {dtype}; gradients are checked in float64: use .to(dtype='float64')")


def _refill(value: Any, name: str, values: dict[str, Any]) -> Any:
    """`value` with its arrays taken from `values`, in the order in which `leaves` numbers them."""
    names = iter([f"{name}{path}" for path, _ in leaves(value)])
    return map_leaves(lambda _: values[next(names)], value)
