"""Flat parameters: views, layout, accumulation, clipping, and the errors that keep a parameter from being lost."""

from __future__ import annotations

import numpy as np
import pytest

from minilm.backend import to_numpy
from minilm.layers.base import Layer
from minilm.layers.linear import Linear
from minilm.optim.adam import AdamW
from minilm.optim.flat import FlatParameters, find_nonfinite
from minilm.optim.sgd import SGD


class Pair(Layer):
    """Two linear maps; the first lists its weight as one that does not decay, as an embedding does."""

    def __init__(self, dtype="float32"):
        super().__init__()
        rng = np.random.default_rng(1)
        self.children["a"] = Linear(3, 4, rng=rng, dtype=dtype)
        self.children["b"] = Linear(4, 2, rng=rng, dtype=dtype)
        self.children["a"].no_decay = ("weight",)


@pytest.fixture
def layer(xp):
    return Pair().to(xp.module)


def random_grads(layer, rng, xp):
    return {n: xp.asarray(rng.normal(size=p.shape).astype(p.dtype)) for n, p in layer.trainable().items()}


def on_host(arrays):
    return {name: to_numpy(array).copy() for name, array in arrays.items()}


def test_parameters_become_views(layer, xp):
    before = on_host(layer.parameters())
    flat = FlatParameters(layer)
    for name, array in layer.parameters().items():
        assert array is flat.slots[name].value
        np.testing.assert_array_equal(xp.to_numpy(array), before[name])
    flat.values[...] = 7.0
    assert all((xp.to_numpy(array) == 7.0).all() for array in layer.parameters().values())


def test_groups_are_slices(layer, xp):
    flat = FlatParameters(layer, group=lambda name, array: 0 if name == "b.weight" else 1)
    assert flat.segments == [(0, slice(0, 8)), (1, slice(8, 8 + 12 + 4 + 2))]
    assert list(flat.slots) == ["b.weight", "a.weight", "a.bias", "b.bias"]


def test_frozen_parameters_are_left_alone(layer, xp, rng):
    layer.freeze("a.*")
    frozen = dict(layer.children["a"].params)
    values = on_host(frozen)
    optimizer = AdamW(layer, lr=0.1)
    assert list(optimizer.flat.slots) == ["b.weight", "b.bias"]
    optimizer.accumulate(random_grads(layer, rng, xp))
    optimizer.step()
    for name, array in layer.children["a"].params.items():
        assert array is frozen[name]
        np.testing.assert_array_equal(xp.to_numpy(array), values[name])


def test_load_state_keeps_the_views(layer, xp):
    flat = FlatParameters(layer)
    other = Pair()
    other.map_arrays(lambda name, array: array + 1)
    layer.load_state(other.state())
    for name, array in layer.parameters().items():
        assert array is flat.slots[name].value
        np.testing.assert_array_equal(xp.to_numpy(flat.slots[name].value), other.parameters()[name])


def test_accumulation(layer, xp, rng):
    """The first call after a step overwrites, the next ones add, each with its scale; gradients are not kept."""
    optimizer = SGD(layer, lr=1.0)
    for _ in range(2):
        one, two = random_grads(layer, rng, xp), random_grads(layer, rng, xp)
        expected = {name: 0.25 * xp.to_numpy(one[name]) + 0.75 * xp.to_numpy(two[name]) for name in one}
        before = on_host(layer.parameters())
        optimizer.accumulate(one, scale=0.25)
        for grad in one.values():
            grad[...] = np.nan  # the optimizer must have taken a copy
        optimizer.accumulate(two, scale=0.75)
        for name, gradient in optimizer.flat.gradients().items():
            np.testing.assert_allclose(xp.to_numpy(gradient), expected[name], rtol=1e-6, atol=1e-7)
        optimizer.step()
        for name, array in layer.parameters().items():
            np.testing.assert_allclose(xp.to_numpy(array), before[name] - expected[name], rtol=1e-5, atol=1e-6)


