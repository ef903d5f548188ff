"""Attention of one query on the CPU: the numbers, gradients and laws of the definition, and what it leaves to it."""

from __future__ import annotations

import numpy as np
import pytest

from minilm import gradcheck, reference, which
from minilm.kernels.cpu.decode import OneQueryCache
from minilm.ops.attention import attention, attention_backward
from tests.ops.attention_cases import arrays

SIZES = [{"Tk": 1}, {"Tk": 33}, {"H": 6, "Hkv": 2, "Dv": 3}, {"B": 0}, {"H": 4, "Hkv": 1, "D": 1}]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("options", [{}, {"causal": True}, {"scale": 0.3}], ids=str)
def test_equals_the_definition(options, sizes, dtype, rng):
    args = [a.astype(dtype) for a in arrays(rng, Tq=1, **sizes)]
    y, cache = attention(*args, **options)
    assert type(cache) is OneQueryCache, which("attention", *args, **options)
    with reference():
        want, want_cache = attention(*args, **options)
    rounding = 1e-5 if dtype == np.float32 else 1e-13
    dy = rng.normal(size=y.shape).astype(dtype)
    results = (y, *attention_backward(dy, cache)[:3]), (want, *attention_backward(dy, want_cache)[:3])
    for got, expected in zip(*results, strict=True):
        assert got.dtype == dtype
        np.testing.assert_allclose(got, expected, rtol=rounding, atol=rounding)


def test_gradient_and_laws(rng):
    args = arrays(rng, H=4, Tq=1)
    report = gradcheck.gradcheck(attention, attention_backward, args, method="central-difference")
    assert report.max_rel_error <= 1e-7, report
    gradcheck.check_laws(attention, attention_backward, args)


def test_infinite_scores(rng):
    """A row of all −∞ sees nothing, one with +∞ is NaN, as in the definition."""
    q, k, v = arrays(rng, B=1, H=1, Hkv=1, Tq=1, D=1)
    for value in (-np.inf, np.inf):
        scores = np.full_like(k, value)
        y, _ = attention(np.ones_like(q), scores, v)
        with reference():
            want, _ = attention(np.ones_like(q), scores, v)
        np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize(
    ("sizes", "options", "reason"),
    [
        ({"Tq": 2}, {}, "one query of at least one key, not 2 of 5"),
        ({"Tk": 0}, {}, "one query of at least one key, not 1 of 0"),
        ({}, {"key_lengths": [1, 2]}, "without masks"),
        ({}, {"mask": np.ones(5, bool)}, "without masks"),
        ({}, {"bias": np.ones(5)}, "without masks"),
        ({}, {"dropout": 0.1, "rng": np.random.default_rng(0)}, "without masks"),
        ({}, {"key_lengths": [1, 6]}, "got 6 for sequence 1"),
    ],
)
def test_refuses(sizes, options, reason, rng):
    assert reason in which("attention", *arrays(rng, **({"Tq": 1} | sizes)), **options)
