"""The bounds of `minilm.kernels.check`: exceeded by small bugs, and not by mere rounding."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from minilm.kernels.check import bounds
from minilm.kernels.check.calls import compare, expected, inputs, measure
from minilm.kernels.check.cases import Case, attention, cases, element_type
from minilm.kernels.check.definitions import naive_results
from minilm.kernels.cuda import launch
from tests.kernels.planting import planted

CASES = {str(case): case for case in cases()}
CASES["many queries"] = Case("attention", "many queries", "float16", attention(1, 1, 1, 1024, 33, 64), False)
PRODUCT = "mma_m16n8k16(sum2[m][2 * n], p[m], b, sum2[m][2 * n]);"
PLANTED = {
    "a sum of 1024 numbers in float16": (
        "many queries",
        "attention_tensor_core_backward.cu",
        PRODUCT,
        f"{PRODUCT} for (float& x : sum2[m][2 * n]) x = __half2float(__float2half(x));",
        {"dv"},
    ),
    "log2(e) to five digits": (
        "softmax-float32-ragged",
        "softmax.cu",
        "1.44269504088896340736f",
        "1.4427f",
        {"y", "dx"},
    ),
    "the logarithm of another base": (
        "attention-float16-causal",
        "attention_tensor_core.cu",
        "peak[m][half] * unit + log2f(l)",
        "peak[m][half] * unit + logf(l)",
        {"dq", "dk", "dv"},
    ),
    "one key too many in one row of 64": (
        "attention-float16-causal",
        "attention_tensor_core.cu",
        "min(keys - 1, row + ahead)",
        "min(keys - 1, row + ahead + (row % 64 == 63))",
        {"y"},
    ),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_small_bug_exceeds_them(bug, host_run):
    label, file, old, new, wrong = PLANTED[bug]
    with planted(file, [(old, new)]):
        results = compare(CASES[label], np)
    assert wrong <= {result.name for result in results if not result.right}, [str(result) for result in results]
    assert all(result.same for result in results)
    assert launch.source_of(file).count(old) == 1  # the source is what it was


@pytest.mark.parametrize("label", [label for label, case in CASES.items() if case.quick and case.dtype == "float32"])
def test_plain_float32_code_does_not(label):
    """Other sums in another order, and other exponentials, are allowed as much."""
    case = CASES[label]
    arrays, options, dy = inputs(case)
    exact, allowed = expected(case.op, arrays, options, case.dtype, dy)
    for got, want, bound in zip(naive_results(case.op, arrays, options, dy), exact, allowed, strict=True):
        if got is not None:
            assert measure(label, got, want, bound).share <= 1


def test_what_nobody_sees_is_exact():
    q, k = np.ones((2, 1, 3, 16)), np.ones((2, 1, 4, 16))
    visible = np.zeros((2, 1, 3, 4), bool)
    visible[0, 0, 1:, :2] = True
    allowed = bounds.attention_bounds(q, k, k, "float32", visible=visible, scale=0.25, dy=q)
    sees, seen = visible.any(axis=3), visible.any(axis=2)
    for bound in (allowed.y, allowed.dq):
        assert (bound[sees] > 0).all() and not bound[~sees].any()
    for bound in (allowed.dk, allowed.dv):
        assert (bound[seen] > 0).all() and not bound[~seen].any()
    assert (allowed.lse[sees] > 0).all() and not allowed.lse[~sees].any()


def test_a_type_with_fewer_bits_is_allowed_more():
    arrays, options, dy = inputs(CASES["attention-float64-bias"])
    largest = [
        [bound.max() for bound in expected("attention", arrays, options, dtype, dy)[1]]
        for dtype in ("float64", "float32", "float16", "bfloat16")
    ]
    for fewer, more in zip(largest[1:], largest, strict=False):
        assert all(4 * b < a for a, b in zip(fewer, more, strict=True))


ONE = np.ones(3)
MEASURED = {
    "exact": (ONE, ONE, 0 * ONE, None, True),
    "within": (ONE + 0.5, ONE, ONE, None, True),
    "beyond, in one place": (np.array([1, 1, 1.5]), ONE, np.array([9, 9, 0.4]), None, False),
    "where nothing is allowed": (np.array([1, 1, 1 + 1e-9]), ONE, 0 * ONE, None, False),
    "NaN": (np.array([1, np.nan, 1]), ONE, ONE, None, False),
    "inf": (np.array([1, -np.inf, 1]), ONE, ONE, None, False),
    "inf that is due": (np.array([1, np.inf, np.nan]), np.array([1, np.inf, np.nan]), 0 * ONE, None, True),
    "inf of the other sign": (np.array([1, np.inf, 1]), np.array([1, -np.inf, 1]), ONE, None, False),
    "another shape": (ONE[:2], ONE, ONE, None, False),
    "bounds of another shape": (ONE, ONE, ONE[:1], None, False),
    "other bits": (np.array([0.0, 1, 1]), np.array([0.0, 1, 1]), ONE, np.array([-0.0, 1, 1]), False),
    "nothing": (ONE[:0], ONE[:0], ONE[:0], None, True),
}


@pytest.mark.parametrize("label", MEASURED)
def test_measure(label):
    got, exact, allowed, again, right = MEASURED[label]
    result = measure("y", got, exact, allowed, again=again)
    assert result.right == right, str(result)


def test_the_worst_place_is_where_the_ratio_is_worst():
    result = measure("y", np.array([1.0, 0.3, 0.0]), np.zeros(3), np.array([100.0, 0.1, 1.0]))
    assert (result.error, result.allowed, result.place, result.largest) == (0.3, 0.1, (1,), 1.0)
    assert result.share == pytest.approx(3.0)


def test_bfloat16_without_its_package_is_a_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match="pip install ml-dtypes"):
        element_type("bfloat16")
