"""The error function and its complement, of which NumPy has neither.

    erf(x) = 2/√π ∫₀ˣ exp(−u²) du        erfc(x) = 1 − erf(x)

For Re x ≥ 0, with u = x / (S + x), which maps [0, ∞) to [0, 1),

    erfc(x) = exp(−x²) · (1 − u) · (1 − u Q(u))

where Q is smooth and nearly constant: a polynomial in 1 − 2u. The form makes erfc(0) = 1 exact, and the left half
follows from erfc(−x) = 2 − erfc(x). Analytic, so complex numbers pass through (the complex-step gradient check needs
that), though only near the real axis.

[the substitution: Press et al. 2007, "Numerical Recipes", 3rd ed., §6.2.2]
"""

from minilm.backend import Array, floating_namespace

S = 3.0  # of the scales tried, the one that needs the fewest terms for both precisions
BEYOND = 40.0  # erfc is 0 from here on in either precision; keeps x² finite
POLYNOMIAL = {  # Q, lowest power first, as `tests/ops/test_erf.py` fits it: relative errors of 2e-8, and below 1e-15
    "float32": (
        1.28399541, 0.695065918, 0.301580601, 0.0945994595, 0.0149112591, -0.00295655535, -0.00213497465,
        -0.000152727517, 0.000185839536, 4.5219757e-05,
    ),
    "float64": (
        1.2839953952744403, 0.69506575982785179, 0.30158018842509215, 0.094602013824658743,
        0.014916839634643943, -0.0029679834471663764, -0.0021597057266963602, -0.00013699773791284175,
        0.00022854236929055818, 4.4023874989685546e-05, -2.7685601013672373e-05, -7.4203941520800676e-06,
        4.2332761546748365e-06, 1.0675250879943476e-06, -7.918789591276898e-07, -1.2597658383128874e-07,
        1.7110770444972445e-07, 1.4170528750412359e-08, -4.2843376846235515e-08, -6.6274452592551825e-09,
        1.1491280815789651e-08, 3.654164970612328e-09, -2.3513564428867539e-09, -7.9279516285168938e-10,
        2.0810375644941814e-10,
    ),
}  # fmt: skip


def erfc(x: Array) -> Array:
    """1 − erf(x), elementwise, in the dtype of x (…).

    The error is absolute, about 4e-16 (float32: 2e-7), on the left; on the right it is relative and grows only as x²·ε,
    where 1 − erf(x) would have no digit left. TypeError for other precisions than those of POLYNOMIAL.
    """
    xp = floating_namespace(x)
    if (precision := x.real.dtype.name) not in POLYNOMIAL:
        raise TypeError(f"erf: dtype {x.dtype} is not served, expected {' or '.join(POLYNOMIAL)}; convert with astype")
    left = x.real < 0
    magnitude = xp.where(left, -x, x)
    z = xp.where(magnitude.real > BEYOND, BEYOND, magnitude)
    inverse = 1 / (S + z)
    t, u = S * inverse, z * inverse  # t = 1 − u, but accurate where it is small
    s = t - u
    q = 0 * s
    for coefficient in reversed(POLYNOMIAL[precision]):  # Horner
        q = q * s + coefficient
    right = xp.exp(-z * z) * t * (1 - u * q)
    return xp.where(left, 2 - right, right)


def erf(x: Array) -> Array:
    """The error function, elementwise, in the dtype of x (…). The error is absolute: about 4e-16 (float32: 2e-7)."""
    return 1 - erfc(x)
