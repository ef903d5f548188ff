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
from minilm.gradcheck.structures import draw_like, fresh, leaves, map_leaves
from minilm.selection import registered
from minilm.study.cases import LAYERS, METHODS, MODELS, OPS, LayerCase
from tests import strict_cupy
from tests.models.tiny import make

TREES = {name: cases for cases in (LAYERS, MODELS, METHODS) for name in cases.names()}


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


# ---- forward and backward


@pytest.mark.parametrize("name", OPS.names())
def test_op(name, device):
    op, cases = registered()[name], list(OPS.cases(name))
    assert cases
    for case in cases:

        def step(xp, case=case):
            y, cache = op(**given(case.arrays, xp), **given(case.options, xp))
            return y, op.backward(draw_like(y, np.random.default_rng(0)), cache)

        check(step, device)


@pytest.mark.parametrize("name", TREES)
def test_layer_or_model(name, device):
    cases = list(TREES[name].cases(name))
    assert cases
    for case in cases:

        def layer_step(xp, case=case):
            layer = copy.deepcopy(case.layer).to(xp, "float32")
            y, cache = layer.forward(given(case.x, xp), rng=np.random.default_rng(1), **given(case.options, xp))
            return y, layer.backward(draw_like(y, np.random.default_rng(0)), cache)

        def model_step(xp, case=case):
            model = copy.deepcopy(case.model).to(xp, "float32")
            loss, cache = model.loss(given(case.batch, xp), rng=np.random.default_rng(1))
            return loss, model.loss_backward(1.0, cache)

        check(layer_step if isinstance(case, LayerCase) else model_step, device)


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

NOT_RUN = {  # public layers and functions that compute nothing on arrays of their own
    "Layer": "base class",
    "Backbone": "base class",
    "Classifier": "base class",
    "WordCounts": "makes a BagOfWords",
    "positional_encoding": "makes a layer by name",
    "describe": "counts parameters",
    "num_parameters": "counts parameters",
}


def test_every_public_op_is_run():
    functions = {name for name, value in vars(minilm.ops).items() if inspect.isfunction(value)}
    pairs = registered().keys() & functions
    assert {f"{name}_backward" for name in pairs} <= functions
    assert pairs <= set(OPS.names())
    assert {name for name in functions - pairs if not name.endswith("_backward")} <= WITHOUT_BACKWARD.keys()


def test_every_public_layer_and_model_is_run():
    """A class counts where it is a part of a tree that the test above runs."""
    run = set(WITHOUT_BACKWARD) | {"generate"}
    for name, table in TREES.items():
        for case in table.cases(name):
            tree = case.layer if isinstance(case, LayerCase) else case.model
            parts = [part for _, part in tree.walk()]
            run |= {type(part).__name__ for part in parts}
            run |= {type(held).__name__ for part in parts for held in vars(part).values()}  # positions
    public = vars(minilm.layers) | vars(minilm.models)
    computing = {
        name
        for name, thing in public.items()
        if inspect.isfunction(thing) or (inspect.isclass(thing) and issubclass(thing, minilm.layers.Layer))
    }
    assert computing - run == NOT_RUN.keys()
