"""linear: its definition, its gradient, its edges."""

from __future__ import annotations

import numpy as np
import pytest

from minilm import gradcheck
from minilm.ops.linear import linear, linear_backward

SHAPES = [  # x, Cout
    ((4, 8), 3),
    ((2, 3, 5), 7),
    ((6,), 4),  # one position, no batch axis
    ((1, 1), 1),
    ((0, 8), 3),  # an empty batch is legal
    ((2, 129), 65),  # one past powers of two
]


def draw(rng, shape, out, dtype=np.float64):
    return tuple(rng.normal(size=s).astype(dtype) for s in (shape, (out, shape[-1]), (out,)))


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("shape", "out"), SHAPES)
def test_definition(shape, out, with_bias, xp, rng):
    x, weight, bias = draw(rng, shape, out)
    bias = bias if with_bias else None
    y, _ = linear(*xp.asarrays((x, weight, bias)))
    want = np.zeros((*shape[:-1], out))
    for position in np.ndindex(*shape[:-1]):
        for o in range(out):
            want[(*position, o)] = sum(x[position] * weight[o]) + (bias[o] if with_bias else 0)
    np.testing.assert_allclose(xp.to_numpy(y), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("shape", "out"), SHAPES)
def test_gradient(shape, out, with_bias, xp, rng):
    x, weight, bias = xp.asarrays(draw(rng, shape, out))
    args = (x, weight, bias) if with_bias else (x, weight)
    report = gradcheck.gradcheck(linear, linear_backward, args, method="complex-step")
    assert report.max_rel_error <= 1e-11, report


def test_laws(xp, rng):
    gradcheck.check_laws(linear, linear_backward, xp.asarrays(draw(rng, (2, 3, 5), 4)))


def test_only_what_is_wanted(xp, rng):
    """The gradient of what `wrt` leaves out, or of a bias that was not given, is None."""
    x, weight, bias = xp.asarrays(draw(rng, (2, 5), 4))
    dy, cache = linear(x, weight, bias)
    assert [g is None for g in linear_backward(dy, cache, wrt=("weight",))] == [True, False, True]
    dy, cache = linear(x, weight)
    assert [g is None for g in linear_backward(dy, cache)] == [False, False, True]


def test_no_cache(xp, rng):
    assert linear(*xp.asarrays(draw(rng, (2, 5), 4)), cache=False)[1] is None


def test_float32(xp, rng):
    args = draw(rng, (7, 33), 9, np.float32)
    want, _ = linear(*(a.astype(np.float64) for a in args))
    got, _ = linear(*xp.asarrays(args))
    assert got.dtype == np.float32
    np.testing.assert_allclose(xp.to_numpy(got), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("x", "weight", "bias", "error", "message"),
    [
        ((2, 3), (4, 5), (4,), ValueError, r"\(2, 3\).*\(4, 5\)"),
        ((2, 3), (4, 3), (3,), ValueError, r"bias has shape \(3,\), expected \(4,\)"),
        ((2, 3), (3,), None, ValueError, "expected"),
        ((), (4, 3), None, ValueError, "expected"),
    ],
)
def test_wrong_shapes(x, weight, bias, error, message, xp):
    arrays = [None if shape is None else np.ones(shape) for shape in (x, weight, bias)]
    with pytest.raises(error, match=message):
        linear(*xp.asarrays(arrays))


def test_mixed_precision_is_refused(xp):
    with pytest.raises(TypeError, match=r"float32.*float64|float64.*float32"):
        linear(*xp.asarrays((np.ones((2, 3), np.float32), np.ones((4, 3)))))
