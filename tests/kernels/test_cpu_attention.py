"""Attention in blocks is held to its definition: values, gradients, laws, masks and what must not leak, layout."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from minilm import gradcheck, reference, threads
from minilm.kernels.cpu import attention as blocked
from minilm.ops.attention import AttentionCache, attention, attention_backward
from minilm.selection import which
from tests.kernels.tolerances import assert_call_within

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(autouse=True)
def serves_small_calls(monkeypatch):
    """Blocks, chunks and the smallest call served shrink, so that small inputs go through several of each."""
    monkeypatch.setattr(blocked, "MINIMUM_SIZE", 0)
    monkeypatch.setattr(blocked, "MINIMUM_QUERIES", 0)
    monkeypatch.setattr(blocked, "ROWS", 4)
    monkeypatch.setattr(blocked, "CHUNK_BYTES", 1200)
    monkeypatch.setattr(blocked, "SPREAD_SIZE", 0)


def arrays(rng, B=2, H=4, Hkv=4, Tq=10, Tk=10, D=5, Dv=None, dtype="float64"):
    shapes = (B, H, Tq, D), (B, Hkv, Tk, D), (B, Hkv, Tk, D if Dv is None else Dv)
    return tuple(rng.normal(size=shape).astype(dtype) for shape in shapes)


def both(args, dy, **options):
    """(y, dq, dk, dv) of the tuned version and of the definition."""
    results = []
    y, cache = attention(*args, **options)
    assert type(cache) is blocked.BlockedAttentionCache, which("attention", *args, **options)
    results.append((y, *attention_backward(dy, cache)[:3]))
    with reference():
        y, cache = attention(*args, **options)
    results.append((y, *attention_backward(dy, cache)[:3]))
    return results


def assert_agree(args, tolerance=1e-12, **options):
    dy = np.random.default_rng(7).normal(size=(*args[0].shape[:3], args[2].shape[3])).astype(args[0].dtype)
    for got, want in zip(*both(args, dy, **options), strict=True):
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * max(1.0, np.abs(want).max(initial=0.0)))


SHAPES = {
    "several blocks, the last shorter": {},
    "one block": {"Tq": 3, "Tk": 3},
    "size 1": {"B": 1, "H": 1, "Hkv": 1, "Tq": 1, "Tk": 1, "D": 1},
    "grouped heads, values of another size": {"Hkv": 2, "Dv": 3},
    "one key head": {"H": 6, "Hkv": 1},
    "after a past": {"Tk": 17},  # no block ends where a key block does
    "queries before the first key": {"Tq": 13, "Tk": 6},  # causal: the first 7 see nothing
    "no values": {"Dv": 0},
    "one sequence": {"B": 1},
}


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"causal": True, "scale": 40.0}, {"scale": -40.0}], ids=str)
@pytest.mark.parametrize("masks", [(), ("lengths",), ("mask",), ("lengths", "mask")], ids="+".join)
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_the_definition(shape, masks, options, rng):
    """Scales of ±40 make scores of some hundreds: rows that need the shift beside rows that don't."""
    args = arrays(rng, **SHAPES[shape])
    B, Tk = len(args[1]), args[1].shape[2]
    if "lengths" in masks:
        options = options | {"key_lengths": rng.integers(0, Tk + 1, B)}
    if "mask" in masks:
        options = options | {"mask": rng.random((B, 1, 1, Tk)) < 0.6}
    assert_agree(args, **options)


@pytest.mark.parametrize("shape", [(10,), (1,), (1, 10), (1, 1, 1, 10), (2, 1, 1, 1)])
def test_masks_that_broadcast(shape, rng):
    assert_agree(arrays(rng), mask=rng.random(shape) < 0.5)


@pytest.mark.parametrize("height", [-1000.0, -60.0, 60.0, 1000.0])
def test_scores_that_need_the_shift(height, rng):
    """The last feature adds the same score to all keys: exp of it over- or underflows, the weights don't change."""
    q, k, v = arrays(rng, D=6)
    q[..., -1], k[..., -1] = height, np.sqrt(6)
    assert_agree((q, k, v), 1e-10, causal=True)
    assert_agree(tuple(a.astype("float32") for a in (q, k, v)), 2e-3, causal=True)  # scores of 1000 have 4 digits left


@pytest.mark.parametrize("causal", [False, True])
def test_float32_is_within_what_arithmetic_allows(causal, rng):
    arrays_by_name = dict(zip("qkv", arrays(rng, Tq=97, Tk=97, D=64, dtype="float32"), strict=True))
    dy = rng.normal(size=arrays_by_name["q"].shape).astype("float32")
    y, cache = attention(**arrays_by_name, causal=causal)
    assert type(cache) is blocked.BlockedAttentionCache
    results = y, *attention_backward(dy, cache)
    assert_call_within("attention", arrays_by_name, {"causal": causal}, results, dy)


# ---- gradients and laws


@pytest.mark.parametrize("sizes", [{}, {"Hkv": 2, "Tq": 7, "Tk": 11, "Dv": 3}], ids=str)
@pytest.mark.parametrize("options", [{}, {"causal": True}, {"key_lengths": [6, 3]}], ids=str)
def test_gradient(options, sizes, rng):
    forward = functools.partial(attention, **options)
    report = gradcheck.gradcheck(forward, attention_backward, arrays(rng, **sizes), method="central-difference")
    assert report.max_rel_error < 1e-7, report


@pytest.mark.parametrize("options", [{"causal": True}, {"key_lengths": [6, 0]}, {"scale": 40.0}], ids=str)
def test_laws(options, rng):
    """Linear in dy, repeatable, writes to nothing, any layout; complex input runs the definition."""
    gradcheck.check_laws(functools.partial(attention, **options), attention_backward, arrays(rng, Hkv=2))


