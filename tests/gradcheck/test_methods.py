"""The choice of the method, lost imaginary parts, kinks."""

from __future__ import annotations

import numpy as np
import pytest

from minilm.gradcheck import gradcheck
from tests.gradcheck import toys

MODES = ["fast", "full"]


# ---- imaginary parts that are lost on the way


def abs_forward(x):
    return x * np.abs(x), x


def real_forward(x):
    return x * x.real, x


def cast_forward(x):
    y = np.empty(x.shape)
    y[...] = x * x
    return y, x


def refusing_forward(x):
    if x.dtype.kind == "c":
        raise TypeError("no complex numbers here")
    return x * x, x


@pytest.mark.parametrize("forward", [abs_forward, real_forward, cast_forward, refusing_forward])
def test_auto_is_not_fooled_by_lost_imaginary_parts(forward, rng):
    """x |x| and x Re(x) under a complex step look like the derivative without the second factor's term."""
    x = rng.uniform(0.5, 2.0, 6)
    report = gradcheck(forward, toys.square_backward, (x,))
    assert report, report
    assert [row.method for row in report.rows] == ["central-difference"]
    assert report.rows[0].note  # says why it is not the complex step
    assert not gradcheck(forward, lambda dy, x: x * dy, (x,))


@pytest.mark.parametrize("forward", [cast_forward, refusing_forward])
def test_complex_step_on_request_says_when_it_cannot(forward):
    with pytest.raises(ValueError, match="complex x"):
        gradcheck(forward, toys.square_backward, (np.ones(3),), method="complex-step")


def test_only_one_argument_is_complex_at_a_time(rng):
    """An op that needs all its arguments complex does not carry a complex one: differences are used, and say so."""

    def fussy(x, w):
        if x.dtype != w.dtype:
            raise TypeError("x and w differ in dtype")
        return toys.product(x, w)

    report = gradcheck(fussy, toys.product_backward, toys.inputs(rng, (3,), (3,)))
    assert report
    assert {row.method for row in report.rows} == {"central-difference"}


# ---- kinks


@pytest.mark.parametrize("at_zero", [0.0, 1.0, 0.5])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ["auto", "central-difference"])
def test_any_subgradient_passes_at_a_kink(method, mode, at_zero, xp, rng):
    x = rng.normal(size=(4, 5))
    x[1, 2] = x[3, 0] = 0.0

    def backward(dy, x):
        module = toys.array_namespace(x)
        return module.where(x > 0, dy, 0.0) + module.where(x == 0, at_zero * dy, 0.0)

    report = gradcheck(toys.relu, backward, (xp.asarray(x),), method=method, mode=mode)
    assert report, report
    assert report.max_rel_error <= 1e-8
    if at_zero != 0.5:  # the central difference itself is the middle: nothing to excuse
        assert "at a kink" in str(report)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ["auto", "central-difference"])
@pytest.mark.parametrize("mistake", ["outside at the kink", "factor elsewhere", "one element elsewhere"])
def test_a_kink_excuses_nothing_else(mistake, method, mode, rng):
    x = rng.normal(size=(4, 5))
    x[1, 2] = 0.0
    x[2, 2] = 0.7

    def backward(dy, x):
        gradient = np.where(x > 0, dy, 0.0)
        if mistake == "outside at the kink":
            gradient[1, 2] = 1.01 * dy[1, 2]
        elif mistake == "factor elsewhere":
            gradient *= 1 + 1e-5
        else:
            gradient[2, 2] *= 1.001
        return gradient

    report = gradcheck(toys.relu, backward, (x,), method=method, mode=mode)
    assert not report
    if mistake != "factor elsewhere":
        expected = (1, 2) if mistake == "outside at the kink" else (2, 2)
        assert expected in [row.index for row in report.failures], report


@pytest.mark.parametrize("distance", [1e-2, 1e-4, 1e-6, 1e-9])
@pytest.mark.parametrize("mode", MODES)
def test_a_kink_nearby_is_stepped_over(mode, distance, rng):
    """tanh(relu(x)): curved on one side, so that steps across the kink would mislead every extrapolation."""
    x = rng.normal(size=6)
    x[2], x[4] = distance, -distance

    def forward(x):
        y = np.tanh(np.maximum(x, 0.0))
        return y, (x, y)

    def backward(dy, cache):
        x, y = cache
        return np.where(x > 0, dy * (1 - y * y), 0.0)

    report = gradcheck(forward, backward, (x,), mode=mode, method="central-difference")
    assert report, report
    assert not gradcheck(forward, lambda dy, c: dy * (1 - c[1] * c[1]), (x,), mode=mode, method="central-difference")


def test_ties_of_a_maximum(rng):
    x = rng.normal(size=(3, 4))
    x[1] = [0.5, 2.0, 2.0, 1.0]

    def forward(x):
        return x.max(axis=1), x == x.max(axis=1, keepdims=True)

    def shared(dy, winners):
        return dy[:, None] * winners / winners.sum(axis=1, keepdims=True)

    assert gradcheck(forward, shared, (x,))
    assert gradcheck(forward, shared, (x,), mode="full")
    assert not gradcheck(forward, lambda dy, winners: -dy[:, None] * winners, (x,))


def test_a_kink_of_the_direction_alone():
    """max(min(x, y), 0) at 0 is flat along either axis and has its kink along x = y: each element is compared."""

    def forward(x):
        return np.maximum(np.minimum(x[0], x[1]), 0.0), x

    reports = [gradcheck(forward, lambda dy, x: np.zeros(2), (np.zeros(2),), seed=seed) for seed in range(12)]
    assert all(reports)
    assert any("the direction is at a kink" in str(report) for report in reports)
    assert not gradcheck(forward, lambda dy, x: np.ones(2), (np.zeros(2),))
