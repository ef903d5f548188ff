"""The stand-in for CuPy catches what it is there to catch, and computes what NumPy computes where all is well."""

from __future__ import annotations

import copy
import sys

import numpy as np
import pytest

from tests import strict_cupy
from tests.strict_cupy import StrictViolation, no_sync, record, relaxed, strict

HOST = np.random.default_rng(0).standard_normal((4, 3)).astype("f4")


def array(*values, dtype=None):
    return strict.asarray(np.array(values, dtype))


@pytest.fixture
def names():
    """What the snippets below may use."""
    return {
        "np": np,
        "xp": strict,
        "x": strict.asarray(HOST),
        "y": strict.asarray(HOST + 1),
        "host": HOST,
        "rows": array(0, 1, 1, 0),
        "loss": (strict.asarray(HOST) * 2).sum(),
        "no_sync": no_sync,
        "array": array,
    }


# ---- mistakes: the error that CuPy raises, or a violation where CuPy would go on

CUPY_RAISES = {
    "np.asarray(x)": "Implicit conversion",
    "np.testing.assert_allclose(x, x)": "Implicit conversion",
    "xp.array([loss, 1.0])": "Implicit conversion",
    "x + np.zeros((4, 3), 'f4')": "Unsupported type",
    "np.zeros((4, 3), 'f4') + x": "Unsupported type",
    "x += host": "Unsupported type",
    "xp.where(x > 0, x, host)": "NumPy and device arrays mixed",
    "x[:] = host": "cannot be used for fill",
    "xp.asarray(['a'])": "Unsupported dtype",
    "xp.vecdot(x, y)": "no attribute 'vecdot'",
    "xp.errstate(divide='ignore')": "no attribute 'errstate'",
    "x.setflags(write=False)": "no attribute 'setflags'",
    "x.flags.writeable": "writeable",
    "x.__array_namespace__()": "no attribute '__array_namespace__'",
    "xp.random.default_rng(0).normal(size=3)": "standard_normal",
    "xp.random.default_rng(0).permutation(3)": "draw on the host",
    "x.max(initial=0.0)": "unexpected keyword argument 'initial'",
    "xp.sum(x, where=x > 0)": "unexpected keyword argument 'where'",
    "xp.divide(x, y, where=y != 0)": "no where=",
    "xp.take(x, rows, axis=0, mode='clip')": "unexpected keyword argument 'mode'",
    "xp.einsum('ij,kj->ik', x, y, out=xp.empty((4, 4), 'f4'))": "Did not understand",
    "xp.argsort(x, kind='quicksort')": "kind can only be None or 'stable'",
    "xp.add.at(xp.zeros(3, 'i1'), rows, 1)": "does not support int8",
    "xp.multiply.at(xp.ones(3, 'f4'), rows, 2.0)": "at` is not supported",
    "xp.maximum.reduceat(x, array(0, 2))": "reduceat` is not supported",
    "xp.maximum.accumulate(x)": "accumulate` is not supported",
    "range(rows.max())": "cannot be interpreted as an integer",
    "xp.zeros(rows.max())": "cannot be interpreted as an integer",
    "x[:rows.max()]": "slice indices",
}
CUPY_GOES_ON = {
    "np.exp(x)": "write xp.exp",
    "np.where(x > 0, x, 0)": "write xp.where",
    "x[np.array([0, 1])]": "NumPy array used as an index",
    "xp.take(x, np.array([0]), axis=0)": "take with a NumPy index array",
    "x[array(0, 9)]": "wraps out-of-range",
    "xp.take(x, array(0, 9), axis=0)": "wraps silently",
    "x * np.sqrt(2.0)": "mixes float32 and float64",
    "x * xp.arange(3)": "mixes float32 and float64",
    "x + xp.zeros(3)": "mixes float32 and float64",
    "xp.add.reduceat(x, array(0, 2))": "difference of cumulative sums",
    "xp.zeros(3, 'f4')[rows] = xp.arange(4, dtype='f4')": "duplicate indices",
    "x[1:] = x[:-1]": "overlapping assignment",
    "x @= x": "rebinds x",
    "list(x[0])": "iteration over a 1-D",
    "3.0 in x": "has no __contains__",
    "x.flat": "flatiter",
    "array(1.0) // 0.1": r"floor\(x / y\)",
    "array(np.nan).astype('i4')": "of NaN, inf or out-of-range",
    "xp.maximum.at(xp.zeros(2, 'f4'), array(0), float('nan'))": "drops NaN",
    "xp.linalg.inv(xp.zeros((2, 2), 'f4'))": "CuPy ignores this",
}
CUPY_WAITS = {
    "bool(loss > 3.0)": r"bool\(\)",
    "f'{loss}'": "f-string",
    "float(loss)": r"float\(\)",
    "loss.item()": "item",
    "x.get()": "get",
    "print(x)": "print",
    "x[x > 0]": "boolean-mask indexing",
    "xp.nonzero(x)": "nonzero",
    "xp.unique(rows)": "unique",
    "xp.repeat(x, rows, axis=0)": "repeat",
}


def run(code, names):
    exec(compile(code, "snippet", "exec"), names)


