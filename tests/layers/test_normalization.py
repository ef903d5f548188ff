"""LayerNorm, RMSNorm, BatchNorm: gradients, freezing, running statistics."""

import numpy as np
import pytest

from minilm.layers.normalization import BatchNorm, LayerNorm, RMSNorm
from tests.layers.helpers import check_freezing, check_gradients, check_library

NORMS = {
    "layer": lambda dtype: LayerNorm(6, dtype=dtype),
    "layer without bias": lambda dtype: LayerNorm(6, bias=False, dtype=dtype),
    "rms": lambda dtype: RMSNorm(6, dtype=dtype),
    "batch": lambda dtype: BatchNorm(6, dtype=dtype),
}


@pytest.mark.parametrize("kind", NORMS)
def test_gradient(kind, rng):
    check_gradients(NORMS[kind]("float64"), rng.normal(2.0, 3.0, (3, 4, 6)))


@pytest.mark.parametrize("kind", NORMS)
def test_library(kind, rng, xp):
    x = rng.normal(size=(3, 4, 6)).astype("float32")
    check_library(lambda: NORMS[kind]("float32"), x, xp)


@pytest.mark.parametrize("kind", NORMS)
def test_freezing(kind, rng):
    layer = NORMS[kind]("float64")
    x = rng.normal(size=(3, 6))
    dy = rng.normal(size=x.shape)
    check_freezing(layer, lambda: layer.backward(dy, layer.forward(x)[1])[1])


def test_layer_norm_without_bias_is_one_with_zero_bias(rng):
    x = rng.normal(size=(3, 6))
    with_bias, without = NORMS["layer"]("float64"), NORMS["layer without bias"]("float64")
    assert list(without.parameters()) == ["weight"]
    np.testing.assert_array_equal(with_bias.forward(x)[0], without.forward(x)[0])


def test_batch_norm_statistics(rng, xp):
    """Training moves the statistics towards the batch's, inference uses them and moves nothing."""
    layer = BatchNorm(4, momentum=0.25, dtype="float64").to(xp.module)
    x = rng.normal(3.0, 2.0, (50, 4))
    before = layer.running_mean
    layer.forward(xp.asarray(x))
    np.testing.assert_allclose(xp.to_numpy(before), 0.0)  # the old array is not written
    np.testing.assert_allclose(xp.to_numpy(layer.running_mean), 0.25 * x.mean(axis=0))
    np.testing.assert_allclose(xp.to_numpy(layer.running_var), 0.75 + 0.25 * x.var(axis=0, ddof=1))
    kept = layer.running_mean
    y, _ = layer.forward(xp.asarray(x), train=False, cache=False)
    assert layer.running_mean is kept
    mean, var = xp.to_numpy(layer.running_mean), xp.to_numpy(layer.running_var)
    np.testing.assert_allclose(xp.to_numpy(y), (x - mean) / np.sqrt(var + 1e-5))
    assert {"running_mean", "running_var"} < layer.state().keys()


def test_batch_norm_moves_its_statistics_without_a_cache(rng):
    kept, left = BatchNorm(4, dtype="float64"), BatchNorm(4, dtype="float64")
    x = rng.normal(3.0, 2.0, (5, 4))
    y, _ = kept.forward(x)
    z, none = left.forward(x, cache=False)
    assert none is None
    np.testing.assert_array_equal(y, z)
    np.testing.assert_array_equal(kept.running_var, left.running_var)


@pytest.mark.parametrize("make", [LayerNorm, RMSNorm, BatchNorm])
def test_wrong_width(make):
    with pytest.raises(ValueError, match="width is 0"):
        make(0)
