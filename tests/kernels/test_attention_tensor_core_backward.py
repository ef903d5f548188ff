"""The tensor-core attention backward, run on the CPU from the source that a GPU would compile, against float64.

The caches are made here, from O and LSE in float64: nothing depends on the forward kernel.
"""

from __future__ import annotations

from typing import NamedTuple

import ml_dtypes
import numpy as np
import pytest

from minilm.kernels.check.bounds import AttentionBounds, attention_bounds
from minilm.kernels.check.definitions import sum_to, visible_pairs
from minilm.kernels.cuda import attention_backward as backward, launch
from minilm.kernels.cuda.attention_options import TENSOR_CORE_HEAD_SIZES, AttentionOptions, FusedAttentionCache
from minilm.kernels.cuda.philox import keep_mask
from minilm.kernels.cuda.tensor_core_backward import tiles_of
from tests.kernels.tolerances import assert_within

F16, BF16 = np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)
SEED = 2**40 + 12345


class Problem(NamedTuple):
    """A call, and what it should return."""

    do: np.ndarray
    cache: FusedAttentionCache
    wanted: tuple[np.ndarray, ...]  # dq, dk, dv, dbias in float64
    allowed: AttentionBounds


def make(
    dtype: np.dtype,
    D: int,
    Tq: int,
    Tk: int,
    *,
    B: int = 1,
    H: int = 2,
    Hkv: int | None = None,
    causal: bool = False,
    key_lengths: list[int] | None = None,
    mask: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    dropout: float = 0.0,
    poison: bool = False,
) -> Problem:
    """Random inputs, O and LSE as a forward would give them, and the gradients. poison: NaN in all that is hidden."""
    rng = np.random.default_rng(7 * D + Tq + 3 * Tk)
    Hkv = Hkv or H
    G = H // Hkv
    q, do = (rng.standard_normal((B, H, Tq, D)).astype(dtype) for _ in range(2))
    k, v = (rng.standard_normal((B, Hkv, Tk, D)).astype(dtype) for _ in range(2))
    bias = None if bias is None else bias.astype(dtype)
    visible = visible_pairs((B, H, Tq, Tk), causal=causal, key_lengths=key_lengths, mask=mask, bias=bias)
    scale = D**-0.5
    factors = np.ones(visible.shape)
    if dropout:
        factors = keep_mask(SEED, B, H, Tq, Tk, dropout) / (1.0 - dropout)
    given = {"visible": visible, "scale": scale, "bias": bias, "factors": factors}
    allowed = attention_bounds(q, k, v, dtype.name, **given, dy=do)
    sees, seen = visible.any(axis=3), visible.reshape(B, Hkv, G, Tq, Tk).any(axis=(2, 3))

    o, lse, wanted = _exact(*(x.astype(np.float64) for x in (q, k, v, do)), visible, bias, scale, factors)
    o, lse = o.astype(dtype), lse.astype(np.float32)
    if poison:
        q[~sees], do[~sees], k[~seen], v[~seen] = (np.nan,) * 4
    lengths = None if key_lengths is None else np.array(key_lengths, np.int32)
    options = AttentionOptions(causal, lengths, mask, bias, scale, dropout, SEED if dropout else 0)
    dbias = None if bias is None else sum_to(wanted[3], bias.shape)
    return Problem(do, FusedAttentionCache(q, k, v, o, lse, options), (*wanted[:3], dbias), allowed)


def _exact(q, k, v, do, visible, bias, scale, keep) -> tuple:
    """O, LSE in base 2, and (dq, dk, dv, dS), all in float64."""
    G = q.shape[1] // k.shape[1]
    k, v = (x.repeat(G, axis=1) for x in (k, v))
    s = q @ k.swapaxes(-1, -2) * scale + (0.0 if bias is None else bias.astype(np.float64))
    s = np.where(visible, s, -np.inf)
    m = s.max(axis=-1, keepdims=True, initial=-1e30)
    e = np.exp(s - m)
    total = e.sum(axis=-1, keepdims=True)
    empty = total == 0.0
    p = e / np.where(empty, 1.0, total)
    o = (p * keep) @ v
    lse = np.where(empty, np.inf, (m + np.log(np.where(empty, 1.0, total))) / np.log(2.0))[..., 0]
    ds = p * (keep * (do @ v.swapaxes(-1, -2)) - (do * o).sum(axis=-1, keepdims=True))
    return o, lse, _gradients(q, k, do, p * keep, ds, scale, G)


