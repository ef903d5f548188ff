"""The tensor-core attention forward, run on the CPU from the source that a GPU would compile, against float64.

Each instance of the source takes seconds to compile, so that few serve many shapes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

from minilm.kernels.check.bounds import AttentionBounds, attention_bounds
from minilm.kernels.check.definitions import visible_pairs
from minilm.kernels.cuda import launch, tensor_core
from minilm.kernels.cuda.attention_options import TENSOR_CORE_HEAD_SIZES, Checked, check
from minilm.kernels.cuda.philox import keep_mask
from tests.kernels.tolerances import assert_within

F16, BF16 = np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)


class Problem(NamedTuple):
    """A call, and what it should return."""

    checked: Checked
    y: np.ndarray  # in float64
    lse: np.ndarray
    allowed: AttentionBounds


def make(
    dtype: np.dtype,
    D: int,
    Tq: int,
    Tk: int,
    *,
    B: int = 1,
    H: int = 2,
    Hkv: int = 2,
    poison: bool = False,
    **options: Any,
) -> Problem:
    """Random inputs with `options` of the launcher. poison: NaN in every query that sees nothing, every key unseen."""
    rng = np.random.default_rng(7 * D + Tq + 3 * Tk)
    q = rng.standard_normal((B, H, Tq, D)).astype(dtype)
    k, v = (rng.standard_normal((B, Hkv, Tk, D)).astype(dtype) for _ in range(2))
    bias, dropout = options.get("bias"), options.get("dropout", 0.0)
    masks = {name: options[name] for name in ("causal", "key_lengths", "mask", "bias") if name in options}
    visible = visible_pairs((B, H, Tq, Tk), **masks)
    seed = int(np.random.default_rng(1).integers(2**63))
    scale = options.get("scale", D**-0.5)
    factors = keep_mask(seed, B, H, Tq, Tk, dropout) / (1.0 - dropout) if dropout else np.ones(visible.shape)
    y, lse = _attention(q, k, v, visible, bias, scale, factors)
    given = {"visible": visible, "scale": scale, "bias": bias, "factors": factors}
    allowed = attention_bounds(q, k, v, dtype.name, **given)
    if poison:
        seen = visible.reshape(B, Hkv, H // Hkv, Tq, Tk).any(axis=(2, 3))
        q[~visible.any(axis=3)], k[~seen], v[~seen] = np.nan, np.nan, np.nan
    checked = check("attention", q, k, v, rng=np.random.default_rng(1) if dropout else None, **options)
    return Problem(checked, y, lse, allowed)


def _attention(q, k, v, visible, bias, scale, factors) -> tuple[np.ndarray, np.ndarray]:
    """y and LSE in base 2, computed in float64."""
    group = q.shape[1] // k.shape[1]
    q, k, v = q.astype(np.float64), *(x.astype(np.float64).repeat(group, axis=1) for x in (k, v))
    s = q @ k.swapaxes(-1, -2) * scale + (0.0 if bias is None else bias.astype(np.float64))
    s = np.where(visible, s, -np.inf)
    m = s.max(axis=-1, keepdims=True, initial=-1e30)
    e = np.exp(s - m)
    total = e.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        lse = np.where(total == 0.0, np.inf, (m + np.log(total)) / np.log(2.0))[..., 0]
    return (e / np.where(total == 0.0, 1.0, total) * factors) @ v, lse


def verify(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Run the call, and hold it to what its arithmetic allows."""
    y, lse = tensor_core.forward(problem.checked)
    assert (y.dtype, lse.dtype) == (problem.checked.q.dtype, np.float32)
    assert_within(y, problem.y, problem.allowed.y, "y")
    assert_within(lse, problem.lse, problem.allowed.lse, "lse")
    return y, lse


# 1: a row, a key; 31, 33: beside a warp's 16 and 32; 97, 130: a ragged tile after whole ones, more than one block.
SHAPES = [(1, 1), (31, 33), (97, 130), (130, 97), (1, 130), (130, 1)]


