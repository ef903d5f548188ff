"""cross_entropy: its definition as a loop, its gradient, ignored targets, weights, smoothing, edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm import gradcheck
from minilm.ops.cross_entropy import cross_entropy, cross_entropy_backward
from tests.strict_cupy import no_sync

INF = np.inf
REDUCTIONS = ("mean", "sum", "none")


def cross_entropy_in_a_loop(logits, targets, ignore_index=-100, s=0.0, weights=None, reduction="mean"):
    """−Σ q log p for each position, one number at a time."""
    V = logits.shape[-1]
    weights = [1.0] * V if weights is None else weights
    losses, divisor = np.zeros(targets.shape), 0.0
    for position in np.ndindex(*targets.shape):
        t, x = int(targets[position]), logits[position].tolist()
        if t == ignore_index:
            continue
        top = max(x)
        log_total = top + math.log(math.fsum(math.exp(v - top) for v in x))
        q = [s / V * weights[c] + ((1 - s) * weights[t] if c == t else 0.0) for c in range(V)]
        losses[position] = math.fsum(share * (log_total - v) for share, v in zip(q, x, strict=True) if share)
        divisor += weights[t]
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / divisor if divisor else math.nan


def draw(rng, shape, ignored=0.3):
    logits = 2 * rng.normal(size=shape)
    targets = rng.integers(0, shape[-1], shape[:-1])
    return logits, np.where(rng.random(targets.shape) < ignored, -100, targets)


SHAPES = [(6, 5), (2, 3, 4), (5,), (3, 1), (7, 129)]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_definition(shape, smoothing, weighted, reduction, xp, rng):
    logits, targets = draw(rng, shape, ignored=0.3 if len(shape) > 1 else 0)
    weights = rng.uniform(0.1, 2, shape[-1]) if weighted else None
    loss, _ = cross_entropy(
        *xp.asarrays((logits, targets)),
        label_smoothing=smoothing,
        class_weights=xp.asarray(weights),
        reduction=reduction,
    )
    want = cross_entropy_in_a_loop(logits, targets, s=smoothing, weights=weights, reduction=reduction)
    assert loss.shape == (targets.shape if reduction == "none" else ())
    np.testing.assert_allclose(xp.to_numpy(loss), want, rtol=1e-12, atol=1e-14)


@given(st.data())
def test_is_the_loop(data):
    """Any shape, any share of ignored targets, any weights (zeros too), any ignore_index."""
    V, N = data.draw(st.integers(1, 6)), data.draw(st.integers(0, 5))
    ignore_index = data.draw(st.sampled_from([-100, 0, -1]))
    numbers = st.floats(-30, 30)
    logits = np.array(data.draw(st.lists(numbers, min_size=N * V, max_size=N * V))).reshape(N, V)
    classes = st.one_of(st.integers(0, V - 1), st.just(ignore_index))
    targets = np.array(data.draw(st.lists(classes, min_size=N, max_size=N)), dtype=np.int64)
    weights = np.array(data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=V, max_size=V)))
    s, reduction = data.draw(st.sampled_from([0.0, 0.25])), data.draw(st.sampled_from(REDUCTIONS))
    loss, cache = cross_entropy(
        logits, targets, ignore_index=ignore_index, label_smoothing=s, class_weights=weights, reduction=reduction
    )
    want = cross_entropy_in_a_loop(logits, targets, ignore_index, s, weights.tolist(), reduction)
    np.testing.assert_allclose(loss, want, rtol=1e-11, atol=1e-12)
    dlogits = cross_entropy_backward(1.0, cache)
    assert not dlogits[targets == ignore_index].any()
    if np.isfinite(want).all():
        assert np.abs(dlogits.sum(axis=-1)).max(initial=0) < 1e-12  # a shift of all logits changes nothing


@pytest.mark.parametrize("method", ["complex-step", "central-difference"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("smoothing", "weighted"), [(0.0, False), (0.0, True), (0.1, False), (0.1, True)])
def test_gradient(smoothing, weighted, reduction, method, xp, rng):
    logits, targets = xp.asarrays(draw(rng, (2, 6, 5)))
    weights = xp.asarray(rng.uniform(0.1, 2, 5)) if weighted else None

    def op(logits):
        return cross_entropy(logits, targets, label_smoothing=smoothing, class_weights=weights, reduction=reduction)

    report = gradcheck.gradcheck(op, cross_entropy_backward, (logits,), method=method)
    assert report.max_rel_error <= (1e-11 if method == "complex-step" else 1e-7), report


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[-1] > 1])  # with one class it is 0 up to rounding
def test_gradient_of_each_element(shape, rng):
    logits, targets = draw(rng, shape, ignored=0)

    def op(logits):
        return cross_entropy(logits, targets, label_smoothing=0.2)

    mode = "full" if logits.size < 100 else "fast"
    report = gradcheck.gradcheck(op, cross_entropy_backward, (logits,), method="complex-step", mode=mode)
    assert report.max_rel_error <= 1e-11, report


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_laws(reduction, xp, rng):
    logits, targets = xp.asarrays(draw(rng, (2, 6, 5)))
    weights = xp.asarray(rng.uniform(0.1, 2, 5))

    def op(logits):
        return cross_entropy(logits, targets, label_smoothing=0.1, class_weights=weights, reduction=reduction)

    gradcheck.check_laws(op, cross_entropy_backward, (logits,))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_backward_from_one(reduction, xp, rng):
    """dloss may be the number 1.0: the same as an array of ones."""
    logits, targets = xp.asarrays(draw(rng, (2, 6, 5)))
    loss, cache = cross_entropy(logits, targets, reduction=reduction)
    ones = xp.asarray(np.ones(loss.shape))
    np.testing.assert_array_equal(*(xp.to_numpy(cross_entropy_backward(dloss, cache)) for dloss in (1.0, ones)))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_all_targets_ignored(smoothing, weighted, xp, rng):
    """The mean over nothing is NaN, without a warning; the sum is 0; the gradients are 0 in either case."""
    logits, targets = xp.asarrays((rng.normal(size=(3, 4)), np.full(3, -100)))
    weights = xp.asarray(np.ones(4)) if weighted else None
    for reduction in REDUCTIONS:
        loss, cache = cross_entropy(
            logits, targets, label_smoothing=smoothing, class_weights=weights, reduction=reduction
        )
        loss = xp.to_numpy(loss)
        assert np.isnan(loss) if reduction == "mean" else not loss.any()
        assert not xp.to_numpy(cross_entropy_backward(1.0, cache)).any()


@pytest.mark.parametrize("shape", [(0, 4), (2, 0, 4)])
def test_empty_batch(shape, xp):
    logits, targets = xp.asarrays((np.zeros(shape), np.zeros(shape[:-1], dtype=np.int64)))
    for reduction in REDUCTIONS:
        loss, cache = cross_entropy(logits, targets, reduction=reduction)
        assert loss.shape == (shape[:-1] if reduction == "none" else ())
        assert np.isnan(xp.to_numpy(loss)) if reduction == "mean" else not xp.to_numpy(loss).any()
        assert cross_entropy_backward(1.0, cache).shape == shape


def test_infinite_logits(xp):
    """A class at −inf costs nothing unless it is the target. A row of −inf, or with +inf, has no loss: NaN."""
    logits = np.array([[-INF, 0.0, 0.0], [-INF, 0.0, 0.0], [-INF] * 3, [INF, 0.0, 0.0]])
    targets = np.array([1, 0, 0, 0])
    loss, cache = cross_entropy(*xp.asarrays((logits, targets)), reduction="none")
    dlogits = xp.to_numpy(cross_entropy_backward(1.0, cache))
    np.testing.assert_allclose(xp.to_numpy(loss), [math.log(2), INF, np.nan, np.nan])
    np.testing.assert_allclose(dlogits[:2], [[0, -0.5, 0.5], [-1, 0.5, 0.5]])
    assert np.isnan(dlogits[2:]).all()


def test_a_class_without_weight_may_be_impossible(xp):
    """Weight 0 and logit −inf: 0 · ∞ counts as 0, in the target and in the smoothing."""
    logits = np.array([[-INF, 0.0, math.log(3.0)]] * 2)
    weights = np.array([0.0, 1.0, 1.0])
    loss, cache = cross_entropy(
        *xp.asarrays((logits, np.array([0, 1]))),
        class_weights=xp.asarray(weights),
        label_smoothing=0.3,
        reduction="none",
    )
    smooth = 0.1 * (math.log(4) + math.log(4 / 3))
    np.testing.assert_allclose(xp.to_numpy(loss), [smooth, 0.7 * math.log(4) + smooth])
    assert np.isfinite(xp.to_numpy(cross_entropy_backward(1.0, cache))).all()


def test_one_class_has_no_gradient(xp, rng):
    loss, cache = cross_entropy(*xp.asarrays((rng.normal(size=(3, 1)), np.zeros(3, np.int64))), label_smoothing=0.2)
    assert xp.to_numpy(loss) == 0
    assert np.abs(xp.to_numpy(cross_entropy_backward(1.0, cache))).max() < 1e-16


def test_large_logits(xp):
    loss, cache = cross_entropy(*xp.asarrays((np.array([[1e4, -1e4]], np.float32), np.array([1]))))
    assert xp.to_numpy(loss) == 2e4
    assert xp.to_numpy(cross_entropy_backward(1.0, cache)).tolist() == [[1, -1]]


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_float32(reduction, xp, rng):
    """Also with float64 weights: they are cast."""
    logits, targets = draw(rng, (50, 300))
    options = {"label_smoothing": 0.1, "reduction": reduction}
    weights = rng.uniform(0.1, 2, 300)
    logits = logits.astype(np.float32)
    want, want_cache = cross_entropy(logits.astype(np.float64), targets, class_weights=weights, **options)
    got, cache = cross_entropy(*xp.asarrays((logits, targets)), class_weights=xp.asarray(weights), **options)
    dlogits = cross_entropy_backward(1.0, cache)
    assert got.dtype == dlogits.dtype == np.float32
    np.testing.assert_allclose(xp.to_numpy(got), want, rtol=2e-6)
    want_dlogits = cross_entropy_backward(1.0, want_cache)
    np.testing.assert_allclose(xp.to_numpy(dlogits), want_dlogits, rtol=1e-4, atol=1e-7 * np.abs(want_dlogits).max())


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "uint64"])
def test_any_integer_targets(dtype, xp, rng):
    logits, targets = draw(rng, (6, 5), ignored=0)
    want, _ = cross_entropy(logits, targets)
    got, _ = cross_entropy(*xp.asarrays((logits, targets.astype(dtype))))
    assert xp.to_numpy(got) == want


def test_one_array_of_the_logits_size_is_kept(rng):
    logits, targets = draw(rng, (40, 50))
    _, cache = cross_entropy(logits, targets, label_smoothing=0.1)
    assert sum(a.nbytes for a in cache if isinstance(a, np.ndarray)) < 1.2 * logits.nbytes
    assert not any(np.shares_memory(a, logits) for a in cache if isinstance(a, np.ndarray))


def test_non_contiguous(xp, rng):
    logits, targets = draw(rng, (5, 8, 6))
    want, want_cache = cross_entropy(logits.transpose(1, 0, 2)[::2].copy(), targets.T[::2].copy())
    got, cache = cross_entropy(xp.asarray(logits).transpose(1, 0, 2)[::2], xp.asarray(targets).T[::2])
    assert xp.to_numpy(got) == want
    np.testing.assert_array_equal(
        xp.to_numpy(cross_entropy_backward(1.0, cache)), cross_entropy_backward(1.0, want_cache)
    )


def test_no_synchronisation(xp, rng):
    logits, targets = draw(rng, (6, 5))
    logits, targets = xp.asarrays((logits.astype(np.float32), targets))
    weights = xp.asarray(np.ones(5))
    with no_sync(("sync", "upload")):
        for reduction in REDUCTIONS:
            loss, cache = cross_entropy(
                logits, targets, label_smoothing=0.1, class_weights=weights, reduction=reduction
            )
            cross_entropy_backward(1.0, cache)
            cross_entropy_backward(loss, cache)


@pytest.mark.parametrize("bad", [5, -1, 1000, -101])
def test_a_target_out_of_range(bad, xp, rng):
    """On the CPU an error that names the target and V; on a GPU, which must not wait, NaN: in that row alone."""
    logits, targets = xp.asarrays((rng.normal(size=(3, 5)), np.array([1, bad, bad + 1 if bad > 0 else 2])))
    if xp.name == "numpy":
        with pytest.raises(ValueError, match=rf"target {bad} is out of range for V = 5"):
            cross_entropy(logits, targets)
        return
    loss, cache = cross_entropy(logits, targets, reduction="none")
    assert np.isnan(xp.to_numpy(loss)).tolist() == [False, True, bad > 0]
    assert np.isnan(xp.to_numpy(cross_entropy_backward(1.0, cache))).any(axis=-1).tolist() == [False, True, bad > 0]
    assert np.isnan(xp.to_numpy(cross_entropy(logits, targets)[0]))


def test_wrong_input(xp, rng):
    logits, targets = xp.asarrays(draw(rng, (3, 5)))
    for arguments, options, error, message in [
        ((logits, targets[:2]), {}, ValueError, r"\(3, 5\) and targets \(2,\)"),
        ((logits[:, :0], targets), {}, ValueError, "V >= 1"),
        ((logits, targets * 1.0), {}, TypeError, "float64, expected integers"),
        ((logits, targets > 0), {}, TypeError, "bool, expected integers"),
        ((targets, targets), {}, TypeError, "int64"),
        ((logits, targets), {"reduction": "average"}, ValueError, "'average' is unknown"),
        ((logits, targets), {"label_smoothing": 1.5}, ValueError, "1.5"),
        ((logits, targets), {"class_weights": logits[0, :3]}, ValueError, r"\(3,\), expected \(5,\)"),
    ]:
        with pytest.raises(error, match=message):
            cross_entropy(*arguments, **options)
