"""attention: what is hidden stays hidden. Laws over drawn shapes and masks, and the edges of each kind of mask."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from minilm import reference
from minilm.ops.attention import attention, attention_backward, attention_weights
from tests.ops.attention_cases import MASK, arrays, attention_in_a_loop

# ---- properties

sizes = st.integers(1, 4)


@st.composite
def calls(draw, causal=None):
    """Arguments and masks of any shape that is legal, drawn from small sizes."""
    B, G, Hkv, Tq, D = (draw(sizes) for _ in range(5))
    Tk = draw(st.integers(0, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    keywords = {"causal": draw(st.booleans()) if causal is None else causal}
    if draw(st.booleans()):
        keywords["key_lengths"] = rng.integers(0, Tk + 1, B)
    for name in ("mask", "bias"):
        if draw(st.booleans()):
            full = (B, G * Hkv, Tq, Tk)
            shape = tuple(n if draw(st.booleans()) else 1 for n in full)[draw(st.integers(0, 4)) :]
            keywords[name] = rng.random(shape) < 0.6 if name == "mask" else rng.normal(size=shape)
    return arrays(rng, B, G * Hkv, Hkv, Tq, Tk, D, draw(sizes)), keywords


@given(calls())
def test_rows_sum_to_one_or_zero(call):
    (q, k, v), keywords = call
    want_y, want_weights = attention_in_a_loop(q, k, v, **keywords)
    weights = attention_weights(q, k, **keywords)
    assert np.allclose(weights, want_weights, rtol=1e-12, atol=1e-14)
    assert np.allclose(attention(q, k, v, **keywords)[0], want_y, rtol=1e-12, atol=1e-13)
    totals = weights.sum(axis=-1)
    blind = ~(want_weights > 0).any(axis=-1)
    assert np.array_equal(totals[blind], np.zeros(blind.sum()))
    assert np.allclose(totals[~blind], 1, rtol=0, atol=1e-14)


@given(calls(), st.sampled_from([np.nan, np.inf, -np.inf, 1e300]))
def test_hidden_positions_have_no_influence(call, poison):
    """Not on the output, not on a gradient; their own gradients are 0."""
    (q, k, v), keywords = call
    _, weights = attention_in_a_loop(q, k, v, **keywords)
    G = q.shape[1] // k.shape[1]
    grouped = weights.reshape(*k.shape[:2], G, *weights.shape[2:])  # (B, Hkv, G, Tq, Tk)
    hidden = ~(grouped > 0).any(axis=(2, 3))  # (B, Hkv, Tk)
    blind = ~(weights > 0).any(axis=3)  # (B, H, Tq)
    y, cache = attention(q, k, v, **keywords)
    dy = np.random.default_rng(0).normal(size=y.shape)
    clean = attention_backward(dy, cache)

    q, k, v = q.copy(), k.copy(), v.copy()
    q[blind], k[hidden], v[hidden] = poison, poison, poison
    poisoned, cache = attention(q, k, v, **keywords)
    assert np.array_equal(poisoned, y)
    gradients = attention_backward(dy, cache)
    for got, want in zip(gradients, clean, strict=True):
        assert np.array_equal(got, want) if want is not None else got is None
    dq, dk, dv, _ = gradients
    assert not dq[blind].any()
    assert not dk[hidden].any()
    assert not dv[hidden].any()


@given(calls(causal=True))
def test_causal_is_an_explicit_mask(call):
    """
    4 queries, 4 keys: 1 0 0 0     2 queries, 4 keys: 1 1 1 0     4 queries, 2 keys: 0 0
                       1 1 0 0                        1 1 1 1                        0 0
                       1 1 1 0                                                       1 0
                       1 1 1 1                                                       1 1
    """
    (q, k, v), keywords = call
    Tq, Tk = q.shape[2], k.shape[2]
    lower = np.array([[j <= i + Tk - Tq for j in range(Tk)] for i in range(Tq)], dtype=bool).reshape(Tq, Tk)
    explicit = keywords | {"causal": False, "mask": keywords.get("mask", np.array(True)) & lower}
    with reference():  # a tuned version of one of the two may round differently
        assert np.array_equal(attention(q, k, v, **keywords)[0], attention(q, k, v, **explicit)[0])


@given(calls())
def test_grouped_heads_are_repeated_heads(call):
    (q, k, v), keywords = call
    G = q.shape[1] // k.shape[1]
    y, cache = attention(q, k, v, **keywords)
    repeated, many = attention(q, k.repeat(G, axis=1), v.repeat(G, axis=1), **keywords)
    assert np.allclose(y, repeated, rtol=1e-13, atol=1e-14)
    dy = np.ones(y.shape)
    for got, want in zip(attention_backward(dy, cache)[1:3], attention_backward(dy, many)[1:3], strict=True):
        summed = want.reshape(*got.shape[:2], G, *got.shape[2:]).sum(axis=2)
        assert np.allclose(got, summed, rtol=1e-12, atol=1e-13)


# ---- masks and their edges


def test_masked_positions_do_not_leak(xp, rng):
    """NaN behind a length, behind a mask, behind a bias of −∞, on both libraries; and lengths of zero."""
    q, k, v = arrays(rng)
    k[0, :, 3:], v[0, :, 3:], k[1], v[1], q[1] = np.nan, np.inf, np.nan, np.nan, np.nan
    lengths = np.array([3, 0])
    behind = np.arange(5) < lengths[:, None, None, None]  # (2, 1, 1, 5)
    results = []
    for keywords in (
        {"key_lengths": lengths},
        {"mask": behind},
        {"bias": np.where(behind, 0.0, -np.inf)},
        {"bias": np.where(behind, 0.0, -np.inf), "mask": behind, "key_lengths": lengths, "causal": False},
    ):
        given_ = {name: xp.asarray(value) for name, value in keywords.items()}
        y, cache = attention(*xp.asarrays((q, k, v)), **given_)
        results.append([xp.to_numpy(a) for a in (y, *attention_backward(xp.asarray(np.ones(y.shape)), cache)[:3])])
    for y, dq, dk, dv in results:
        assert all(np.isfinite(a).all() for a in (y, dq, dk, dv))
        assert not y[1].any() and not dq[1].any() and not dk[1].any() and not dv[1].any()
        assert not dk[0, :, 3:].any() and not dv[0, :, 3:].any()
        assert y[0].any() and dq[0].any() and dk[0].any()
        assert all(np.array_equal(a, b) for a, b in zip((y, dq, dk, dv), results[0], strict=True))


def test_queries_before_the_first_key_do_not_leak(xp, rng):
    """Causal, 4 × 2: the first two queries see nothing, and NaN in them reaches no gradient."""
    q, k, v = arrays(rng, Tq=4, Tk=2)
    q[:, :, :2] = np.nan
    y, cache = attention(*xp.asarrays((q, k, v)), causal=True)
    gradients = attention_backward(xp.asarray(np.ones(y.shape)), cache)[:3]
    for result in (y, *gradients):
        assert np.isfinite(xp.to_numpy(result)).all()
    assert not xp.to_numpy(y)[:, :, :2].any()
    assert not xp.to_numpy(gradients[0])[:, :, :2].any()


def test_bias_of_minus_infinity_is_a_mask(xp, rng):
    q, k, v = arrays(rng)
    bias = np.where(MASK, rng.normal(size=(3, 5)), -np.inf)
    y, cache = attention(*xp.asarrays((q, k, v)), bias=xp.asarray(bias))
    want, _ = attention(q, k, v, bias=np.where(MASK, bias, 0.0), mask=MASK)
    assert np.array_equal(xp.to_numpy(y), want)
    gradients = [xp.to_numpy(g) for g in attention_backward(y, cache)]
    assert all(np.isfinite(g).all() for g in gradients)
    assert not gradients[3][~MASK].any()


def test_bias_that_is_not_a_number_is_not_hidden(rng):
    q, k, v = arrays(rng)
    y, _ = attention(q, k, v, bias=np.array([0.0, np.nan, 0, 0, 0]))
    assert np.isnan(y).all()


def test_large_scores_do_not_overflow(xp, rng):
    """exp(1000) is infinite; exp(score − maximum) is not."""
    q, k = (xp.asarray(a.astype(np.float32)) for a in arrays(rng)[:2])
    weights = xp.to_numpy(attention_weights(q, k, scale=1e4))
    assert np.isfinite(weights).all()
    assert np.allclose(weights.sum(axis=-1), 1)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sizes", [{"B": 0}, {"Tk": 0}, {"Tq": 0}, {"Tq": 0, "Tk": 0}, {"Dv": 0}], ids=str)
def test_empty(sizes, causal, xp, rng):
    args = xp.asarrays(arrays(rng, H=4, **sizes))
    shape = (*args[0].shape[:3], args[2].shape[3])
    bias = xp.asarray(np.zeros((args[0].shape[2], args[1].shape[2])))
    lengths = xp.asarray(np.zeros(args[0].shape[0], dtype=np.int64))
    for keywords in ({}, {"bias": bias, "mask": bias == 0, "key_lengths": lengths}):
        y, cache = attention(*args, causal=causal, **keywords)
        assert y.shape == shape
        gradients = attention_backward(y, cache)[:3]
        assert [g.shape for g in gradients] == [a.shape for a in args]
        assert all(not xp.to_numpy(g).any() for g in gradients)
