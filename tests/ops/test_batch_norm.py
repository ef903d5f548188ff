"""batch_norm: definition, running statistics, gradients in both modes, edges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minilm import gradcheck
from minilm.ops.batch_norm import batch_norm, batch_norm_backward
from tests.strict_cupy import no_sync

SHAPES = [
    (8, 4),
    (2, 3, 5),
    (2, 1),  # two values are the fewest to train on
    (129, 3),  # one past a power of two
]


def draw(rng, shape, dtype=np.float64):
    """x, gain, bias, running mean, running variance."""
    C = shape[-1]
    arrays = (
        rng.normal(1.0, 2.0, shape),
        rng.normal(size=C),
        rng.normal(size=C),
        rng.normal(size=C),
        rng.uniform(1, 2, C),
    )
    return tuple(a.astype(dtype) for a in arrays)


@pytest.mark.parametrize("shape", SHAPES)
def test_definition_while_training(shape, xp, rng):
    """Channel by channel, with exact sums; the running values move by 0.1, with the unbiased variance."""
    x, gain, bias, running_mean, running_var = args = draw(rng, shape)
    y, cache = batch_norm(*xp.asarrays(args))
    for c in range(shape[-1]):
        values = x[..., c].ravel().tolist()
        n, mean = len(values), math.fsum(values) / len(values)
        var = math.fsum((v - mean) ** 2 for v in values) / n
        want = gain[c] * (x[..., c] - mean) / math.sqrt(var + 1e-5) + bias[c]
        np.testing.assert_allclose(xp.to_numpy(y)[..., c], want, rtol=1e-11, atol=1e-12)
        assert xp.to_numpy(cache.running_mean)[c] == pytest.approx(0.9 * running_mean[c] + 0.1 * mean, rel=1e-12)
        unbiased = var * n / (n - 1)
        assert xp.to_numpy(cache.running_var)[c] == pytest.approx(0.9 * running_var[c] + 0.1 * unbiased, rel=1e-12)


@pytest.mark.parametrize("shape", [*SHAPES, (1, 4), (0, 4), (3,)])  # no batch, or none to speak of, is legal here
def test_definition_at_inference(shape, xp, rng):
    x, gain, bias, running_mean, running_var = args = draw(rng, shape)
    y, cache = batch_norm(*xp.asarrays(args), train=False)
    want = gain * (x - running_mean) / np.sqrt(running_var + 1e-5) + bias
    np.testing.assert_allclose(xp.to_numpy(y), want, rtol=1e-13, atol=1e-14)
    assert np.array_equal(xp.to_numpy(cache.running_mean), running_mean)
    assert np.array_equal(xp.to_numpy(cache.running_var), running_var)


@pytest.mark.parametrize("method", ["complex-step", "central-difference"])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradient(shape, train, method, xp, rng):
    x, gain, bias, *running = xp.asarrays(draw(rng, shape))

    def op(x, gain, bias):
        return batch_norm(x, gain, bias, *running, train=train)

    report = gradcheck.gradcheck(op, batch_norm_backward, (x, gain, bias), method=method)
    assert report.max_rel_error <= (1e-11 if method == "complex-step" else 1e-7), report


@pytest.mark.parametrize("train", [True, False])
def test_laws(train, xp, rng):
    args = xp.asarrays(draw(rng, (2, 3, 5)))

    def op(x, gain, bias, running_mean, running_var):
        return batch_norm(x, gain, bias, running_mean, running_var, train)

    gradcheck.check_laws(op, batch_norm_backward, args, wrt=("x", "gain", "bias"))


@pytest.mark.parametrize("train", [True, False])
def test_only_what_is_wanted(train, xp, rng):
    y, cache = batch_norm(*xp.asarrays(draw(rng, (4, 3))), train=train)
    for wanted in range(3):
        grads = batch_norm_backward(y, cache, wrt=(("x", "gain", "bias")[wanted],))
        assert [g is not None for g in grads] == [i == wanted for i in range(3)]
        np.testing.assert_array_equal(*(xp.to_numpy(g[wanted]) for g in (grads, batch_norm_backward(y, cache))))


def test_momentum(xp, rng):
    args = xp.asarrays(draw(rng, (6, 3)))
    kept, replaced = (batch_norm(*args, momentum=m)[1] for m in (0.0, 1.0))
    assert np.array_equal(xp.to_numpy(kept.running_mean), xp.to_numpy(args[3]))
    np.testing.assert_allclose(xp.to_numpy(replaced.running_var), np.var(xp.to_numpy(args[0]), axis=0, ddof=1))


def test_arguments_are_not_written_to(xp, rng):
    host = draw(rng, (6, 3))
    args = xp.asarrays(a.copy() for a in host)
    y, cache = batch_norm(*args)
    batch_norm_backward(y, cache)
    assert all(np.array_equal(xp.to_numpy(a), h) for a, h in zip(args, host, strict=True))


@pytest.mark.parametrize("train", [True, False])
def test_float32(train, xp, rng):
    args = draw(rng, (50, 7, 3), np.float32)
    dy = rng.normal(size=args[0].shape).astype(np.float32)
    want, want_cache = batch_norm(*(a.astype(np.float64) for a in args), train=train)
    got, cache = batch_norm(*xp.asarrays(args), train=train)
    assert got.dtype == cache.running_mean.dtype == cache.running_var.dtype == np.float32
    np.testing.assert_allclose(xp.to_numpy(got), want, rtol=1e-5, atol=5e-6)
    np.testing.assert_allclose(xp.to_numpy(cache.running_var), want_cache.running_var, rtol=1e-5)
    want_grads = batch_norm_backward(dy.astype(np.float64), want_cache)
    for grad, want_grad in zip(batch_norm_backward(xp.asarray(dy), cache), want_grads, strict=True):
        np.testing.assert_allclose(xp.to_numpy(grad), want_grad, rtol=1e-4, atol=1e-5)


def test_large_offset_keeps_precision(xp, rng):
    x, gain, bias, *running = draw(rng, (64, 3), np.float32)
    shifted = x + np.float32(1e4)
    got, _ = batch_norm(*xp.asarrays((shifted, gain, bias, *running)))
    want, _ = batch_norm(*(a.astype(np.float64) for a in (shifted, gain, bias, *running)))
    assert np.abs(xp.to_numpy(got) - want).max() < 2e-3


@pytest.mark.parametrize("train", [True, False])
def test_no_synchronisation(train, xp, rng):
    args = xp.asarrays(draw(rng, (4, 3), np.float32))
    with no_sync(("sync", "upload")):
        y, cache = batch_norm(*args, train=train)
        batch_norm_backward(y, cache)


@pytest.mark.parametrize("shape", [(1, 4), (0, 4), (1, 1, 4), (4,)])
def test_training_needs_two_values_per_channel(shape, xp, rng):
    with pytest.raises(ValueError, match="value"):
        batch_norm(*xp.asarrays(draw(rng, shape)))


def test_wrong_shapes(xp, rng):
    args = list(xp.asarrays(draw(rng, (4, 3))))
    for number, name in enumerate(("gain", "bias", "running_mean", "running_var"), 1):
        wrong = [*args[:number], xp.asarray(np.ones(2)), *args[number + 1 :]]
        with pytest.raises(ValueError, match=rf"{name} has shape \(2,\), expected \(3,\)"):
            batch_norm(*wrong)
