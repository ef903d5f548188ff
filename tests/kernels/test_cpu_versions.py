"""Every tuned CPU version is held to its definition: values, gradients, laws, edges, and what it refuses."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from minilm import gradcheck, ops, reference, threads
from minilm.kernels.cpu import blocks, embedding as embedding_version, gelu as gelu_version
from minilm.selection import which

pytestmark = pytest.mark.filterwarnings("error")


def draw(rng, *shape, scale=1.0):
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def ids_of(rng, count, vocabulary):
    """Few frequent ids, many rare ones, as in text."""
    return (vocabulary * rng.random(count) ** 4).astype(np.int64)


# Of several blocks each, the last one shorter.
CASES = {
    "softmax": lambda rng: (draw(rng, 3, 250, 257, scale=4.0),),
    "softmax, long rows": lambda rng: (draw(rng, 90, 1030, scale=4.0),),
    "softmax, far from zero": lambda rng: (draw(rng, 700, 257, scale=4.0) + 1e4,),
    "layer_norm": lambda rng: (draw(rng, 2, 700, 130) + 3, draw(rng, 130), draw(rng, 130)),
    "layer_norm, long rows": lambda rng: (draw(rng, 300, 400) + 3, draw(rng, 400), draw(rng, 400)),
    "gelu": lambda rng: (draw(rng, 70, 4001, scale=3.0),),
    "gelu, tanh": lambda rng: (draw(rng, 70, 4001, scale=3.0), "tanh"),
    "embedding": lambda rng: (ids_of(rng, (5, 400), 3000), draw(rng, 3000, 33)),
    "embedding, padding": lambda rng: (ids_of(rng, 2000, 3000), draw(rng, 3000, 33), 0),
    "embedding, characters": lambda rng: (ids_of(rng, 2000, 65), draw(rng, 65, 33)),
}


def functions(case):
    name = case.partition(",")[0]
    return name, getattr(ops, name), getattr(ops, f"{name}_backward")


def run(case, args, dy):
    """y and the gradients, as a list."""
    _, forward, backward = functions(case)
    y, cache = forward(*args)
    gradients = backward(dy, cache)
    return [y, *(gradients if isinstance(gradients, tuple) else (gradients,))], cache


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_definition(case, rng):
    args = CASES[case](rng)
    name, forward, _ = functions(case)
    assert which(name, *args).startswith(f"{name}: cpu."), which(name, *args)
    dy = draw(rng, *forward(*args)[0].shape)
    tuned, tuned_cache = run(case, args, dy)
    exact = [a.astype(np.float64) if isinstance(a, np.ndarray) and a.dtype == np.float32 else a for a in args]
    with reference():
        plain, plain_cache = run(case, args, dy)
        want, _ = run(case, exact, dy.astype(np.float64))
    assert type(tuned_cache) is not type(plain_cache)
    for ours, theirs, best in zip(tuned, plain, want, strict=True):
        assert ours.dtype == theirs.dtype == np.float32
        assert ours.shape == theirs.shape
        scale = np.abs(best).max()
        allowed = 2 * np.abs(theirs - best).max() / scale + 5e-7  # sums in another order
        assert np.abs(ours - best).max() / scale <= allowed


@pytest.mark.parametrize("case", CASES)
def test_laws(case, rng):
    args = CASES[case](rng)
    _, forward, backward = functions(case)
    arrays = [a for a in args if isinstance(a, np.ndarray) and a.dtype == np.float32]
    others = [a for a in args if not (isinstance(a, np.ndarray) and a.dtype == np.float32)]
    if case.startswith("embedding"):
        op = functools.partial(_embedding_of, others, forward)
    else:
        op = functools.partial(_before, others, forward)
    gradcheck.check_laws(op, backward, arrays)


def _embedding_of(others, forward, weight, **options):
    return forward(others[0], weight, *others[1:], **options)


def _before(others, forward, *arrays, **options):
    return forward(*arrays, *others, **options)


@pytest.mark.parametrize("case", [case for case in CASES if "padding" not in case and case != "gelu"])
def test_gradient_in_float64(case, rng):
    """float64 is served by all but the exact GELU, whose erf is good to float32 only."""
    args = CASES[case](rng)
    name, forward, backward = functions(case)
    arrays = [a.astype(np.float64) for a in args if isinstance(a, np.ndarray) and a.dtype == np.float32]
    others = [a for a in args if not (isinstance(a, np.ndarray) and a.dtype == np.float32)]
    op = functools.partial(_embedding_of if name == "embedding" else _before, others, forward)
    _, cache = op(*arrays)
    assert type(cache).__module__.startswith("minilm.kernels.cpu")
    report = gradcheck.gradcheck(op, backward, arrays, method="central-difference")
    assert report.max_rel_error < 1e-7, report


def test_exact_gelu_gradient_in_float32(rng):
    x = draw(rng, 40, 1000, scale=3.0)
    report = gradcheck.gradcheck(ops.gelu, ops.gelu_backward, (x,), allow_float32=True)
    assert report.passed, report


@pytest.mark.parametrize("case", CASES)
def test_threads(case, rng, monkeypatch):
    """Shared out, the results are the same up to the order of sums, and the same bits at every run."""
    monkeypatch.setattr(blocks, "SPREAD_SIZE", 1)
    args = CASES[case](rng)
    dy = draw(rng, *functions(case)[1](*args)[0].shape)
    with threads.limit(1):
        alone, _ = run(case, args, dy)
    with threads.limit(3):
        (shared, _), (again, _) = run(case, args, dy), run(case, args, dy)
    for one, three, repeated in zip(alone, shared, again, strict=True):
        np.testing.assert_array_equal(three, repeated)
        np.testing.assert_allclose(three, one, rtol=1e-5, atol=1e-5 * np.abs(one).max())


def test_softmax_rows_that_overflow_or_see_nothing(rng):
    """Large rows are shifted, rows of −∞ give zeros, NaN and +∞ stay in their rows."""
    x = draw(rng, 300, 257)
    x[3], x[100, :], x[200, 5], x[250, 7] = -np.inf, 200.0, np.nan, np.inf
    y, cache = ops.softmax(x)
    with reference():
        want, _ = ops.softmax(x)
    assert which("softmax", x).startswith("softmax: cpu.blocked")
    np.testing.assert_allclose(y, want, rtol=2e-6, atol=1e-9)
    assert not y[3].any()
    assert np.isnan(y[200]).all()
    assert np.isnan(y[250]).all()
    others = np.delete(np.arange(300), [200, 250])
    assert np.isfinite(ops.softmax_backward(np.ones_like(x), cache)[others]).all()


def test_gelu_at_the_ends(rng):
    x = np.zeros(1 << 14, np.float32)
    x[:6] = 1e30, -1e30, 20.0, -20.0, np.nan, 0.0
    (y, cache), (plain, _) = ops.gelu(x), ops.gelu(x, cache=False)
    np.testing.assert_array_equal(y, plain)
    np.testing.assert_array_equal(y[:4], np.array([1e30, 0, 20, 0], np.float32))
    assert np.isnan(y[4])
    far = np.geomspace(6, 1e30, 1 << 14).astype(np.float32)  # beyond the polynomial's fit
    np.testing.assert_array_equal(ops.gelu(far)[0], far)
    assert not ops.gelu(-far)[0].any()
    np.testing.assert_allclose(cache.slope[[0, 1, 2, 3, 5]], [1, 0, 1, 0, 0.5], atol=1e-7)


def test_erf_of_the_exact_gelu():
    import math

    z = np.linspace(-4, 4, 4001)
    powers = np.vander(z * z, 7, increasing=True)
    error = np.tanh(z * (powers @ gelu_version.erf_coefficients())) - [math.erf(x) for x in z]
    assert np.abs(error).max() < 8e-8


def test_embedding_sums_frequent_ids(rng):
    """More occurrences than rounds, of several ids; a table with an untouched row; the last id."""
    ids = np.repeat([5, 9, 999, 0], [1, embedding_version.ROUNDS, 300, embedding_version.ROUNDS + 1])
    rng.shuffle(ids)
    weight, dy = draw(rng, 1000, 64), rng.integers(-4, 5, (len(ids), 64)).astype(np.float32)
    _, cache = ops.embedding(ids, weight)
    want = np.zeros((1000, 64), np.float32)
    for row, gradient in zip(ids, dy, strict=True):
        want[row] += gradient  # small integers: exact in any order
    np.testing.assert_array_equal(ops.embedding_backward(dy, cache), want)


@pytest.mark.parametrize(
    ("name", "args", "word"),
    [
        ("softmax", (np.zeros((400, 400), np.float32), 0), "axis"),
        ("softmax", (np.zeros((400, 400), np.float32).T,), "contiguous"),
        ("softmax", (np.zeros((2, 3), np.float32),), "fewer"),
        ("softmax", (np.zeros((400, 400), np.complex128),), "complex128"),
        ("gelu", (np.zeros((400, 400)),), "float64"),
        ("layer_norm", (np.zeros((400, 400), np.float32), np.zeros(400), np.zeros(400)), "the same for all"),
        ("embedding", (np.full(4000, 70), np.zeros((65, 64), np.float32)), "out of range"),
    ],
)
def test_what_is_not_served_goes_to_the_definition(name, args, word):
    shown = which(name, *args)
    assert shown.startswith(f"{name}: definition")
    assert word in shown


@pytest.mark.parametrize("length", [1, blocks.LONG_ROW])
def test_the_buffer_of_numpy_is_as_before(length):
    before = np.getbufsize()
    with pytest.raises(RuntimeError), blocks.whole_rows(length):
        assert (np.getbufsize() < length) == (length == blocks.LONG_ROW)
        raise RuntimeError
    assert np.getbufsize() == before
