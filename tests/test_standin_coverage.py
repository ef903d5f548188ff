"""Every public op, layer and model runs on the strict stand-in, forward and backward, in float32 and without a wait.

What runs are the cases of `minilm gradcheck`, which know the options of everything; the numbers must be NumPy's. The
last tests walk the public names of the three packages, so that none can be forgotten.
"""

from __future__ import annotations

import copy
import inspect
import sys

import numpy as np
import pytest

import minilm.layers
import minilm.models
import minilm.ops
from minilm.gradcheck import cases, layer_cases, model_cases, op_cases, sequence_cases
from minilm.gradcheck.structures import draw_like, fresh, leaves, map_leaves
from minilm.selection import registered
from tests import strict_cupy
from tests.models.tiny import make

OPS, LAYERS, MODELS = [*op_cases.CASES, *sequence_cases.CASES], [*layer_cases.CASES], [*model_cases.CASES]


@pytest.fixture
def device(monkeypatch):
    """The stand-in as the module cupy."""
    monkeypatch.setitem(sys.modules, "cupy", strict_cupy.strict)
    return strict_cupy.strict


def given(tree, xp):
    """A tree of host arrays in the library `xp`, floating ones in float32; generators start anew."""
    if isinstance(tree, dict):
        return {name: given(value, xp) for name, value in tree.items()}
    single = map_leaves(lambda a: a.astype("float32") if a.dtype.kind == "f" else a, fresh(tree))
    return single if xp is np else map_leaves(xp.asarray, single)


def check(step, device):
    """step(xp) gives the same numbers on both libraries; on the device without a wait, and in device arrays."""
    want = dict(leaves(step(np)))
    with strict_cupy.no_sync():
        got = dict(leaves(step(device)))
    assert want and got.keys() == want.keys()
    for path, array in got.items():
        assert type(array) is strict_cupy.StrictArray and array.dtype == want[path].dtype, path
        np.testing.assert_allclose(array.get(), want[path], rtol=1e-4, atol=1e-6, err_msg=path)


# ---- what the cases of gradcheck would call


def op_calls(name, monkeypatch):
    """(op, arrays, options) of each case."""
    calls = []

    def keep(op, label, *, wrt=None, options=None, **arrays):
        calls.append((op, arrays, options or {}))

    with monkeypatch.context() as patch:
        patch.setattr(op_cases.Op, "__call__", keep)
        assert list(cases._builders()[name](0)) == [None] * len(calls)
    return calls


def trees(name, monkeypatch):
    """(layer, x, options) of each case of a layer, (model, batch, {}) of a model."""
    calls = []

    def keep(tree, x, *, seed, **options):
        calls.append((tree, x, options))

    with monkeypatch.context() as patch:
        patch.setattr(layer_cases, "check_layer", keep)
        patch.setattr(model_cases, "check_model", keep)
        for case in cases._builders()[name](0):
            case.run(0)
    return calls


# ---- forward and backward


@pytest.mark.parametrize("name", OPS)
def test_op(name, device, monkeypatch):
    calls = op_calls(name, monkeypatch)
    assert calls
    for op, arrays, options in calls:

        def step(xp, op=op, arrays=arrays, options=options):
            y, cache = op.op(**given(arrays, xp), **given(options, xp))
            return y, op.op.backward(draw_like(y, np.random.default_rng(0)), cache)

        check(step, device)


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name, device, monkeypatch):
    calls = trees(name, monkeypatch)
    assert calls
    for layer, x, options in calls:

        def step(xp, layer=layer, x=x, options=options):
            layer = copy.deepcopy(layer).to(xp, "float32")
            y, cache = layer.forward(given(x, xp), rng=np.random.default_rng(1), **given(options, xp))
            return y, layer.backward(draw_like(y, np.random.default_rng(0)), cache)

        check(step, device)


@pytest.mark.parametrize("name", MODELS)
def test_model(name, device, monkeypatch):
    calls = trees(name, monkeypatch)
    assert calls
    for model, batch, _ in calls:

        def step(xp, model=model, batch=batch):
            model = copy.deepcopy(model).to(xp, "float32")
            loss, cache = model.loss(given(batch, xp), rng=np.random.default_rng(1))
            return loss, model.backward(cache)

        check(step, device)


def on_device(host, xp):
    return host if xp is np else xp.asarray(host)


def _ones(xp, *shape):
    return on_device(np.ones(shape, "float32"), xp)


def _bound(xp):
    layer = minilm.layers.Linear(3, 2, rng=np.random.default_rng(0)).to(xp)
    y, backward = minilm.layers.bind(layer, _ones(xp, 2, 3))
    dx, grads = backward(y)
    return y, dx, minilm.layers.merge(grads, {"weight": grads["weight"]})


WITHOUT_BACKWARD = {  # public functions that are no pairs: what they compute on the device
    "alibi_bias": lambda xp: minilm.ops.alibi_bias(2, 3, 4, like=_ones(xp, 1)),
    "sinusoidal_positions": lambda xp: minilm.ops.sinusoidal_positions(3, 4, like=_ones(xp, 1)),
    "attention_weights": lambda xp: minilm.ops.attention_weights(
        _ones(xp, 1, 2, 3, 4), _ones(xp, 1, 1, 3, 4), causal=True
    ),
    "bind": _bound,
    "merge": _bound,
}


@pytest.mark.parametrize("name", WITHOUT_BACKWARD)
def test_function(name, device):
    check(WITHOUT_BACKWARD[name], device)


def test_generate(device):
    """A token goes to the host at each step, by design: sampling is done there."""
    want = list(minilm.models.generate(make("gpt", "float32"), [1, 2], 6, temperature=0.0))
    assert list(minilm.models.generate(make("gpt", "float32").to(device), [1, 2], 6, temperature=0.0)) == want


# ---- nothing is left out

NOT_RUN = {  # public names that compute nothing on arrays of their own
    "Layer": "base class",
    "PositionalEncoding": "base class",
    "Backbone": "base class",
    "Classifier": "base class",
    "positional_encoding": "makes a layer by name",
    "PRESETS": "table of the models",
    "Preset": "one entry of it",
    "find_preset": "looks one up",
    "build": "makes a model by name",
    "describe": "counts parameters",
    "num_parameters": "counts parameters",
}


def test_every_public_op_is_run():
    functions = {name for name, value in vars(minilm.ops).items() if inspect.isfunction(value)}
    pairs = registered().keys() & functions
    assert {f"{name}_backward" for name in pairs} <= functions
    assert pairs <= set(OPS)
    assert {name for name in functions - pairs if not name.endswith("_backward")} <= WITHOUT_BACKWARD.keys()


def test_every_public_layer_and_model_is_run(monkeypatch):
    """A class counts where it is a part of a tree that the tests above run."""
    run = set(WITHOUT_BACKWARD) | {"generate"}
    for name in (*LAYERS, *MODELS):
        for tree, _, _ in trees(name, monkeypatch):
            parts = [part for _, part in tree.walk()]
            run |= {type(part).__name__ for part in parts}
            run |= {type(held).__name__ for part in parts for held in vars(part).values()}  # positions, activations
    public = {*minilm.layers.__all__, *minilm.models.__all__}
    assert public - run == NOT_RUN.keys()
    assert set(minilm.models.PRESETS) <= set(MODELS)