@pytest.mark.parametrize("code", CUPY_RAISES)
def test_error_of_cupy(code, names):
    with pytest.raises((TypeError, ValueError, AttributeError, NotImplementedError), match=CUPY_RAISES[code]):
        run(code, names)


@pytest.mark.parametrize("code", CUPY_GOES_ON)
def test_violation(code, names):
    with pytest.raises(StrictViolation, match=CUPY_GOES_ON[code]):
        run(code, names)


@pytest.mark.parametrize("code", CUPY_WAITS)
def test_synchronisation(code, names):
    """Legal, but inside no_sync() it raises at its line; outside it is on record."""
    with no_sync(), pytest.raises(StrictViolation, match=CUPY_WAITS[code]):
        run(code, names)
    with record() as events:
        run(code, names)
    assert [(kind, where) for kind, _, where in events] == [("sync", "snippet:1")]


def test_a_violation_is_no_ordinary_error():
    """pytest.raises(IndexError) around x[array(9)] must not pass."""
    assert StrictViolation.__bases__ == (Exception,)


def test_uploads_can_be_forbidden_too(names):
    with no_sync(), record() as events:
        strict.asarray(HOST)
    assert [kind for kind, *_ in events] == ["upload"]
    with no_sync(("sync", "upload")), pytest.raises(StrictViolation, match="upload inside"):
        strict.asarray(HOST)


def test_policy_can_be_relaxed(names):
    """Each of these is legal CuPy."""
    with relaxed(numpy_calls="cupy", host_index="cupy", promotion="cupy", duplicates="cupy", iterate_1d="cupy"):
        for code in (
            "np.exp(x)",
            "x[np.array([0, 1])]",
            "x * xp.arange(3)",
            "list(x[0])",
            "xp.ones(3)[rows] = 1.0 * rows",
        ):
            run(code, names)
    with pytest.raises(StrictViolation):
        run("np.exp(x)", names)


# ---- faithful where nothing is wrong


@pytest.mark.parametrize(
    "code",
    [
        "x @ y.T",
        "x.sum(axis=0, keepdims=True)",
        "2 / (x * x + 1)",
        "np.float32(2) * x",
        "-x < 0.5",
        "x[rows]",
        "x[1:, None, ::-1]",
        "xp.where(x > 0, x, 0.0)",
        "xp.take_along_axis(x, rows[:, None], 1)",
        "xp.concatenate([x, y], axis=1)",
        "xp.argsort(x, axis=1)",
        "xp.exp(x, out=xp.empty_like(x))",
        "xp.clip(x, a_min=0, a_max=None)",
        "xp.zeros((2, 3), dtype=x.dtype)",
        "x.astype('f8').var(axis=-1)",
        "xp.linalg.norm(x, axis=1)",
        "x.mT",
        "divmod(rows, 2)",
    ],
)
def test_same_result_as_numpy(code, names):
    on_host = {"xp": np, "np": np, "x": HOST, "y": HOST + 1, "rows": np.array([0, 1, 1, 0])}
    got, want = eval(code, names), eval(code, on_host)
    for device, host in zip(*((r if isinstance(r, tuple) else (r,)) for r in (got, want)), strict=True):
        assert type(device) is strict_cupy.StrictArray
        assert device.dtype == host.dtype and device.shape == host.shape
        assert np.array_equal(device.get(), host)


def test_zero_d_results_stay_on_the_device(names):
    x = names["x"]
    for result in (x.sum(), x[1, 2], x[0].max()):
        assert type(result) is strict_cupy.StrictArray and result.shape == ()


def test_full_indexing_is_a_view(names):
    x = names["x"]
    entry = x[1, 2]
    entry += 1
    assert float(x[1, 2]) == HOST[1, 2] + 1


def test_empty_is_poisoned():
    """Numbers that are read before they are written show."""
    assert np.isnan(strict.empty(3, "f4").get()).all()
    assert strict.empty_like(array(1, 2)).get().max() < -(2**60)


def test_it_calls_itself_cupy(names):
    assert type(names["x"]).__module__ == "cupy" and strict.__name__ == "cupy"
    assert "vecdot" not in dir(strict) and "exp" in dir(strict)


def test_copies_are_independent(names):
    x = names["x"]
    for other in (x.copy(), copy.copy(x), copy.deepcopy(x)):
        other += 1
    assert np.array_equal(x.get(), HOST)


def test_generator(names):
    rng = strict.random.default_rng(0)
    drawn = rng.random((2, 3), dtype="f4")
    assert drawn.dtype == np.float32 and drawn.shape == (2, 3)
    assert np.array_equal(drawn.get(), np.random.default_rng(0).random((2, 3), dtype="f4"))


def test_install(monkeypatch):
    for name in ("cupy", "cupy.linalg", "cupy.random", "cupy.fft"):
        monkeypatch.setitem(sys.modules, name, None)
    strict_cupy.install()
    import cupy

    assert cupy is strict


def test_frozen_api_is_that_of_the_installed_cupy():
    """Names may come and go with a CuPy release; then freeze_api.py writes them anew."""
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    if cupy.__version__ != strict_cupy.API["cupy"]:
        pytest.skip(f"frozen from CuPy {strict_cupy.API['cupy']}, installed is {cupy.__version__}")
    missing = [name for name in strict_cupy.TOP if not hasattr(cupy, name)]
    assert missing == []
