"""attention: its definition, its gradient for every combination of options, dropout, precision, and wrong input."""

from __future__ import annotations

import re

import numpy as np
import pytest

from minilm import gradcheck
from minilm.ops.attention import attention, attention_backward, attention_weights
from tests import strict_cupy
from tests.ops.attention_cases import MASK, OPTIONS, arrays, attention_in_a_loop, name_of, options_of

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


# ---- dropout


def test_dropout_is_inverted_and_kept_in_the_cache(xp, rng):
    """With v the identity, y is the weights after dropout."""
    q, k, _ = arrays(rng, H=2, Hkv=2, Tq=40, Tk=40)
    v = np.broadcast_to(np.eye(40), (2, 2, 40, 40)).copy()
    y, cache = attention(*xp.asarrays((q, k, v)), dropout=0.25, rng=np.random.default_rng(0))
    y, kept = xp.to_numpy(y), xp.to_numpy(cache.drawn.mask)
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
        assert np.abs(xp.to_numpy(got) - want).max() < 1e-5 * np.abs(want).max()  # sums of 97 terms


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
        ({"q": np.zeros((3, 4))}, ValueError, "do not fit; expected (B, H, Tq, D)"),
        ({"k": np.zeros((2, 2, 5, 3))}, ValueError, "do not fit"),
        ({"v": np.zeros((2, 2, 4, 4))}, ValueError, "do not fit"),
        (
            {"k": np.zeros((2, 3, 5, 4)), "v": np.zeros((2, 3, 5, 4))},
            ValueError,
            "2 query heads over 3 key/value heads",
        ),
        ({"q": np.zeros((2, 2, 3, 0)), "k": np.zeros((2, 2, 5, 0))}, ValueError, "with D >= 1"),
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


@pytest.mark.parametrize("form", [np.array, list])
@pytest.mark.parametrize("lengths", [[6, 1], [-1, 2]])
def test_host_lengths_are_checked(lengths, form, rng):
    with pytest.raises(ValueError, match=re.escape(f"key_lengths: got {lengths[0]} for sequence 0, expected 0..5")):
        attention(*arrays(rng), key_lengths=form(lengths))


def test_libraries_are_not_mixed(monkeypatch, rng):
    monkeypatch.setitem(__import__("sys").modules, "cupy", strict_cupy.strict)
    q, k, v = map(strict_cupy.strict.asarray, arrays(rng))
    for keywords in ({"mask": MASK}, {"key_lengths": np.array([1, 2])}, {"bias": np.zeros((3, 5))}):
        with pytest.raises(TypeError, match="NumPy and CuPy arrays are mixed"):
            attention(q, k, v, **keywords)