def test_only_what_is_wanted(rng):
    args = arrays(rng)
    y, cache = attention(*args, causal=True)
    everything = attention_backward(y, cache)
    for number, name in enumerate("qkv"):
        only = attention_backward(y, cache, wrt=(name,))
        assert [g is not None for g in only] == [number == i for i in range(4)]
        np.testing.assert_array_equal(only[number], everything[number])
    plain, nothing = attention(*args, causal=True, cache=False)
    np.testing.assert_array_equal(plain, y)
    assert nothing is None


# ---- what must not leak


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("causal", [False, True])
def test_hidden_keys_have_no_influence(causal, poison, rng):
    q, k, v = arrays(rng, B=3)
    options = {"causal": causal, "key_lengths": np.array([6, 0, 10]), "mask": np.arange(10) != 2}
    dy = rng.normal(size=q.shape)
    y, cache = attention(q, k, v, **options)
    clean = (y, *attention_backward(dy, cache)[:3])
    for array in (k, v):
        array[0, :, 6:], array[1], array[:, :, 2] = poison, poison, poison
    q[1] = poison  # sees nothing
    y, cache = attention(q, k, v, **options)
    for got, want in zip((y, *attention_backward(dy, cache)[:3]), clean, strict=True):
        np.testing.assert_array_equal(got, want)
        assert not got[1].any()
    _, _, dk, dv = clean
    assert not dk[0, :, 6:].any()
    assert not dv[0, :, 6:].any()


def test_queries_before_the_first_key_have_no_influence(rng):
    q, k, v = arrays(rng, Tq=13, Tk=6)
    q[:, :, :7] = np.nan
    y, cache = attention(q, k, v, causal=True)
    for result in (y, *attention_backward(np.ones_like(y), cache)[:3]):
        assert np.isfinite(result).all()
    assert not y[:, :, :7].any()


def test_a_key_that_is_not_a_number_stays_in_the_rows_that_see_it(rng):
    q, k, v = arrays(rng)
    clean, _ = attention(q, k, v, causal=True)
    k[0, 0, 6] = np.nan
    y, _ = attention(q, k, v, causal=True)
    assert np.isnan(y[0, 0, 6:]).all()
    np.testing.assert_allclose(y[0, 0, :6], clean[0, 0, :6], rtol=1e-12)
    np.testing.assert_allclose(y[1], clean[1], rtol=1e-12)


# ---- layout and threads


def test_heads_of_a_projection(rng):
    """Views of one projection in, as a layer calls it; results that a layer joins without a copy out."""
    projected = rng.normal(size=(2, 10, 12, 5))
    views = [projected[:, :, 4 * i : 4 * i + 4].transpose(0, 2, 1, 3) for i in range(3)]
    assert_agree(views, causal=True)
    y, cache = attention(*views, causal=True)
    assert y.transpose(0, 2, 1, 3).flags.c_contiguous
    gradients = attention_backward(y, cache)[:3]
    addresses = [g.__array_interface__["data"][0] for g in gradients]
    assert np.diff(addresses).tolist() == [4 * 5 * 8] * 2
    assert {g.strides for g in gradients} == {views[0].strides}


@pytest.mark.parametrize("sizes", [{"B": 3}, {"B": 1}, {"B": 5, "Hkv": 2}], ids=str)
def test_threads(sizes, rng):
    """By sequence or by head, each head is computed as by one thread."""
    args = arrays(rng, **sizes)
    results = []
    for number in (1, 2, 3):
        with threads.limit(number):
            y, cache = attention(*args, causal=True, key_lengths=np.full(len(args[0]), 8))
            results.append((y, *attention_backward(y, cache)[:3]))
    for other in results[1:]:
        for got, want in zip(other, results[0], strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-14)


# ---- what is left to the definition

Q = np.zeros((2, 4, 8, 5))


@pytest.mark.parametrize(
    ("args", "options", "reason"),
    [
        ((Q.astype(complex),) * 3, {}, "float32 and float64"),
        ((Q, Q, Q), {"bias": np.zeros((8, 8))}, "without bias"),
        ((Q, Q, Q), {"dropout": 0.1, "rng": np.random.default_rng(0)}, "dropout"),
        ((Q, Q, Q), {"mask": np.ones((8, 8), bool)}, "the same for all heads and queries"),
        ((Q, Q, Q), {"mask": np.ones((1, 4, 1, 8), bool)}, "the same for all heads and queries"),
    ],
)
def test_refuses(args, options, reason):
    assert reason in which("attention", *args, **options)
    assert type(attention(*args, **options)[1]) is AttentionCache


def test_refuses_what_is_small(monkeypatch):
    monkeypatch.undo()
    assert "512 scores are fewer than" in which("attention", Q, Q, Q)
    past = np.zeros((2, 4, 4096, 5))
    assert "1 queries are fewer than" in which("attention", Q[:, :, :1], past, past)


@pytest.mark.parametrize(
    ("args", "options"),
    [
        ((Q, Q[..., :3], Q), {}),
        ((Q, Q[:, :3], Q[:, :3]), {}),
        ((Q, Q, Q.astype("float32")), {}),
        ((Q[0], Q, Q), {}),
        ((Q, Q, Q), {"key_lengths": [9, 1]}),
        ((Q, Q, Q), {"key_lengths": [1]}),
        ((Q, Q, Q), {"mask": np.ones((3, 1, 1, 8), bool)}),
        ((Q, Q, Q), {"mask": np.ones(8)}),
    ],
)
def test_errors_are_the_definitions(args, options):
    with pytest.raises((ValueError, TypeError)) as kernel:
        attention(*args, **options)
    with reference(), pytest.raises((ValueError, TypeError)) as definition:
        attention(*args, **options)
    assert str(kernel.value) == str(definition.value)
