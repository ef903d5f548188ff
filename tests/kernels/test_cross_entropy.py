"""The cross-entropy kernel, run on the CPU from its CUDA source, against the definition in float64."""

from __future__ import annotations

import functools

import ml_dtypes
import numpy as np
import pytest

import minilm
from minilm import gradcheck, ops
from minilm.kernels.cuda.cross_entropy import (
    INSTANCES,
    FusedCrossEntropyCache,
    cross_entropy,
    cross_entropy_backward,
)
from tests.kernels.tolerances import assert_call_within

pytestmark = pytest.mark.usefixtures("host_run", "poisoned_empty")

DTYPES = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float64": np.float64,
}
LONG = 32 * 1024 + 3  # a vocabulary beyond what a block of 1024 threads holds: two passes
INF = np.inf


def definition(logits, targets, dloss=1.0, **options):
    """(loss, dlogits) in float64."""
    with minilm.reference():
        loss, cache = ops.cross_entropy(logits.astype(np.float64), targets, **options)
        return loss, ops.cross_entropy_backward(dloss, cache)


def assert_agrees(logits, targets, label_smoothing=0.0, class_weights=None, reduction="mean", ignore_index=-100):
    options = {"label_smoothing": label_smoothing, "reduction": reduction, "ignore_index": ignore_index}
    arrays = {"logits": logits, "targets": targets}
    arrays |= {} if class_weights is None else {"class_weights": class_weights}
    loss, cache = cross_entropy(**arrays, **options)
    assert type(cache) is FusedCrossEntropyCache
    assert_call_within("cross_entropy", arrays, options, (loss, cross_entropy_backward(1.0, cache)), 1.0)


def draw(rng, shape, dtype):
    logits = rng.normal(0, 4, shape).astype(DTYPES[dtype])
    return logits, np.asarray(rng.integers(0, shape[-1], shape[:-1]))


# ---- values and gradients


@pytest.mark.parametrize(
    "dtype, V",
    [("float32", V) for V in (1, 2, 31, 33, 97, 130, 1000, 4096, 4097, LONG)]
    + [("float16", V) for V in (97, 1000, LONG)]
    + [("bfloat16", V) for V in (97, 1000)]
    + [("float64", V) for V in (97, 1000)],
)
def test_agrees_with_the_definition(dtype, V, rng):
    logits, targets = draw(rng, (2, 3, V) if V < 2000 else (2, V), dtype)
    targets.reshape(-1)[1] = -100
    assert_agrees(logits, targets, reduction="mean")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_reductions(reduction, dtype, rng):
    logits, targets = draw(rng, (2, 3, 97), dtype)
    targets[1, 1] = 5
    assert_agrees(logits, targets, reduction=reduction, ignore_index=5)


@pytest.mark.parametrize("smoothing", [0.1, 1.0])
@pytest.mark.parametrize("dtype, V", [("float32", 97), ("float32", LONG), ("float16", 1000), ("float64", 97)])
def test_label_smoothing(dtype, V, smoothing, rng):
    logits, targets = draw(rng, (3, V), dtype)
    targets[2] = -100
    assert_agrees(logits, targets, label_smoothing=smoothing)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_class_weights(reduction, smoothing, rng):
    logits, targets = draw(rng, (7, 97), "float32")
    targets[4] = -100
    weights = rng.uniform(0, 2, 97)
    weights[targets[0]] = 0.0
    assert_agrees(logits, targets, smoothing, weights.astype(np.float32), reduction)


def test_many_rows_are_added_up(rng):
    """More rows than the 1024 threads that add them, and warps of the last block without a row."""
    logits, targets = draw(rng, (2050, 5), "float32")
    assert_agrees(logits, targets)


def test_logits_that_do_not_start_on_16_bytes(rng):
    """V allows wide accesses, the address does not."""
    logits = rng.normal(size=2 * 96 + 1).astype(np.float32)[1:].reshape(2, 96)
    assert_agrees(logits, np.array([95, 3]))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint64"])
def test_integer_targets(dtype, rng):
    logits, targets = draw(rng, (6, 97), "float32")
    assert_agrees(logits, targets.astype(dtype))