@pytest.mark.parametrize(("Tq", "Tk"), SHAPES)
@pytest.mark.parametrize("causal", [False, True])
def test_every_shape(host_run, poisoned_empty, causal, Tq, Tk):
    # Causal with more queries than keys: the first rows see nothing, and hold NaN.
    verify(make(F16, 64, Tq, Tk, causal=causal, poison=True))


# One step of 16; a half step, and 5 of 8 lanes that copy; 10 of 16 lanes, and 8 warps; the largest.
@pytest.mark.parametrize(("D", "dtype"), [(16, BF16), (40, F16), (80, BF16), (128, F16)], ids=str)
def test_head_sizes(host_run, poisoned_empty, D, dtype):
    verify(make(dtype, D, 33, 97, causal=True, Hkv=1))
    verify(make(dtype, D, 130, 200, B=2, Hkv=1, causal=True, key_lengths=[33, 200], poison=True))


@pytest.mark.parametrize("lengths", [[0, 1, 97, 130], [130, 64, 65, 63]], ids=str)
def test_key_lengths(host_run, poisoned_empty, lengths):
    y, lse = verify(make(F16, 64, 33, 130, B=4, H=1, Hkv=1, key_lengths=lengths, poison=True))
    empty = np.array(lengths) == 0
    assert not y[empty].any()
    assert np.isposinf(lse[empty]).all()


def test_grouped_queries_share_keys(host_run):
    verify(make(F16, 64, 31, 33, B=2, H=6, Hkv=2))


@pytest.mark.parametrize("scale", [0.5, -0.3, 0.0])
def test_scale(host_run, scale):
    verify(make(F16, 64, 33, 97, scale=scale))


def masks(rng: np.random.Generator, Tq: int, Tk: int) -> dict[str, np.ndarray]:
    """Masks of every way to broadcast; in the first, some rows see nothing, and nobody sees some keys."""
    full = rng.random((2, 2, Tq, Tk)) < 0.5
    full[:, :, 3::7] = False
    full[..., 5::6] = False
    return {
        "full": full,
        "of keys": rng.random((2, 1, 1, Tk)) < 0.5,
        "of queries": rng.random((1, 2, Tq, 1)) < 0.5,
        "of heads": np.array([True, False]).reshape(1, 2, 1, 1),
        "two axes": rng.random((Tq, Tk)) < 0.5,
    }


def test_masks(host_run, poisoned_empty, rng):
    for mask in masks(rng, 33, 130).values():
        verify(make(F16, 64, 33, 130, B=2, mask=mask, poison=True))


def test_biases(host_run, poisoned_empty, rng):
    for mask in masks(rng, 33, 97).values():
        bias = np.where(mask, 2.0 * rng.standard_normal(mask.shape), -np.inf).astype(BF16)
        verify(make(BF16, 40, 33, 97, B=2, bias=bias, scale=-0.2, poison=True))


