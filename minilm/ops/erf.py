"""The error function and its complement, of which NumPy has neither.

    erf(x) = 2/√π ∫₀ˣ exp(−u²) du        erfc(x) = 1 − erf(x)

For Re x ≥ 0, with u = x / (S + x), which maps [0, ∞) to [0, 1),

    erfc(x) = exp(−x²) · (1 − u) · (1 − u Q(u))

where Q is smooth and nearly constant: a polynomial in 1 − 2u, fitted once at import from `math.erfc` and a continued
fraction. The form makes erfc(0) = 1 exact, and the left half follows from erfc(−x) = 2 − erfc(x). Analytic, so complex
numbers pass through (the complex-step gradient check needs that), though only near the real axis.

[the substitution: Press et al. 2007, "Numerical Recipes", 3rd ed., §6.2.2;
the continued fraction: Abramowitz & Stegun 1964, 7.1.14]
"""

from __future__ import annotations

import math

import numpy as np
from numpy.polynomial.chebyshev import cheb2poly
from numpy.polynomial.polynomial import polydiv

from minilm.backend import Array, floating_namespace

S = 3.0  # of the scales tried, the one that needs the fewest terms for both precisions
BEYOND = 40.0  # erfc is 0 from here on in either precision; keeps x² finite


def _scaled_erfc(x: np.ndarray) -> np.ndarray:
    """exp(x²) erfc(x) for x ≥ 0, slowly: 1/√π · 1/(x + ½/(x + 1/(x + 1½/(x + …)))), or math.erfc near 0."""
    tail = np.zeros_like(x)
    for k in range(400, 0, -1):
        tail = k / 2 / (x + tail)
    near = [math.exp(z * z) * math.erfc(z) for z in np.minimum(x, 1.0).tolist()]
    return np.where(x < 1, near, 1 / (math.sqrt(math.pi) * (x + tail)))


def _fit(terms: int, nodes: int = 256) -> list[float]:
    """Q as a polynomial in s = 1 − 2u, lowest power first.

    First R = 1 − u Q: its Chebyshev coefficients are cosine sums, over more nodes than terms, so that the rounding of
    the values averages out. As R is 1 at s = 1, what is left after dividing R by s − 1 = −2u is rounding, and dropped.
    """
    angle = np.pi * (np.arange(nodes) + 0.5) / nodes
    u = (1 - np.cos(angle)) / 2
    values = _scaled_erfc(S * u / (1 - u)) / (1 - u)
    chebyshev = [2 / nodes * math.fsum(values * np.cos(k * angle)) for k in range(terms)]
    chebyshev[0] /= 2
    quotient, _ = polydiv(cheb2poly(chebyshev), [-1.0, 1.0])
    return (2 * quotient).tolist()


POLYNOMIAL = {"float32": _fit(11), "float64": _fit(26)}  # relative error of the fit: 2e-8 and below 1e-15


def erfc(x: Array) -> Array:
    """1 − erf(x), elementwise, in the dtype of x (…).

    The error is absolute, about 4e-16 (float32: 2e-7), on the left; on the right it is relative and grows only as x²·ε,
    where 1 − erf(x) would have no digit left. TypeError for other precisions than those of POLYNOMIAL.
    """
    xp = floating_namespace(x)
    if (precision := x.real.dtype.name) not in POLYNOMIAL:
        raise TypeError(f"erf: dtype {x.dtype} is not served, expected {' or '.join(POLYNOMIAL)}; convert with astype")
    left = x.real < 0
    z = xp.where(left, -x, x)
    z = xp.where(z.real > BEYOND, BEYOND, z)
    inverse = 1 / (S + z)
    t, u = S * inverse, z * inverse  # t = 1 − u, but accurate where it is small
    s = t - u
    *lower, second, first = POLYNOMIAL[precision]
    q = s * first + second
    for coefficient in reversed(lower):  # Horner, in place: q is ours
        q *= s
        q += coefficient
    right = xp.exp(-z * z) * t * (1 - u * q)
    return xp.where(left, 2 - right, right)


def erf(x: Array) -> Array:
    """The error function, elementwise, in the dtype of x (…). The error is absolute: about 4e-16 (float32: 2e-7)."""
    return 1 - erfc(x)
