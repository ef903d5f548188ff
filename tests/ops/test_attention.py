"""attention: its definition, its gradient for every combination of options, and what must not leak.

Masks are drawn with queries as rows, keys as columns, 1 = visible:

    causal, 3 queries, 5 keys     key_lengths (2, 0)            mask (MASK below)
      1 1 1 0 0                     1 1 0 0 0 | 0 0 0 0 0         1 0 1 0 0
      1 1 1 1 0                     1 1 0 0 0 | 0 0 0 0 0         0 0 0 0 0    a row that sees nothing
      1 1 1 1 1                     1 1 0 0 0 | 0 0 0 0 0         0 1 1 0 1    key 3 is seen by nobody
"""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm import gradcheck
from minilm.ops.attention import attention, attention_backward, attention_weights
from tests import strict_cupy

MASK = np.array([[1, 0, 1, 0, 0], [0, 0, 0, 0, 0], [0, 1, 1, 0, 1]], dtype=bool)

OPTIONS = [
    dict(zip(("causal", "lengths", "mask", "bias"), chosen, strict=True))
    for chosen in itertools.product((False, True), repeat=4)
]


def arrays(rng, B=2, H=2, Hkv=2, Tq=3, Tk=5, D=4, Dv=4):
    shapes = (B, H, Tq, D), (B, Hkv, Tk, D), (B, Hkv, Tk, Dv)
    return tuple(rng.normal(size=shape) for shape in shapes)


def options_of(chosen, xp=None):
    """The keyword arguments, `bias` apart, of one row of OPTIONS for B = 2, Tq = 3, Tk = 5."""
    keywords = {"causal": chosen["causal"]}
    if chosen["lengths"]:
        keywords["key_lengths"] = np.array([4, 1])
    if chosen["mask"]:
        keywords["mask"] = MASK
    return keywords if xp is None else {name: xp.asarray(value) for name, value in keywords.items()}


def name_of(chosen):
    return "+".join(name for name, on in chosen.items() if on) or "plain"


def attention_in_a_loop(q, k, v, *, causal=False, key_lengths=None, mask=None, bias=None, scale=None):
    """One query at a time, over the list of keys that it sees. Returns y and the weights."""
    B, H, Tq, D = q.shape
    Hkv, Tk, Dv = v.shape[1:]
    y, weights = np.zeros((B, H, Tq, Dv)), np.zeros((B, H, Tq, Tk))
    allowed = np.broadcast_to(True if mask is None else mask, (B, H, Tq, Tk))
    added = np.broadcast_to(0.0 if bias is None else bias, (B, H, Tq, Tk))
    scale = 1 / math.sqrt(D) if scale is None else scale
    for b, h, i in itertools.product(range(B), range(H), range(Tq)):
        g = h // (H // Hkv)
        keys = [j for j in range(Tk) if allowed[b, h, i, j] and added[b, h, i, j] != -math.inf]
        keys = [j for j in keys if not causal or Tk - j >= Tq - i]  # as many keys after j as queries after i, or more
        keys = [j for j in keys if key_lengths is None or j < key_lengths[b]]
        if keys:
            scores = [scale * float(q[b, h, i] @ k[b, g, j]) + added[b, h, i, j] for j in keys]
            powers = [math.exp(s - max(scores)) for s in scores]
            for j, power in zip(keys, powers, strict=True):
                weights[b, h, i, j] = power / sum(powers)
                y[b, h, i] += weights[b, h, i, j] * v[b, g, j]
    return y, weights


# ---- definition and gradient