def everything(rng: np.random.Generator, dtype: np.dtype, D: int, Tq: int, Tk: int) -> Problem:
    chosen = masks(rng, Tq, Tk)
    bias = np.where(chosen["of keys"], rng.standard_normal((2, 1, Tq, Tk)), -np.inf).astype(dtype)
    options = {"causal": True, "key_lengths": [Tk, Tk // 2], "mask": chosen["full"], "bias": bias, "dropout": 0.3}
    return make(dtype, D, Tq, Tk, B=2, Hkv=1, poison=True, **options)


@pytest.mark.parametrize(("Tq", "Tk"), [(1, 31), (97, 130), (70, 33)])
def test_all_options_at_once(host_run, poisoned_empty, rng, Tq, Tk):
    verify(everything(rng, F16, 40, Tq, Tk))


def test_dropout_keeps_what_the_host_keeps(host_run, poisoned_empty):
    # Values one-hot in the key: y is the row of dropped weights itself, its zeros the dropped ones.
    problem = make(F16, 64, 97, 64, dropout=0.4)
    problem.checked.v[...] = np.eye(64, dtype=F16)
    y, _ = tensor_core.forward(problem.checked)
    kept = keep_mask(problem.checked.options.seed, 1, 2, 97, 64, 0.4)
    np.testing.assert_array_equal(y != 0, kept)
    verify(make(F16, 64, 130, 97, dropout=0.4))


def test_the_same_bits_in_every_order(in_all_orders, rng):
    problem = everything(rng, F16, 40, 97, 130)
    in_all_orders(lambda: tensor_core.forward(problem.checked))
    problem = make(F16, 64, 130, 130, causal=True)
    in_all_orders(lambda: tensor_core.forward(problem.checked))


SANITIZED = """
import numpy as np
from minilm.kernels.cuda import tensor_core
from minilm.kernels.cuda.attention_options import check
rng = np.random.default_rng(0)
q, k, v = (rng.standard_normal((1, heads, T, 24)).astype(np.float16) for heads, T in ((2, 65), (1, 150), (1, 150)))
mask, bias = rng.random((1, 1, 65, 150)) < 0.5, rng.standard_normal((1, 2, 65, 150)).astype(np.float16)
options = {"causal": True, "key_lengths": [140]}
if %(all)r:
    options |= {"mask": mask, "bias": bias, "dropout": 0.3, "rng": rng}
y, lse = tensor_core.forward(check("attention", q, k, v, **options))
assert np.isfinite(y).all()
q, k, v = rng.standard_normal((3, 1, 1, 70, 128)).astype(np.float16)
y, lse = tensor_core.forward(check("attention", q, k, v))
assert np.isfinite(y).all()
"""


@pytest.mark.parametrize("all_options", [False, True], ids=["causal", "all options"])
def test_sanitizers_are_silent(sanitized, all_options):
    outcome = sanitized(SANITIZED % {"all": all_options})
    assert outcome.clean, outcome.report


def test_empty_arrays(host_run, poisoned_empty):
    y, lse = verify(make(F16, 64, 33, 0))
    assert not y.any() and np.isposinf(lse).all()
    for sizes in ({"Tq": 0, "Tk": 5}, {"Tq": 5, "Tk": 5, "B": 0}):
        y, lse = verify(make(F16, 64, **sizes))
        assert y.size == lse.size == 0


def test_wrong_calls_are_refused_before_a_launch(monkeypatch):
    monkeypatch.setattr(launch, "kernel", lambda *_: pytest.fail("launched"))
    flat = np.zeros(8 * 16 + 8, F16)
    start = -flat.ctypes.data % 16 // 2 + 1  # elements to an address that is 2 past a multiple of 16
    shifted = flat[start : start + 8 * 16].reshape(1, 1, 8, 16)
    good = np.zeros((1, 1, 8, 16), F16)
    for arrays in ((shifted, good, good), (good, shifted, good), (good, good, shifted)):
        with pytest.raises(ValueError, match=r"no multiple of 16 bytes.* pass .\.copy\(\)"):
            tensor_core.forward(check("attention", *arrays))
    many = np.zeros((65536, 1, 1, 16), F16)
    with pytest.raises(ValueError, match="grid"):
        tensor_core.forward(check("attention", many, many, many))


def test_every_call_has_an_instance():
    names = {instance.name for instance in tensor_core.INSTANCES}
    assert len(names) == len(tensor_core.INSTANCES) == len(TENSOR_CORE_HEAD_SIZES) * 2 * 2**4
    for instance in tensor_core.INSTANCES:
        rows = instance.defines["ROW_TILES"] * instance.defines["WARPS"] * 16
        assert instance.threads == 32 * instance.defines["WARPS"]
        assert (
            instance.shared_memory == (rows + 4 * instance.defines["COLUMNS"]) * -(-instance.defines["HEAD"] // 16) * 32
        )
        assert instance.shared_memory <= 163 * 1024  # of a block on sm_80
