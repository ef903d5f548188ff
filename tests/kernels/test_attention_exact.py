"""The exact attention kernel, run on the CPU from the source that a GPU would compile, against the float64 definition.

Sizes are those that break tiles: 1, 31, 33, 97, 130 queries and keys; head sizes below, between and at the tile shapes'
limits (16, 40, 64, 80, 128, 256). Arrays that the launchers leave uninitialised hold NaN.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from minilm import gradcheck, ops
from minilm.kernels.check.bounds import bounds_of_call
from minilm.kernels.check.calls import NAMES
from minilm.kernels.check.definitions import SEED
from minilm.kernels.cuda import launch
from minilm.kernels.cuda.attention import attention, attention_backward, tile_shapes
from minilm.kernels.cuda.attention_options import EXACT_HEAD_SIZES, FusedAttentionCache
from tests.kernels.tolerances import assert_call_within, assert_within

CONTIGUOUS = np.ascontiguousarray


class Case(NamedTuple):
    """Sizes, and which options a call has: shapes of mask and bias, as they are given."""

    sizes: tuple[int, ...]  # B, H, Hkv, Tq, Tk, D
    causal: bool = False
    lengths: tuple[int, ...] | None = None
    mask: tuple[int, ...] | None = None
    bias: tuple[int, ...] | None = None
    scale: float | None = None
    dropout: float = 0.0
    dtype: str = "float32"

    def inputs(self):
        """q, k, v and dy; keyword arguments."""
        B, H, Hkv, Tq, Tk, D = self.sizes
        rng = np.random.default_rng(sum(self.sizes))
        shapes = (B, H, Tq, D), (B, Hkv, Tk, D), (B, Hkv, Tk, D), (B, H, Tq, D)
        arrays = tuple(rng.standard_normal(shape).astype(self.dtype) for shape in shapes)
        options = {"causal": self.causal, "scale": self.scale, "dropout": self.dropout}
        if self.lengths is not None:
            options["key_lengths"] = np.array(self.lengths)
        if self.mask is not None:
            options["mask"] = rng.random(self.mask) < 0.5
            options["mask"][..., -1, :] = False  # a row that sees nothing
            options["mask"][..., 2] = False  # a key that nobody sees
        if self.bias is not None:
            options["bias"] = rng.standard_normal(self.bias).astype(self.dtype)
            options["bias"][..., :1] = -np.inf  # a mask, too
        return arrays, options


CASES = {
    "one key": Case((1, 1, 1, 1, 1, 16)),
    "ragged": Case((2, 2, 2, 31, 97, 16)),
    "causal": Case((1, 2, 2, 130, 130, 64), causal=True),
    "causal, few queries": Case((1, 2, 2, 33, 97, 40), causal=True),
    "causal, few keys: empty rows": Case((1, 2, 2, 97, 33, 80), causal=True),
    "grouped": Case((2, 4, 2, 33, 130, 128), causal=True),
    "grouped, wide heads": Case((1, 4, 1, 33, 31, 256), causal=True),
    "one query": Case((2, 3, 1, 1, 130, 40)),
    "lengths": Case((4, 2, 1, 33, 97, 64), lengths=(97, 64, 1, 0)),
    "lengths, causal": Case((2, 2, 2, 97, 97, 80), lengths=(33, 90), causal=True),
    "mask": Case((2, 2, 1, 33, 97, 64), mask=(2, 1, 33, 97)),
    "mask (H, 1, Tk)": Case((2, 3, 3, 31, 33, 40), mask=(3, 1, 33), causal=True),
    "bias": Case((2, 2, 2, 33, 97, 64), bias=(2, 33, 97)),
    "bias (B, 1, 1, Tk), causal": Case((2, 4, 2, 33, 31, 40), bias=(2, 1, 1, 31), causal=True),
    "scale": Case((1, 2, 2, 33, 33, 64), scale=-0.5),
    "scale 0": Case((1, 1, 1, 33, 33, 64), scale=0.0),
    "dropout": Case((2, 2, 1, 97, 33, 64), dropout=0.3),
    "dropout, causal": Case((1, 2, 2, 33, 97, 128), dropout=0.9, causal=True),
    "all options": Case((2, 4, 2, 97, 130, 64), True, (130, 77), (1, 97, 130), (4, 97, 130), 0.2, 0.2),
    "float64, wide heads": Case((1, 2, 1, 9, 17, 256), True, bias=(9, 17), dropout=0.2, dtype="float64"),
}


def fused(case, wrt=("q", "k", "v", "bias")):
    """y, dq, dk, dv, dbias; the cache."""
    (q, k, v, dy), options = case.inputs()
    y, cache = attention(q, k, v, **options, rng=np.random.default_rng(SEED))
    return (y, *attention_backward(dy, cache, wrt)), cache


def called(case):
    """The same call as arrays and options of `minilm.kernels.check`, and dy."""
    (q, k, v, dy), options = case.inputs()
    arrays = {"q": q, "k": k, "v": v} | ({"bias": options.pop("bias")} if "bias" in options else {})
    return arrays, options, dy


def log_sum(case):
    """log2 Σ exp(score) in float64, +inf where a row sees nothing."""
    (q, k, _, _), options = case.inputs()
    options.pop("dropout")
    if "bias" in options:
        options["bias"] = options["bias"].astype(np.float64)
    q, k = q.astype(np.float64), k.astype(np.float64)
    scale = options["scale"] = q.shape[3] ** -0.5 if options["scale"] is None else options["scale"]
    weights = ops.attention_weights(q, k, **options)  # P = exp(S) / Σ: at its largest weight, log Σ = S − log P
    at = weights.argmax(axis=-1)[..., None]
    scores = scale * q @ k.repeat(q.shape[1] // k.shape[1], axis=1).swapaxes(-1, -2)
    scores = scores + np.broadcast_to(options.get("bias", 0.0), scores.shape)
    largest, score = (np.take_along_axis(x, at, axis=-1)[..., 0] for x in (weights, scores))
    seeing = largest > 0.0
    return np.where(seeing, (score - np.log(np.where(seeing, largest, 1.0))) / np.log(2.0), np.inf)


@pytest.mark.parametrize("label", CASES)
def test_it_is_within_what_arithmetic_allows_of_float64(label, poisoned_empty, host_run):
    case = CASES[label]
    got, cache = fused(case)
    arrays, options, dy = called(case)
    assert type(cache) is FusedAttentionCache and got[0].dtype == case.dtype
    assert_call_within("attention", arrays, options, got, dy)
    assert_within(cache.lse, log_sum(case), bounds_of_call("attention", arrays, options, case.dtype, None).lse, "lse")


@pytest.mark.parametrize("label", ["causal", "grouped", "all options"])
def test_every_order_of_threads_and_blocks_gives_the_same_bits(label, in_all_orders):
    in_all_orders(lambda: fused(CASES[label])[0])


def test_twice_the_same_bits_and_nothing_that_was_given_is_written(host_run):
    case = CASES["all options"]
    first, cache = fused(case)
    kept = [x.tobytes() for x in (*cache[:5], cache.options.mask, cache.options.bias)]
    dy = case.inputs()[0][3]
    again = (
        attention(*cache[:3], **case.inputs()[1], rng=np.random.default_rng(SEED))[0],
        *attention_backward(dy, cache),
    )
    assert [x.tobytes() for x in first] == [x.tobytes() for x in again]
    assert kept == [x.tobytes() for x in (*cache[:5], cache.options.mask, cache.options.bias)]
    assert dy.tobytes() == case.inputs()[0][3].tobytes()


def test_only_what_is_asked_for_is_returned(host_run):
    case = CASES["all options"]
    every, _ = fused(case)
    for number, name in enumerate(("q", "k", "v", "bias"), 1):
        chosen, _ = fused(case, wrt=(name,))
        assert [x is not None for x in chosen[1:]] == [n == name for n in ("q", "k", "v", "bias")]
        assert chosen[number].tobytes() == every[number].tobytes()


def test_without_a_cache_none_is_made(host_run):
    (q, k, v, _), _ = CASES["ragged"].inputs()
    assert attention(q, k, v, cache=False)[1] is None


# ---- what is hidden


def hidden_results(q, k, v, dy, **options):
    y, cache = attention(q, k, v, **options)
    return (y, *attention_backward(dy, cache)[:3])


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_keys_and_queries_that_are_hidden_may_hold_anything(poison, poisoned_empty, host_run):
    (q, k, v, dy), options = CASES["lengths, causal"].inputs()
    mask = np.ones((97, 97), bool)
    mask[40], mask[:, 5] = False, False  # query 40 sees nothing, key 5 is seen by nobody
    options = {"causal": True, "key_lengths": options["key_lengths"], "mask": mask}
    clean = hidden_results(q, k, v, dy, **options)
    for b, length in enumerate(options["key_lengths"]):
        for x in (k, v):
            x[b, :, length:] = x[b, :, 5] = poison
        for x in (q, dy):
            x[b, :, 40] = poison
    for name, a, b in zip(NAMES["attention"], clean, hidden_results(q, k, v, dy, **options), strict=False):
        np.testing.assert_array_equal(a, b, err_msg=name)
    assert not clean[1][:, :, 40].any() and not clean[2][:, :, 5].any() and not clean[3][:, :, 5].any()


def test_queries_before_the_first_key_may_hold_anything(poisoned_empty, host_run):
    (q, k, v, dy), _ = CASES["causal, few keys: empty rows"].inputs()  # 97 queries, 33 keys: the first 64 see nothing
    clean = hidden_results(q, k, v, dy, causal=True)
    q[:, :, :64] = dy[:, :, :64] = np.nan
    for a, b in zip(clean, hidden_results(q, k, v, dy, causal=True), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not clean[0][:, :, :64].any() and not clean[1][:, :, :64].any()


def test_a_value_of_the_future_changes_no_row_of_the_past(host_run):
    (q, k, v, _), _ = CASES["causal"].inputs()
    clean = attention(q, k, v, causal=True)[0]
    k[:, :, 70], v[:, :, 70] = np.nan, np.inf
    y = attention(q, k, v, causal=True)[0]
    np.testing.assert_array_equal(y[:, :, :70], clean[:, :, :70])
    assert np.isnan(y[:, :, 70:]).all()


@pytest.mark.parametrize("Tq, Tk, B", [(3, 0, 1), (0, 3, 1), (3, 3, 0)])
def test_without_keys_queries_or_sequences(Tq, Tk, B, poisoned_empty, host_run):
    q, k = np.ones((B, 2, Tq, 16), np.float32), np.ones((B, 2, Tk, 16), np.float32)
    y, cache = attention(q, k, k)
    assert y.shape == q.shape
    for gradient, x in zip((y, *attention_backward(q, cache)[:3]), (q, q, k, k), strict=True):
        np.testing.assert_array_equal(gradient, np.zeros_like(x) if B and (Tq == 0 or Tk == 0) else gradient)


# ---- gradients in float64


def on_contiguous(options):
    """forward and backward for layouts of all kinds, which the launchers refuse."""

    def forward(q, k, v, bias=None, *, cache=True):
        q, k, v, bias = (None if x is None else CONTIGUOUS(x) for x in (q, k, v, bias))
        rng = np.random.default_rng(SEED) if "dropout" in options else None
        return attention(q, k, v, bias=bias, **options, rng=rng, cache=cache)

    def backward(dy, cache, wrt=("q", "k", "v", "bias")):
        return attention_backward(CONTIGUOUS(dy), cache, wrt)

    return forward, backward


@pytest.mark.parametrize(
    "options, has_bias",
    [
        ({"causal": True}, False),
        ({"key_lengths": np.array([3, 0]), "dropout": 0.3}, True),
        ({"causal": True, "mask": np.array([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 0, 1]], bool), "scale": 0.7}, True),
    ],
    ids=["causal", "lengths, dropout, bias", "causal, mask, bias, scale"],
)
def test_gradients_and_laws_in_float64(options, has_bias, rng, host_run):
    q, k, v = rng.standard_normal((2, 2, 3, 16)), *rng.standard_normal((2, 2, 1, 4, 16))
    args = (q, k, v, rng.standard_normal((2, 1, 4))) if has_bias else (q, k, v)
    pair = on_contiguous(options)
    report = gradcheck.gradcheck(*pair, args, method="central-difference")
    assert report, report
    gradcheck.check_laws(*pair, args)


# ---- sanitizers

SANITIZED = """
import numpy as np
from minilm.kernels.cuda.attention import attention, attention_backward
rng = np.random.default_rng(0)
for dtype, D in (("float32", 16), ("float64", 80)):
    q, dy = rng.standard_normal((2, 1, 2, 37, D)).astype(dtype)
    k, v = rng.standard_normal((2, 1, 1, 66, D)).astype(dtype)
    bias = rng.standard_normal((37, 66)).astype(dtype)
    every = {"causal": True, "key_lengths": [65], "mask": bias > -1, "bias": bias, "dropout": 0.2, "rng": rng}
    for options in ({}, every):
        y, cache = attention(q, k, v, **options)
        assert all(np.isfinite(x).all() for x in (y, *attention_backward(dy, cache)) if x is not None)