def _gradients(q, k, do, p, ds, scale, G) -> tuple:
    dq = ds @ k * scale
    dk, dv = ds.swapaxes(-1, -2) @ q * scale, p.swapaxes(-1, -2) @ do
    B, H, Tk, D = dk.shape
    dk, dv = (x.reshape(B, H // G, G, Tk, D).sum(axis=2) for x in (dk, dv))
    return dq, dk, dv, ds


def run(problem: Problem, wrt: tuple[str, ...] = ("q", "k", "v", "bias")) -> tuple:
    return backward(problem.do, problem.cache, wrt)


def check(problem: Problem) -> tuple:
    """Run it, and hold each gradient to what its arithmetic allows."""
    got = run(problem)
    assert (got[3] is None) == (problem.cache.options.bias is None)
    for name, result, wanted in zip(("dq", "dk", "dv", "dbias"), got, problem.wanted, strict=True):
        if result is not None:
            assert result.dtype == problem.do.dtype
            assert_within(result, wanted, getattr(problem.allowed, name), name)
    return got


def same_bits(a: tuple, b: tuple) -> bool:
    return all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True) if x is not None)


# One tile and less, a row more than half a tile, not a multiple of anything, a row more than a block of keys.
SIZES = [(1, 1), (31, 33), (33, 97), (97, 33), (130, 130), (130, 1), (1, 130)]


@pytest.mark.usefixtures("host_run", "poisoned_empty")
@pytest.mark.parametrize(
    ("dtype", "D", "causal"),
    [(F16, 16, False), (BF16, 40, True), (F16, 64, True), (F16, 80, True), (BF16, 128, False)],
)
def test_gradients_of_hostile_shapes(dtype, D, causal):
    """With causal and more queries than keys the first queries see nothing: they hold NaN."""
    for Tq, Tk in SIZES:
        check(make(dtype, D, Tq, Tk, causal=causal, poison=True))


EVERYTHING = {"Tq": 70, "Tk": 97, "B": 2, "H": 4, "Hkv": 2, "causal": True, "key_lengths": [60, 0], "dropout": 0.3}


def some(shape, seed=3):
    """A mask and a bias that hide queries, keys and more."""
    rng = np.random.default_rng(seed)
    mask, bias = rng.random(shape) < 0.7, rng.standard_normal(shape)
    mask[..., 2, :] = False
    mask[..., :, 5] = False
    bias[rng.random(shape) < 0.1] = -np.inf
    bias[..., :, 7] = -np.inf
    return mask, bias


@pytest.mark.usefixtures("host_run", "poisoned_empty")
@pytest.mark.parametrize(("dtype", "D"), [(F16, 16), (BF16, 40)])
def test_all_options_at_once(dtype, D):
    """Causal, lengths (one is 0), mask, bias and its gradient, dropout, grouped heads, NaN in all that is hidden."""
    mask, bias = some((2, 1, 70, 97))[0], some((1, 4, 70, 97))[1]
    got = check(make(dtype, D, mask=mask, bias=bias, poison=True, **EVERYTHING))
    assert not got[0][1].any() and not got[1][1].any() and not got[2][1].any()  # the sequence of length 0
    assert not got[1][0, :, 60:].any() and not got[2][0, :, 60:].any()  # keys past the length


@pytest.mark.usefixtures("host_run", "poisoned_empty")
def test_key_lengths_and_grouped_heads_in_the_unmasked_loop():
    """Enough columns for tiles without a mask, behind and before those with one."""
    for Tq, Tk, lengths in ((97, 130, [130, 65]), (200, 200, [200, 129]), (33, 97, [1, 0])):
        check(make(F16, 64, Tq, Tk, B=2, H=6, Hkv=2, key_lengths=lengths, poison=True))


@pytest.mark.usefixtures("host_run", "poisoned_empty")
def test_mask_and_bias_broadcast():
    for mask_shape, bias_shape in (((33, 97), (2, 2, 33, 97)), ((2, 1, 1, 97), (97,)), ((1, 2, 33, 1), (2, 1, 33, 1))):
        rng = np.random.default_rng(5)
        four = (1,) * (4 - len(bias_shape)) + bias_shape
        mask, bias = rng.random(mask_shape) < 0.7, rng.standard_normal(four)
        check(make(F16, 16, 33, 97, B=2, mask=mask, bias=bias, poison=True))


@pytest.mark.usefixtures("host_run", "poisoned_empty")
def test_dropout_alone_draws_the_mask_of_the_host():
    """Nothing is told to the kernel but the seed; rows and columns past a tile of both kernels."""
    for Tq, Tk in ((1, 130), (97, 130), (130, 31)):
        check(make(F16, 64, Tq, Tk, B=2, dropout=0.5))


