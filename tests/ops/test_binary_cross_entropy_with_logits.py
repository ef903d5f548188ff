"""binary_cross_entropy_with_logits: its definition as a loop, its gradient, sure predictions, edges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minilm import gradcheck
from minilm.ops.binary_cross_entropy_with_logits import (
    binary_cross_entropy_with_logits,
    binary_cross_entropy_with_logits_backward,
)
from tests.strict_cupy import no_sync

REDUCTIONS = ("mean", "sum", "none")
bce, bce_backward = binary_cross_entropy_with_logits, binary_cross_entropy_with_logits_backward


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


@pytest.mark.parametrize("pos_weight", [None, 3.0, 2, "array", "per class"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(6, 5), (4,), (1, 1), ()])
def test_definition(shape, reduction, pos_weight, xp, rng):
    logits, targets = np.asarray(4 * rng.normal(size=shape)), np.asarray(rng.random(shape))
    weight = {"array": np.asarray(rng.uniform(0.5, 3, shape)), "per class": rng.uniform(0.5, 3, shape[-1:])}.get(
        pos_weight, pos_weight
    )
    loss, _ = bce(*xp.asarrays((logits, targets)), pos_weight=xp.asarray(weight), reduction=reduction)
    w = np.broadcast_to(1.0 if weight is None else weight, shape)
    want = np.empty(shape)
    for i in np.ndindex(*shape):
        x, t = float(logits[i]), float(targets[i])
        want[i] = w[i] * t * softplus(-x) + (1 - t) * softplus(x)
    want = {"mean": want.mean(), "sum": want.sum(), "none": want}[reduction]
    assert loss.shape == (shape if reduction == "none" else ())
    np.testing.assert_allclose(xp.to_numpy(loss), want, rtol=1e-13)


@pytest.mark.parametrize("method", ["complex-step", "central-difference"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("pos_weight", [None, 3.0])
def test_gradient(pos_weight, reduction, method, xp, rng):
    logits, targets = xp.asarrays((2 * rng.normal(size=(6, 5)), rng.random((6, 5))))

    def op(logits):
        return bce(logits, targets, pos_weight=pos_weight, reduction=reduction)

    report = gradcheck.gradcheck(op, bce_backward, (logits,), method=method)
    assert report.max_rel_error <= (1e-11 if method == "complex-step" else 1e-7), report


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_laws(reduction, xp, rng):
    logits, targets = xp.asarrays((rng.normal(size=(6, 5)), rng.integers(0, 2, (6, 5))))
    gradcheck.check_laws(lambda logits: bce(logits, targets, reduction=reduction), bce_backward, (logits,))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_backward_from_one(reduction, xp, rng):
    """dloss may be the number 1.0: the same as an array of ones."""
    logits = xp.asarray(rng.normal(size=(2, 6, 5)))
    loss, cache = bce(logits, logits > 0, reduction=reduction)
    ones = xp.asarray(np.ones(loss.shape))
    np.testing.assert_array_equal(*(xp.to_numpy(bce_backward(dloss, cache)) for dloss in (1.0, ones)))


@pytest.mark.parametrize("shape", [(0, 4), (2, 0, 4)])
def test_empty_batch(shape, xp):
    logits = xp.asarray(np.zeros(shape))
    for reduction in REDUCTIONS:
        loss, cache = bce(logits, logits, reduction=reduction)
        assert loss.shape == (shape if reduction == "none" else ())
        assert np.isnan(xp.to_numpy(loss)) if reduction == "mean" else not xp.to_numpy(loss).any()
        assert bce_backward(1.0, cache).shape == shape


def test_no_synchronisation(xp, rng):
    logits = xp.asarray(rng.normal(size=(6, 5)).astype(np.float32))
    with no_sync(("sync", "upload")):
        for reduction in REDUCTIONS:
            loss, cache = bce(logits, logits > 0, reduction=reduction)
            bce_backward(loss, cache)


@pytest.mark.parametrize("dtype", ["bool", "int64", "uint8", "float32", "float64"])
def test_any_targets(dtype, xp):
    logits = np.array([-2.0, 0.0, 3.0], dtype=np.float32)
    loss, cache = bce(*xp.asarrays((logits, np.array([0, 1, 1]).astype(dtype))), reduction="none")
    assert loss.dtype == bce_backward(1.0, cache).dtype == np.float32
    np.testing.assert_allclose(xp.to_numpy(loss), [softplus(-2), softplus(0), softplus(-3)], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sure_predictions(dtype, xp):
    """At ±1000: no overflow, the loss is 0 or 1000, and the gradients of right answers keep their digits."""
    logits = np.array([-1000.0, -1000.0, 1000.0, 1000.0, -30.0, 30.0]).astype(dtype)
    targets = np.array([0, 1, 0, 1, 0, 1])
    loss, cache = bce(*xp.asarrays((logits, targets)), reduction="none")
    dlogits = xp.to_numpy(bce_backward(1.0, cache))
    tiny = math.exp(-30)
    np.testing.assert_allclose(xp.to_numpy(loss), [0, 1000, 1000, 0, tiny, tiny], rtol=2e-6)
    np.testing.assert_allclose(dlogits, [0, -1, 1, 0, tiny, -tiny], rtol=2e-6)


def test_wrong_input(xp):
    x = xp.asarray(np.zeros((2, 3)))
    for arguments, options, error, message in [
        ((x, x[0]), {}, ValueError, r"\(3,\), expected the logits' \(2, 3\)"),
        ((x > 0, x), {}, TypeError, "bool"),
        ((x, x), {"reduction": "max"}, ValueError, "'max' is unknown"),
        ((x, x), {"pos_weight": x[:, :2]}, ValueError, r"pos_weight has shape \(2, 2\), which does not broadcast"),
    ]:
        with pytest.raises(error, match=message):
            bce(*arguments, **options)
