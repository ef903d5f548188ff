"""The error function: against `math.erf`, in its tails, and the fit that its polynomial comes from."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.polynomial.chebyshev import cheb2poly
from numpy.polynomial.polynomial import polydiv, polyval

from minilm.ops.erf import POLYNOMIAL, S, erf, erfc


def elementwise(function, x):
    return np.array([function(v) for v in x.ravel().tolist()]).reshape(x.shape)


GRID = np.concatenate([np.linspace(-7, 7, 20001), np.linspace(-1e-3, 1e-3, 1001), [0.0, -0.0, 1e-300, 5e-324]])


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 5e-16), ("float32", 3e-7)])
@pytest.mark.parametrize(("function", "definition"), [(erf, math.erf), (erfc, math.erfc)])
def test_erf(function, definition, dtype, tolerance, xp):
    x = GRID.astype(dtype)
    y = function(xp.asarray(x))
    assert y.dtype == dtype
    assert np.abs(xp.to_numpy(y).astype(np.float64) - elementwise(definition, x)).max() <= tolerance


def test_erfc_is_relative_in_the_right_tail(xp):
    x = np.linspace(0, 26, 5001)
    error = xp.to_numpy(erfc(xp.asarray(x))) / elementwise(math.erfc, x) - 1
    assert (np.abs(error) <= 1e-15 + 1.5e-16 * x * x).all()  # the rounding of x² cannot be had back
    small = np.linspace(0, 9, 5001).astype(np.float32)
    error = xp.to_numpy(erfc(xp.asarray(small))) / elementwise(math.erfc, small) - 1
    assert (np.abs(error) <= 5e-7 + 8e-8 * small * small).all()


def test_erf_at_the_ends(xp):
    x = np.array([-np.inf, -1e30, -0.0, 0.0, 1e30, np.inf, np.nan])
    assert xp.to_numpy(erf(xp.asarray(x)))[:-1].tolist() == [-1, -1, 0, 0, 1, 1]
    assert xp.to_numpy(erfc(xp.asarray(x)))[:-1].tolist() == [2, 2, 1, 1, 0, 0]
    assert np.isnan(xp.to_numpy(erf(xp.asarray(x)))[-1])


def test_erf_is_analytic(xp):
    """The complex step sees the derivative 2/√π exp(−x²)."""
    x = np.linspace(-5, 5, 2001)
    slope = xp.to_numpy(erf(xp.asarray(x + 1e-30j))).imag / 1e-30
    np.testing.assert_allclose(slope, 2 / math.sqrt(math.pi) * np.exp(-x * x), rtol=1e-12, atol=2e-15)


def test_erf_against_many_digits():
    mpmath = pytest.importorskip("mpmath")
    x = np.linspace(-6, 6, 301)
    with mpmath.workdps(40):
        want = [float(mpmath.erfc(mpmath.mpf(v))) for v in x.tolist()]
    np.testing.assert_allclose(erfc(x), want, rtol=6e-15, atol=0)


# ---- the fit


def scaled_erfc(x):
    """exp(x²) erfc(x) for x ≥ 0, slowly: 1/√π · 1/(x + ½/(x + 1/(x + 1½/(x + …)))), or math.erfc near 0.

    [the continued fraction: Abramowitz & Stegun 1964, 7.1.14]
    """
    tail = np.zeros_like(x)
    for k in range(400, 0, -1):
        tail = k / 2 / (x + tail)
    near = [math.exp(z * z) * math.erfc(z) for z in np.minimum(x, 1.0).tolist()]
    return np.where(x < 1, near, 1 / (math.sqrt(math.pi) * (x + tail)))


def fit(terms, nodes=256):
    """Q as a polynomial in s = 1 − 2u, lowest power first.

    First R = 1 − u Q: its Chebyshev coefficients are cosine sums, over more nodes than terms, so that the rounding of
    the values averages out. As R is 1 at s = 1, what is left after dividing R by s − 1 = −2u is rounding, and dropped.
    """
    angle = np.pi * (np.arange(nodes) + 0.5) / nodes
    u = (1 - np.cos(angle)) / 2
    values = scaled_erfc(S * u / (1 - u)) / (1 - u)
    chebyshev = [2 / nodes * math.fsum(values * np.cos(k * angle)) for k in range(terms)]
    chebyshev[0] /= 2
    quotient, _ = polydiv(cheb2poly(chebyshev), [-1.0, 1.0])
    return 2 * quotient


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 2e-8), ("float64", 2e-15)])
def test_the_polynomial_is_the_fit(precision, tolerance):
    """Its values, not its coefficients: the last of these are mostly rounding."""
    s = np.linspace(-1, 1, 1001)
    want = fit(len(POLYNOMIAL[precision]) + 1)
    np.testing.assert_allclose(polyval(s, POLYNOMIAL[precision]), polyval(s, want), rtol=0, atol=tolerance)