@pytest.mark.parametrize("Hkv", [4, 2, 1])
@pytest.mark.parametrize("chosen", OPTIONS, ids=name_of)
def test_definition(chosen, Hkv, xp, rng):
    q, k, v = arrays(rng, H=4, Hkv=Hkv, Dv=3)
    keywords = options_of(chosen) | ({"bias": rng.normal(size=(4, 1, 5))} if chosen["bias"] else {})
    want_y, want_weights = attention_in_a_loop(q, k, v, **keywords)
    given_ = {name: xp.asarray(value) for name, value in keywords.items()}
    y, _ = attention(*xp.asarrays((q, k, v)), **given_)
    weights = attention_weights(*xp.asarrays((q, k)), **given_)
    assert np.allclose(xp.to_numpy(y), want_y, rtol=1e-13, atol=1e-14)
    assert np.allclose(xp.to_numpy(weights), want_weights, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(("H", "Hkv"), [(2, 2), (4, 2)])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("chosen", OPTIONS, ids=name_of)
def test_gradient(chosen, dropout, H, Hkv, xp, rng):
    keywords = options_of(chosen, xp) | {"dropout": dropout}

    def forward(q, k, v, bias=None):
        return attention(q, k, v, bias=bias, rng=np.random.default_rng(3), **keywords)

    args = arrays(rng, H=H, Hkv=Hkv) + ((rng.normal(size=(2, 1, 3, 5)),) if chosen["bias"] else ())
    report = gradcheck.gradcheck(forward, attention_backward, xp.asarrays(args), method="complex-step")
    assert report.max_rel_error <= 1e-11, report


@pytest.mark.parametrize("shape", [(), (5,), (1, 5), (3, 1), (4, 1, 1), (2, 1, 1, 5), (1, 4, 3, 5), (2, 4, 3, 5)])
def test_gradient_of_a_broadcast_bias(shape, xp, rng):
    """dbias has the shape of the bias, whatever it was broadcast over."""
    args = xp.asarrays((*arrays(rng, H=4), rng.normal(size=shape)))

    def forward(q, k, v, bias):
        return attention(q, k, v, bias=bias, causal=True)

    y, cache = forward(*args)
    assert attention_backward(y, cache)[3].shape == shape
    report = gradcheck.gradcheck(forward, attention_backward, args, method="complex-step")
    assert report.max_rel_error <= 1e-11, report


@pytest.mark.parametrize(
    "sizes",
    [
        {"Tq": 5, "Tk": 2},  # causal: the first three queries see nothing
        {"Tq": 1, "Tk": 7},  # one new token over a past
        {"Tq": 1, "Tk": 1},
        {"D": 1, "Dv": 3},
        {"H": 6, "Hkv": 1, "Dv": 1},
    ],
    ids=str,
)
def test_gradient_of_every_element(sizes, xp, rng):
    args = xp.asarrays(arrays(rng, **sizes))

    def forward(q, k, v):
        return attention(q, k, v, causal=True, scale=0.7)

    report = gradcheck.gradcheck(forward, attention_backward, args, method="complex-step", mode="full")
    assert report.max_rel_error <= 1e-11, report


@pytest.mark.parametrize("chosen", [OPTIONS[0], OPTIONS[-1]], ids=name_of)
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_laws(chosen, dropout, xp, rng):
    keywords = options_of(chosen, xp) | {"dropout": dropout}

    def forward(q, k, v, bias, *, cache=True):
        return attention(q, k, v, bias=bias, rng=np.random.default_rng(5), cache=cache, **keywords)

    args = (*arrays(rng, H=4), rng.normal(size=(4, 3, 5)))
    gradcheck.check_laws(forward, attention_backward, xp.asarrays(args))


def test_only_what_is_wanted(xp, rng):
    args = arrays(rng, H=4)
    y, cache = attention(*xp.asarrays(args), bias=xp.asarray(rng.normal(size=(3, 5))))
    everything = attention_backward(y, cache)
    for number, name in enumerate(("q", "k", "v", "bias")):
        only = attention_backward(y, cache, wrt=(name,))
        assert [g is not None for g in only] == [number == i for i in range(4)]
        assert np.array_equal(xp.to_numpy(only[number]), xp.to_numpy(everything[number]))
    y, cache = attention(*xp.asarrays(args))
    assert attention_backward(y, cache)[3] is None
    assert attention(*xp.asarrays(args), cache=False)[1] is None


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


# ---- dropout


def test_dropout_is_inverted_and_kept_in_the_cache(xp, rng):
    """With v the identity, y is the weights after dropout."""
    q, k, _ = arrays(rng, H=2, Hkv=2, Tq=40, Tk=40)
    v = np.broadcast_to(np.eye(40), (2, 2, 40, 40)).copy()
    y, cache = attention(*xp.asarrays((q, k, v)), dropout=0.25, rng=np.random.default_rng(0))
    y, kept = xp.to_numpy(y), xp.to_numpy(cache.kept)
    weights = xp.to_numpy(attention_weights(*xp.asarrays((q, k))))
    assert kept.dtype == bool
    assert abs(kept.mean() - 0.75) < 0.02  # 6,400 draws: four standard deviations
    assert np.allclose(y, np.where(kept, weights / 0.75, 0.0), rtol=1e-12, atol=0)
    again, _ = attention(*xp.asarrays((q, k, v)), dropout=0.25, rng=np.random.default_rng(0))
    assert np.array_equal(xp.to_numpy(again), y)


def test_everything_dropped(xp, rng):
    y, cache = attention(*xp.asarrays(arrays(rng)), dropout=1.0, rng=np.random.default_rng(0))
    for result in (y, *attention_backward(xp.asarray(np.ones(y.shape)), cache)[:3]):
        assert not xp.to_numpy(result).any()


def test_no_dropout_draws_nothing(rng):
    generator = np.random.default_rng(0)
    attention(*arrays(rng), dropout=0.0, rng=generator)
    assert generator.random() == np.random.default_rng(0).random()


# ---- precision, layout, device


@pytest.mark.parametrize("chosen", [OPTIONS[0], OPTIONS[-1]], ids=name_of)
def test_float32(chosen, xp, rng):
    """Longer rows and larger heads than elsewhere here; every result within a few roundings of float64."""
    args = [a.astype(np.float32) for a in arrays(rng, H=4, Tq=33, Tk=97, D=64, Dv=40)]
    keywords = {"causal": chosen["causal"], "dropout": 0.1}
    if chosen["mask"]:
        keywords |= {"mask": rng.random((33, 97)) < 0.7, "key_lengths": np.array([97, 31])}
    bias = rng.normal(size=(33, 97)).astype(np.float32) if chosen["bias"] else None
    dy = rng.normal(size=(2, 4, 33, 40)).astype(np.float32)

    def run(library, dtype):
        put = (lambda a: library.asarray(a.astype(dtype))) if library else (lambda a: a.astype(dtype))
        options = {n: (library.asarray(o) if library else o) for n, o in keywords.items()}
        added = None if bias is None else put(bias)
        y, cache = attention(*map(put, args), bias=added, rng=np.random.default_rng(1), **options)
        return (y, *attention_backward(put(dy), cache))

    for got, want in zip(run(xp, np.float32), run(None, np.float64), strict=True):
        if want is None:
            assert got is None
            continue
        assert got.dtype == np.float32
        assert np.abs(xp.to_numpy(got) - want).max() < 3e-6 * np.abs(want).max()


def test_non_contiguous(xp, rng):
    """Heads as views of one projection (B, T, 3, H, D), which is how a layer calls it."""
    packed = rng.normal(size=(2, 6, 3, 4, 5))
    views = [xp.asarray(packed)[:, :, i].transpose(0, 2, 1, 3) for i in range(3)]
    copies = [packed[:, :, i].transpose(0, 2, 1, 3).copy() for i in range(3)]
    y, cache = attention(*views, causal=True)
    want, plain = attention(*copies, causal=True)
    dy = rng.normal(size=(2, 6, 4, 5))
    assert np.allclose(xp.to_numpy(y), want, rtol=1e-13, atol=1e-14)
    got = attention_backward(xp.asarray(dy).transpose(0, 2, 1, 3), cache)
    for ours, exact in zip(got[:3], attention_backward(dy.transpose(0, 2, 1, 3), plain)[:3], strict=True):
        assert np.allclose(xp.to_numpy(ours), exact, rtol=1e-12, atol=1e-13)


def test_no_waiting_for_the_device(xp, rng):
    q, k, v, bias = xp.asarrays([a.astype(np.float32) for a in (*arrays(rng, H=4), rng.normal(size=(3, 5)))])
    keywords = options_of(OPTIONS[-1], xp)
    with strict_cupy.no_sync(("sync", "upload")):
        y, cache = attention(q, k, v, bias=bias, **keywords)
        attention_backward(y, cache)


def test_key_lengths_may_be_a_list(xp, rng):
    args = xp.asarrays(arrays(rng))
    listed, _ = attention(*args, key_lengths=[4, 1])
    array, _ = attention(*args, key_lengths=xp.asarray(np.array([4, 1], dtype=np.int32)))
    assert np.array_equal(xp.to_numpy(listed), xp.to_numpy(array))


# ---- errors


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"q": np.zeros((3, 4))}, ValueError, "expected four axes"),
        ({"k": np.zeros((2, 2, 5, 3))}, ValueError, "do not fit"),
        ({"v": np.zeros((2, 2, 4, 4))}, ValueError, "do not fit"),
        (
            {"k": np.zeros((2, 3, 5, 4)), "v": np.zeros((2, 3, 5, 4))},
            ValueError,
            "2 query heads over 3 key/value heads",
        ),
        ({"q": np.zeros((2, 2, 3, 0)), "k": np.zeros((2, 2, 5, 0))}, ValueError, "head size D is 0"),
        ({"k": np.zeros((2, 2, 5, 4), dtype=np.float32)}, TypeError, "different precision"),
        ({"mask": np.zeros((3, 5))}, TypeError, "mask has dtype float64, expected bool"),
        ({"mask": np.ones((3, 4), dtype=bool)}, ValueError, "mask has shape (3, 4), which does not broadcast"),
        ({"bias": np.zeros((1, 2, 2, 3, 5))}, ValueError, "bias has shape (1, 2, 2, 3, 5), which does not broadcast"),
        ({"bias": np.zeros((3, 5), dtype=np.int64)}, TypeError, "expected a floating dtype"),
        ({"key_lengths": np.array([5])}, ValueError, "key_lengths have shape (1,), expected (2,)"),
        ({"key_lengths": np.array([5.0, 1.0])}, TypeError, "key_lengths have dtype float64, expected integers"),
        ({"dropout": 0.5}, ValueError, "dropout = 0.5 needs a generator"),
        ({"dropout": -0.1, "rng": 1}, ValueError, "dropout = -0.1 is no probability"),
        ({"dropout": 1.5, "rng": 1}, ValueError, "dropout = 1.5 is no probability"),
    ],
)
def test_wrong_input(change, error, message, xp, rng):
    given_ = dict(zip("qkv", arrays(rng), strict=True)) | change
    with pytest.raises(error, match=re.escape(message)):
        attention(**{name: xp.asarray(value) for name, value in given_.items()})


@pytest.mark.parametrize("lengths", [[6, 1], [-1, 2]])
def test_host_lengths_are_checked(lengths, rng):
    with pytest.raises(ValueError, match=re.escape(f"key_lengths are {lengths}, expected 0..5 for 5 keys")):
        attention(*arrays(rng), key_lengths=np.array(lengths))


def test_libraries_are_not_mixed(monkeypatch, rng):
    monkeypatch.setitem(__import__("sys").modules, "cupy", strict_cupy.strict)
    q, k, v = map(strict_cupy.strict.asarray, arrays(rng))
    for keywords in ({"mask": MASK}, {"key_lengths": np.array([1, 2])}, {"bias": np.zeros((3, 5))}):
        with pytest.raises(TypeError, match="NumPy and CuPy arrays are mixed"):
            attention(q, k, v, **keywords)