def test_clip(layer, xp, rng):
    optimizer = SGD(layer, lr=1.0)
    grads = random_grads(layer, rng, xp)
    norm = np.sqrt(sum((xp.to_numpy(g).astype(np.float64) ** 2).sum() for g in grads.values()))
    optimizer.accumulate(grads)
    assert float(optimizer.norm()) == pytest.approx(norm, rel=1e-6)
    assert float(optimizer.clip(norm * 2)) == pytest.approx(norm, rel=1e-6)
    assert float(optimizer.norm()) == pytest.approx(norm, rel=1e-6)  # it was small enough
    assert float(optimizer.clip(0.5)) == pytest.approx(norm, rel=1e-6)
    assert float(optimizer.norm()) == pytest.approx(0.5, rel=1e-5)
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="max_norm"):
            optimizer.clip(bad)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_clip_leaves_the_guilty_parameter_findable(layer, xp, rng, poison):
    optimizer = SGD(layer, lr=1.0)
    grads = random_grads(layer, rng, xp)
    assert find_nonfinite(grads) is None
    grads["b.weight"][0] = poison
    assert find_nonfinite(grads) == "b.weight"
    optimizer.accumulate(grads)
    assert not np.isfinite(float(optimizer.clip(1.0)))
    assert find_nonfinite(optimizer.flat.gradients()) == "b.weight"


def test_a_norm_that_overflows(layer, xp):
    """Squares above 3e38 are infinite in float32: the norm says so, without a warning, and nothing is scaled."""
    optimizer = SGD(layer, lr=1.0)
    optimizer.accumulate({name: xp.module.full_like(p, 1e25) for name, p in layer.parameters().items()})
    assert float(optimizer.clip(1.0)) == np.inf
    assert find_nonfinite(optimizer.flat.gradients()) is None


def test_step_does_not_wait_for_the_device(xp, rng):
    if xp.name != "strict":
        pytest.skip("only the stand-in sees a synchronisation")
    from tests import strict_cupy

    for rule in (lambda layer: SGD(layer, lr=0.1, momentum=0.9, nesterov=True), AdamW):
        layer = Pair().to(xp.module)
        optimizer, grads = rule(layer), random_grads(layer, rng, xp)
        with strict_cupy.no_sync(("sync", "upload")):
            for _ in range(2):
                optimizer.accumulate(grads, scale=0.5)
                optimizer.accumulate(grads, scale=0.5)
                optimizer.clip(1.0)
                optimizer.step()
        assert optimizer.flat.values.dtype == np.float32


@pytest.mark.parametrize("name", ["b.weight", "extra"])
def test_missing_and_unknown_gradients(name, layer, xp, rng):
    optimizer = SGD(layer, lr=1.0)
    grads = random_grads(layer, rng, xp)
    if name in grads:
        del grads[name]
    else:
        grads[name] = grads["b.bias"]
    with pytest.raises(ValueError, match=name):
        optimizer.accumulate(grads)
    with pytest.raises(ValueError, match="accumulate"):
        optimizer.step()


def test_wrong_gradients(rng):
    layer = Pair()
    optimizer = SGD(layer, lr=1.0)
    grads = {n: np.ones_like(p) for n, p in layer.parameters().items()}
    with pytest.raises(ValueError, match=r"a\.bias .*\(3,\), expected float32 \(4,\)"):
        optimizer.accumulate(grads | {"a.bias": np.ones(3, "float32")})
    with pytest.raises(ValueError, match=r"a\.bias is float64"):
        optimizer.accumulate(grads | {"a.bias": np.ones(4)})
    layer.to(dtype="float32")  # keeps the arrays
    optimizer.accumulate(grads)
    layer.children["b"].params["bias"] = np.zeros(2, "float32")
    with pytest.raises(ValueError, match=r"b\.bias was replaced"):
        optimizer.accumulate(grads)


def test_nothing_to_train_and_mixed_precision():
    layer = Pair()
    layer.children["a"].to(dtype="float64")
    with pytest.raises(TypeError, match="float32, float64"):
        FlatParameters(layer)
    layer.freeze()
    with pytest.raises(ValueError, match="frozen"):
        FlatParameters(layer)
