"""The blocked cross-entropy is held to its definition: values, gradients, laws, edges, errors."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import minilm
from minilm import gradcheck
from minilm.kernels.cpu import cross_entropy as blocked
from minilm.ops.cross_entropy import CrossEntropyCache, cross_entropy, cross_entropy_backward
from minilm.selection import which

TOLERANCE = {"float32": 1e-5, "float64": 1e-13}  # of the loss, and of the gradient relative to its largest entry


@pytest.fixture(autouse=True)
def serves_small_logits(monkeypatch):
    """Blocks and the smallest size served shrink, so that small inputs go through several blocks."""
    monkeypatch.setattr(blocked, "MINIMUM_SIZE", 0)
    monkeypatch.setattr(blocked, "BLOCK_BYTES", 200)


def both(logits, targets, dloss=1.0, **options):
    """(loss, dlogits) of the kernel and of the definition."""
    results = []
    loss, cache = cross_entropy(logits, targets, **options)
    assert type(cache) is blocked.BlockedCrossEntropyCache, which("cross_entropy", logits, targets, **options)
    results.append((loss, cross_entropy_backward(dloss, cache)))
    with minilm.reference():
        loss, cache = cross_entropy(logits, targets, **options)
    assert type(cache) is CrossEntropyCache
    results.append((loss, cross_entropy_backward(dloss, cache)))
    return results


def assert_agree(logits, targets, **options):
    (loss, gradient), (want, want_gradient) = both(logits, targets, **options)
    tolerance = TOLERANCE[logits.dtype.name]
    assert loss.dtype == gradient.dtype == logits.dtype and np.shape(loss) == ()
    np.testing.assert_allclose(loss, want, rtol=tolerance)
    largest = np.nanmax(np.abs(want_gradient), initial=0.0)
    np.testing.assert_allclose(gradient, want_gradient, rtol=tolerance, atol=tolerance * largest)


SHAPES = [
    (1, 1),  # one class: the loss is 0
    (7, 13),  # several rows per block, the last block shorter
    (3, 300),  # a row is larger than a block
    (2, 3, 11),  # batch and time
    (5,),  # one position, no rows
    (0, 4),  # nothing: the mean is NaN
]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_the_definition(shape, reduction, dtype, rng):
    logits = rng.normal(0.0, 4.0, shape).astype(dtype)
    targets = np.asarray(rng.integers(0, shape[-1], shape[:-1]))
    assert_agree(logits, targets, reduction=reduction, dloss=-0.7)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("offset", [-1e4, -100.0, -30.0, 30.0, 80.0, 100.0, 1e4])
def test_offset(offset, dtype, rng):
    """exp overflows float32 above 88, and its sum vanishes below -88: the shift is needed, and noticed."""
    logits = (rng.normal(size=(9, 20)) + offset).astype(dtype)
    assert_agree(logits, rng.integers(0, 20, 9))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_rows_of_very_different_height(dtype, rng):
    logits = (rng.normal(size=(12, 20)) + np.linspace(-200, 200, 12)[:, None]).astype(dtype)
    assert_agree(logits, rng.integers(0, 20, 12))


def test_large_sums_are_exact_enough(rng):
    """10,000 classes in float32 against the definition in float64."""
    logits = rng.normal(0.0, 3.0, (4, 10_000))
    targets = rng.integers(0, 10_000, 4)
    with minilm.reference():
        want, cache = cross_entropy(logits, targets)
    want_gradient = cross_entropy_backward(1.0, cache)
    loss, cache = cross_entropy(logits.astype("float32"), targets)
    assert abs(loss - want) < 2e-6 * want
    assert np.abs(cross_entropy_backward(1.0, cache) - want_gradient).max() < 1e-6 * np.abs(want_gradient).max()


# ---- edges


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("ignore_index", [-100, 2])
def test_ignored_targets(ignore_index, reduction, rng):
    logits, targets = rng.normal(size=(8, 5)), rng.integers(0, 5, 8)
    targets[[0, 3, 4]] = ignore_index
    assert_agree(logits, targets, ignore_index=ignore_index, reduction=reduction)
    _, cache = cross_entropy(logits, targets, ignore_index=ignore_index, reduction=reduction)
    assert not cross_entropy_backward(1.0, cache)[targets == ignore_index].any()


@pytest.mark.parametrize("reduction, loss", [("mean", np.nan), ("sum", 0.0)])
def test_all_ignored(reduction, loss, rng):
    logits, targets = rng.normal(size=(8, 5)), np.full(8, -100)
    assert_agree(logits, targets, reduction=reduction)
    got, cache = cross_entropy(logits, targets, reduction=reduction)
    assert np.array_equal(got, loss, equal_nan=True) and not cross_entropy_backward(1.0, cache).any()


@pytest.mark.parametrize("value", [-np.inf, np.inf, np.nan])
@pytest.mark.parametrize("where", ["target", "other", "row"])
def test_infinite_and_nan_logits(where, value, rng):
    """A class that cannot be has probability 0; a row of -inf alone, or with +inf or NaN, has no loss: NaN."""
    logits, targets = rng.normal(size=(8, 5)), np.arange(8) % 5
    logits[2, slice(None) if where == "row" else 2 if where == "target" else 3] = value
    assert_agree(logits, targets)
    (_, gradient), _ = both(logits, targets)
    assert np.isfinite(np.delete(gradient, 2, axis=0)).all()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint64"])
def test_integer_targets(dtype, rng):
    assert_agree(rng.normal(size=(6, 5)), rng.integers(0, 5, 6).astype(dtype))


def test_zero_d_dloss_and_its_gradient(rng):
    logits, targets = rng.normal(size=(6, 5)).astype("float32"), rng.integers(0, 5, 6)
    _, cache = cross_entropy(logits, targets)
    gradient = cross_entropy_backward(np.float32(2.5), cache)
    np.testing.assert_allclose(gradient, 2.5 * cross_entropy_backward(1.0, cache), rtol=1e-6)
    assert gradient.dtype == np.float32


# ---- gradients and laws


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradient(reduction, rng):
    targets = rng.integers(0, 13, (3, 7))
    targets[1, 2] = -100
    forward = functools.partial(blocked.blocked_cross_entropy, targets=targets, reduction=reduction)
    report = gradcheck.gradcheck(
        forward, blocked.blocked_cross_entropy_backward, (rng.normal(0, 3, (3, 7, 13)),), method="central-difference"
    )
    assert report, report


def test_laws(rng):
    """Through the op: linear in dy, repeatable, writes to nothing, any layout; complex input runs the definition."""
    targets = rng.integers(0, 13, 21)
    gradcheck.check_laws(cross_entropy, cross_entropy_backward, (rng.normal(0, 3, (21, 13)), targets))


def test_keeps_no_array_of_the_logits_size(rng):
    logits = rng.normal(size=(8, 50))
    _, cache = cross_entropy(logits, rng.integers(0, 50, 8))
    assert cache.logits is logits
    assert max(array.size for array in cache[1:]) == 8
    assert cross_entropy(logits, rng.integers(0, 50, 8), cache=False)[1] is None


# ---- what is left to the definition

LOGITS, TARGETS = np.zeros((4, 5)), np.arange(4)


@pytest.mark.parametrize(
    "logits, targets, options, reason",
    [
        (LOGITS.astype(complex), TARGETS, {}, "not complex128"),
        (LOGITS.astype("float16"), TARGETS, {}, "not float16"),
        (np.zeros((5, 4)).T, TARGETS, {}, "not contiguous"),
        (LOGITS, TARGETS, {"reduction": "none"}, "reduction mean or sum"),
        (LOGITS, TARGETS, {"label_smoothing": 0.1}, "label smoothing"),
        (LOGITS, TARGETS, {"class_weights": np.ones(5)}, "without class weights"),
    ],
)
def test_refuses(logits, targets, options, reason):
    assert reason in which("cross_entropy", logits, targets, **options)
    assert type(cross_entropy(logits, targets, **options)[1]) is CrossEntropyCache


def test_refuses_small_logits(monkeypatch):
    monkeypatch.undo()
    assert "20 elements are fewer than" in which("cross_entropy", LOGITS, TARGETS)
    large = np.zeros((64, 1024), "float32")
    assert which("cross_entropy", large, np.zeros(64, int)).startswith("cross_entropy: cpu.blocked")


def test_leaves_device_arrays_to_the_definition(xp):
    expected = "cpu.blocked" if xp.name == "numpy" else "serves NumPy arrays"
    assert expected in which("cross_entropy", xp.asarray(LOGITS), xp.asarray(TARGETS))


@pytest.mark.parametrize(
    "logits, targets, options",
    [
        (LOGITS, np.array([0, 1, 5, 2]), {}),
        (LOGITS, np.array([0, 1, -1, 2]), {}),
        (LOGITS, np.array([0, 1, -100, 2]), {"ignore_index": 3}),
        (LOGITS, np.zeros(3, int), {}),
        (LOGITS, np.zeros(4), {}),
        (np.zeros((4, 0)), TARGETS, {}),
        (LOGITS, TARGETS, {"reduction": "average"}),
        (LOGITS, TARGETS, {"label_smoothing": 2.0}),
        (np.zeros((4, 5), int), TARGETS, {}),
        (LOGITS, [0, 1, 2, 3], {}),
    ],
)
def test_errors_are_the_definitions(logits, targets, options):
    with pytest.raises((ValueError, TypeError)) as kernel:
        cross_entropy(logits, targets, **options)
    with minilm.reference(), pytest.raises((ValueError, TypeError)) as definition:
        cross_entropy(logits, targets, **options)
    assert type(kernel.value) is type(definition.value) and str(kernel.value) == str(definition.value)