"""


def test_sanitizers_are_silent(sanitized):
    outcome = sanitized(SANITIZED)
    assert outcome.clean, outcome.report[-3000:]


# ---- what is refused, before anything is launched


def arrays(B=1, H=2, Hkv=2, Tq=3, Tk=5, D=16, dtype=np.float32):
    return np.ones((B, H, Tq, D), dtype), np.ones((B, Hkv, Tk, D), dtype), np.ones((B, Hkv, Tk, D), dtype)


def unaligned(x):
    room = np.zeros(x.size + 8, x.dtype)
    start = 1 + (-room.ctypes.data // x.itemsize) % 4
    return room[start : start + x.size].reshape(x.shape)


Q, K, V = arrays()
WRONG = {
    "dtype": (TypeError, "int64.*served are", arrays(dtype=np.int64), {}),
    "complex": (TypeError, "complex128", arrays(dtype=np.complex128), {}),
    "two dtypes": (TypeError, "v has dtype float64, q has float32", (Q, K, V.astype(np.float64)), {}),
    "no array": (TypeError, "NumPy or CuPy array", (Q, K, [1.0]), {}),
    "not contiguous": (
        ValueError,
        "k is not C-contiguous",
        (Q, np.ones((1, 2, 16, 5), np.float32).swapaxes(2, 3), V),
        {},
    ),
    "not aligned": (ValueError, "q starts at an address", (unaligned(Q), K, V), {}),
    "three axes": (ValueError, "do not fit", (Q[0], K[0], V[0]), {}),
    "shapes": (ValueError, "do not fit", (Q, K, V[:, :, :4].copy()), {}),
    "value size": (ValueError, "values of the keys' head size", (Q, K, np.ones((1, 2, 5, 24), np.float32)), {}),
    "heads": (ValueError, "3 query heads over 2", arrays(H=3), {}),
    "head size 20": (ValueError, "head size 20 is not served", arrays(D=20), {}),
    "head size 8": (ValueError, "head size 8 is not served", arrays(D=8), {}),
    "head size 136": (ValueError, "head size 136 is not served", arrays(D=136), {}),
    "too many sequences": (ValueError, "grid", arrays(B=65536, H=1, Hkv=1, Tq=1, Tk=1), {}),
    "lengths that are no integers": (TypeError, "key_lengths", (Q, K, V), {"key_lengths": np.array([1.0])}),
    "lengths too long": (ValueError, "expected 0..5", (Q, K, V), {"key_lengths": [6]}),
    "lengths of two": (ValueError, r"expected \(1,\)", (Q, K, V), {"key_lengths": [1, 2]}),
    "mask of numbers": (TypeError, "mask has dtype", (Q, K, V), {"mask": np.ones((3, 5), np.float32)}),
    "mask shape": (ValueError, "does not broadcast", (Q, K, V), {"mask": np.ones((3, 4), bool)}),
    "mask layout": (ValueError, "mask is not C-contiguous", (Q, K, V), {"mask": np.ones((5, 3), bool).T}),
    "bias dtype": (TypeError, "bias has dtype float64", (Q, K, V), {"bias": np.ones((3, 5))}),
    "scale": (ValueError, "finite", (Q, K, V), {"scale": np.inf}),
    "dropout": (ValueError, "0 <= dropout < 1", (Q, K, V), {"dropout": 1.0, "rng": np.random.default_rng(0)}),
    "no generator": (ValueError, "needs a generator", (Q, K, V), {"dropout": 0.1}),
    "another generator": (TypeError, "numpy.random.Generator", (Q, K, V), {"dropout": 0.1, "rng": np.random}),
}


@pytest.fixture
def no_launch(monkeypatch):
    monkeypatch.setattr(launch, "kernel", lambda *_: pytest.fail("a kernel was asked for"))


@pytest.mark.parametrize("label", WRONG)
def test_wrong_input_is_refused(label, no_launch):
    error, message, inputs, options = WRONG[label]
    with pytest.raises(error, match=message):
        attention(*inputs, **options)


def test_a_wrong_gradient_is_refused(host_run):
    y, cache = attention(Q, K, V)
    for error, message, dy in (
        (TypeError, "do has dtype float64", y.astype(np.float64)),
        (ValueError, "do has shape", y[:, :1].copy()),
        (ValueError, "not C-contiguous", np.asfortranarray(y)),
    ):
        with pytest.raises(error, match=message):
            attention_backward(dy, cache)
    with pytest.raises(TypeError, match="expected the FusedAttentionCache"):
        attention_backward(y, ops.attention(Q, K, V)[1])


def test_tiles_fit_48_kib():
    for D in EXACT_HEAD_SIZES:
        for itemsize in (4, 8):
            shapes, row = tile_shapes(D, itemsize), D * itemsize + 16
            (BR, BC, _), (R, C, _) = shapes["forward"], shapes["backward"]
            streams = 1 if D * itemsize > 256 else 2
            forward, backward = (BR + BC) * row + BR * (BC * itemsize + 16), (2 * R + streams * C) * row
            assert max(forward, backward + R * (C * itemsize + 16)) <= 48 * 1024