def test_the_order_of_threads_and_blocks_changes_no_bit(in_all_orders):
    plain = make(F16, 64, 97, 130, causal=True)
    in_all_orders(lambda: run(plain))
    mask, bias = some((2, 1, 70, 97))[0], some((1, 4, 70, 97))[1]
    everything = make(F16, 16, mask=mask, bias=bias, **EVERYTHING)
    assert same_bits(in_all_orders(lambda: run(everything)), run(everything))  # and a second call doesn't, either


@pytest.mark.usefixtures("host_run")
def test_only_what_is_asked_for_is_launched(monkeypatch):
    mask, bias = some((2, 1, 70, 97))[0], some((1, 4, 70, 97))[1]
    problem = make(F16, 16, mask=mask, bias=bias, **EVERYTHING)
    everything, launched = run(problem), []
    kernel = launch.kernel

    def recording(file, entry, *arguments):
        launched.append(entry)
        return kernel(file, entry, *arguments)

    monkeypatch.setattr(launch, "kernel", recording)
    for wrt, kernels in (
        (("q",), ["stats", "dq"]),
        (("k",), ["stats", "dkdv"]),
        (("bias",), ["stats", "dq"]),
        (("v", "q"), ["stats", "dkdv", "dq"]),
        ((), []),
    ):
        launched.clear()
        got = run(problem, wrt)
        assert launched == [f"attention_backward_{name}" for name in kernels]
        for name, result, full in zip(("q", "k", "v", "bias"), got, everything, strict=True):
            assert (result is not None) == (name in wrt)
            assert result is None or result.tobytes() == full.tobytes()


@pytest.mark.parametrize(("B", "Tq", "Tk"), [(0, 5, 5), (1, 0, 5), (1, 5, 0)])
def test_nothing_to_do(B, Tq, Tk):
    problem = make(F16, 16, Tq, Tk, B=B, bias=np.zeros((1, 1, 1, 1)))
    got = run(problem)
    assert all(not x.any() and x.shape == wanted.shape for x, wanted in zip(got, problem.wanted, strict=True))


def test_what_is_not_served_is_said_before_any_launch(monkeypatch):
    monkeypatch.setattr(launch, "kernel", lambda *args: pytest.fail("launched"))
    problem = make(F16, 16, 5, 7)
    do, cache = problem.do, problem.cache
    with pytest.raises(TypeError, match="do has dtype float32"):
        backward(do.astype(np.float32), cache)
    with pytest.raises(ValueError, match="do has shape"):
        backward(do[:, :1], cache)
    with pytest.raises(ValueError, match="not C-contiguous"):
        backward(do[:, ::-1], cache)
    with pytest.raises(TypeError, match="FusedAttentionCache"):
        backward(do, tuple(cache))
    shifted = np.empty(do.size + 1, F16)[1:].reshape(do.shape)
    with pytest.raises(ValueError, match=r"do .*multiple of 16 bytes"):
        backward(shifted, cache)
    many = cache._replace(
        **{name: np.zeros((1, heads, 0, 16), F16) for name, heads in (("q", 65536), ("k", 1), ("v", 1), ("y", 65536))}
    )
    with pytest.raises(ValueError, match="grid"):
        backward(many.q, many)


def test_tiles_fit_every_architecture():
    """Shared memory of a block: 163 KiB on sm_80, the smallest of those served; a tile that the threads copy evenly."""
    for D in TENSOR_CORE_HEAD_SIZES:
        for extras in range(4):
            for statistics, tiles in zip((True, False), tiles_of(D, extras), strict=True):
                assert tiles.shared_memory(D, statistics) <= 163 * 1024
                assert tiles.BC % (tiles.threads * 8 // (1 << (D - 1).bit_length())) == 0
                assert 0 <= tiles.HELD <= 2 * -(-D // 16)


SANITIZED = """
from tests.kernels.test_attention_tensor_core_backward import F16, make, run, some
mask, bias = some((2, 1, 40, 70))
run(make(F16, 24, 97, 97, causal=True))
run(make(F16, 128, 33, 70))
run(make(F16, 16, 40, 70, B=2, H=2, Hkv=1, key_lengths=[60, 0], dropout=0.3, mask=mask, bias=bias), ("q", "bias"))
"""


def test_sanitizers_are_silent(sanitized):
    outcome = sanitized(SANITIZED)
    assert outcome.clean, outcome.report