# ---- edges


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_all_ignored(reduction, rng):
    """Nothing to average is NaN; the gradient is zero, and what the rows hold is not read."""
    logits = np.full((3, 97), np.nan, np.float32)
    loss, cache = cross_entropy(logits, np.full(3, -100), reduction=reduction)
    assert np.isnan(loss) if reduction == "mean" else not loss.any()
    assert not cross_entropy_backward(1.0, cache).any()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_no_rows(reduction):
    loss, cache = cross_entropy(np.zeros((0, 97), np.float32), np.zeros(0, int), reduction=reduction)
    assert np.isnan(loss) if reduction == "mean" else loss.size == 0 or loss == 0
    assert cross_entropy_backward(1.0, cache).shape == (0, 97)


@pytest.mark.parametrize("V", [97, LONG])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_infinities_and_nan(V, smoothing, rng):
    """A class that cannot be costs nothing, unless it is the target; a row without a distribution is NaN."""
    logits, targets = draw(rng, (7, V), "float32")
    logits[0] = -INF
    logits[1, V // 2] = INF
    logits[2, V - 1] = np.nan
    logits[3, targets[3]] = -INF
    logits[4, (targets[4] + 1) % V] = -INF
    loss, cache = cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
    with np.errstate(invalid="ignore"):
        want, dwant = definition(logits, targets, reduction="none", label_smoothing=smoothing)
    np.testing.assert_allclose(loss, want, rtol=2e-6)
    np.testing.assert_allclose(cross_entropy_backward(1.0, cache), dwant, rtol=1e-4, atol=1e-6)
    assert np.isnan(loss[:3]).all() and loss[3] == INF and np.isfinite(loss[5:]).all()


# ---- the gradient's scale, in place, laws


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dloss(dtype, rng):
    logits, targets = draw(rng, (2, 3, 97), dtype)
    _, cache = cross_entropy(logits, targets)
    one = cross_entropy_backward(1.0, cache).astype(np.float32)
    for dloss in (-0.5, np.float32(-0.5), np.array(-0.5, logits.dtype)):
        got = cross_entropy_backward(dloss, cache)
        assert got.dtype == logits.dtype
        np.testing.assert_array_equal(got.astype(np.float32), -0.5 * one)
    _, cache = cross_entropy(logits, targets, reduction="none")
    one = cross_entropy_backward(1.0, cache).astype(np.float32)
    by_row = np.array([[1, 0, -2], [0.5, 4, 1]], logits.dtype)
    got = cross_entropy_backward(by_row, cache).astype(np.float32)
    np.testing.assert_array_equal(got, one * by_row.astype(np.float32)[..., None])


@pytest.mark.parametrize("V", [97, 4096, LONG])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_in_place(V, smoothing, rng):
    """The same bits as elsewhere, in the logits' memory, in every order of threads: only after all was read."""
    logits, targets = draw(rng, (3, V), "float32")
    targets[1] = -100
    want_loss, cache = cross_entropy(logits, targets, label_smoothing=smoothing)
    want = cross_entropy_backward(1.0, cache)
    loss, cache = cross_entropy(logits, targets, label_smoothing=smoothing, inplace=True)
    assert loss.tobytes() == want_loss.tobytes() and logits.tobytes() == want.tobytes()
    assert cross_entropy_backward(1.0, cache) is logits
    twice = cross_entropy_backward(2.0, cache)
    np.testing.assert_array_equal(twice, 2 * logits)


def test_writes_to_no_argument_and_repeats(rng):
    logits, targets = draw(rng, (3, 97), "float32")
    kept = logits.copy()
    loss, cache = cross_entropy(logits, targets)
    first, again = cross_entropy_backward(1.0, cache), cross_entropy_backward(1.0, cache)
    np.testing.assert_array_equal(logits, kept)
    np.testing.assert_array_equal(first, again)
    assert not np.shares_memory(first, cache.dlogits) and not np.shares_memory(first, again)
    assert cross_entropy(logits, targets)[0] == loss


def test_without_a_cache(rng):
    logits, targets = draw(rng, (3, 97), "float32")
    loss, cache = cross_entropy(logits, targets, cache=False)
    assert cache is None and loss == cross_entropy(logits, targets)[0]


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradient(reduction, smoothing, rng):
    targets = np.array([[3, 96, 3], [-100, 0, 50]])
    forward = functools.partial(cross_entropy, targets=targets, reduction=reduction, label_smoothing=smoothing)
    logits = rng.normal(0, 2, (2, 3, 97))
    report = gradcheck.gradcheck(forward, cross_entropy_backward, (logits,), method="central-difference")
    assert report, report


@pytest.mark.parametrize("V", [97, 4096, LONG])
def test_the_same_bits_in_every_order(V, in_all_orders, rng):
    logits, targets = draw(rng, (3, V), "float32")

    def run():
        memory = logits.copy()
        loss, _ = cross_entropy(memory, targets, inplace=True)
        return loss, memory

    in_all_orders(run)


SANITIZED = """
import numpy as np
from minilm.kernels.cuda.cross_entropy import cross_entropy, cross_entropy_backward

rng = np.random.default_rng(0)
for V in (33, 1028):  # a warp, a block per row
    logits = rng.normal(size=(3, V)).astype(np.float32)
    targets = np.array([0, -100, V - 1])
    cross_entropy(logits, targets, label_smoothing=0.1, inplace=True)
    assert np.isfinite(logits).all()
for dtype, V, weights in (("float16", 33, None), ("float64", 8197, None), ("float32", 70, rng.random(70))):
    _, cache = cross_entropy(rng.normal(size=(2, V)).astype(dtype), np.arange(2), class_weights=weights)
    cross_entropy_backward(2.0, cache)
"""


def test_sanitizers_are_silent(sanitized):
    outcome = sanitized(SANITIZED)
    assert outcome.code == 0, outcome.report


def test_instances_are_declared():
    assert {i.entry for i in INSTANCES} == {"cross_entropy", "inverse_weight", "sum_losses", "scale_gradient"}
    assert any(i.defines.get("HELD") == 0 and i.defines.get("WEIGHTED") for i in INSTANCES)


# ---- wrong input

LOGITS, TARGETS = np.zeros((4, 5), np.float32), np.arange(4)


@pytest.mark.parametrize(
    "logits, targets, options, error, message",
    [
        (LOGITS.astype(int), TARGETS, {}, TypeError, "int64 is not served"),
        (LOGITS.tolist(), TARGETS, {}, TypeError, "expected a NumPy or CuPy array"),
        (LOGITS, [0, 1, 2, 3], {}, TypeError, "expected a NumPy or CuPy array"),
        (np.zeros((5, 4), np.float32).T, TARGETS, {}, ValueError, "not C-contiguous"),
        (np.zeros((4, 0), np.float32), TARGETS, {}, ValueError, "V >= 1"),
        (LOGITS, TARGETS[:3], {}, ValueError, "do not fit"),
        (LOGITS, TARGETS.astype(float), {}, TypeError, "expected integers"),
        (LOGITS, np.array([0, 1, 5, 2]), {}, ValueError, "target 5 is out of range"),
        (LOGITS, np.array([0, 1, -100, 2]), {"ignore_index": 3}, ValueError, "target -100"),
        (LOGITS, TARGETS, {"reduction": "average"}, ValueError, "'average' is unknown"),
        (LOGITS, TARGETS, {"label_smoothing": 2.0}, ValueError, "label_smoothing = 2.0"),
        (LOGITS, TARGETS, {"class_weights": np.ones(4)}, ValueError, "class_weights have shape"),
        (LOGITS, TARGETS, {"inplace": True, "cache": False}, ValueError, "inplace=True without a cache"),
        (np.broadcast_to(np.float32(0), (1, 1)), TARGETS[:1], {"inplace": True}, ValueError, "read-only"),
    ],
)
def test_wrong_input(logits, targets, options, error, message):
    with pytest.raises(error, match=message):
        cross_entropy(logits, targets, **options)


@pytest.mark.parametrize("dloss", [np.zeros(4, np.float32), np.array(1.0)])
def test_a_dloss_that_does_not_fit(dloss):
    _, cache = cross_entropy(LOGITS, TARGETS)
    with pytest.raises(ValueError, match="dloss is"):
        cross_entropy_backward(dloss, cache)
