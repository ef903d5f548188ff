"""The stand-in's RawModule runs a kernel, and catches what CuPy would do to a wrong call."""

from __future__ import annotations

import contextlib
import sys
import types

import numpy as np
import pytest

from minilm.kernels.cuda import softmax
from minilm.kernels.host import compiler_problem
from tests import strict_cupy
from tests.strict_cupy import StrictViolation, no_sync, strict
from tests.strict_cupy.device_kernels import device_kernels

needs_compiler = pytest.mark.skipif(compiler_problem() is not None, reason=f"{compiler_problem()}")

SOURCE = r"""
#ifdef ELEMENT_F64
typedef double Element;
#else
typedef float Element;
#endif
extern "C" __global__ void __launch_bounds__(64)
add(const Element* __restrict__ x, const unsigned char* mask, Element* y, int n, Element a) {
    extern __shared__ Element held[];
    const int i = blockIdx.x * 64 + threadIdx.x;
    held[threadIdx.x] = i < n ? x[i] : 0;
    __syncthreads();
    if (i < n && (mask == nullptr || mask[i])) y[i] = held[threadIdx.x] + a;
}
"""
N = 100
GRID, BLOCK, SHARED = (2,), (64,), 64 * 8
NULL = np.uint64(0)


@pytest.fixture(autouse=True)
def device():
    with contextlib.ExitStack() as stack:
        stack.enter_context(device_kernels())
        yield stack


def array(host):
    return strict.asarray(np.asarray(host))


X = np.arange(N, dtype="f4")


def add(options=()):
    return strict.RawModule(code=SOURCE, options=options).get_function("add")


@needs_compiler
def test_a_kernel_runs_without_a_wait():
    x, mask, y = array(X), array(X % 2 == 0), strict.zeros(N, "f4")
    with no_sync():
        add()(GRID, BLOCK, (x, mask, y, np.int32(N), np.float32(2.0)), shared_mem=SHARED)
    assert np.array_equal(y.get(), np.where(X % 2 == 0, X + 2, 0))


@needs_compiler
def test_options_and_null_pointer():
    x, y = array(X.astype("f8")), strict.zeros(N, "f8")
    add(("-std=c++17", "-DELEMENT_F64=1"))(GRID, BLOCK, (x, NULL, y, np.int32(N), np.float64(2)), shared_mem=SHARED)
    assert np.array_equal(y.get(), X + 2)


WRONG_ARGUMENTS = {
    "a Python float": ({"a": 2.0}, "Python float .* declares f4"),
    "a Python int": ({"n": N}, "Python int"),
    "a wider scalar": ({"a": np.float64(2.0)}, "is float64"),
    "an int64 for an int": ({"n": np.int64(N)}, "is int64"),
    "None": ({"mask": None}, "is the null pointer"),
    "an address that is none": ({"mask": np.int32(0)}, "no address"),
    "float64 data": ({"x": array(X.astype("f8"))}, "is float64, the kernel declares pf4"),
    "a 0-d array for a scalar": ({"a": array(np.float32(2.0))}, "its address as a number"),
    "a column of a matrix": ({"x": array(np.ones((N, 2), "f4"))[:, 0]}, "memory in order"),
}


@needs_compiler
@pytest.mark.parametrize("case", WRONG_ARGUMENTS)
def test_wrong_argument(case):
    changed, message = WRONG_ARGUMENTS[case]
    given = {"x": array(X), "mask": NULL, "y": strict.zeros(N, "f4"), "n": np.int32(N), "a": np.float32(2.0)}
    with pytest.raises(StrictViolation, match=message):
        add()(GRID, BLOCK, tuple((given | changed).values()), shared_mem=SHARED)


@needs_compiler
def test_too_few_arguments():
    with pytest.raises(StrictViolation, match="2 arguments for 5 parameters"):
        add()(GRID, BLOCK, (array(X), NULL))


@needs_compiler
def test_host_array():
    with pytest.raises(TypeError, match=r"Unsupported type <class 'numpy.ndarray'> \[cupy\]"):
        add()(GRID, BLOCK, (X, NULL, strict.zeros(N, "f4"), np.int32(N), np.float32(2.0)), shared_mem=SHARED)


@needs_compiler
def test_strided_arrays_are_read_in_the_order_of_memory_where_that_is_allowed():
    x, y = array(np.stack([X, -X], axis=1))[:, 0], strict.zeros(N, "f4")
    with strict_cupy.relaxed(strided_arguments="cupy"):
        add()(GRID, BLOCK, (x, NULL, y, np.int32(N), np.float32(0)), shared_mem=SHARED)
    assert np.array_equal(y.get()[:4], [0, 0, 1, -1])


@needs_compiler
def test_shared_memory_above_48_kib():
    function = add()
    arguments = (array(X), NULL, strict.zeros(N, "f4"), np.int32(N), np.float32(2.0))
    with pytest.raises(RuntimeError, match="set max_dynamic_shared_size_bytes"):
        function(GRID, BLOCK, arguments, shared_mem=50_000)
    with pytest.raises(RuntimeError, match="the device has 166912"):
        function.max_dynamic_shared_size_bytes = 200_000
    function.max_dynamic_shared_size_bytes = 50_000
    function(GRID, BLOCK, arguments, shared_mem=50_000)


@needs_compiler
@pytest.mark.parametrize(
    "grid, block, error",
    [
        ((1, 65536), (64,), RuntimeError),
        ((1,), (2048,), RuntimeError),
        ((1,), (64, 32), RuntimeError),
        ((0,), (64,), StrictViolation),
        ([2], (64,), TypeError),
    ],
)
def test_sizes(grid, block, error):
    with pytest.raises(error, match=r"kernel add at test_device_kernels\.py"):
        add()(grid, block, ())


def test_nothing_compiles_outside(device):
    assert hasattr(strict, "RawModule")
    device.close()
    assert not hasattr(strict, "RawModule")


@needs_compiler
def test_array_on_another_device(monkeypatch):
    """The stand-in has one device; a second one is made up for the array."""
    monkeypatch.setitem(sys.modules, "cupy", strict)
    x = array(np.ones((4, 64), "f4"))
    softmax(x)
    monkeypatch.setattr(strict_cupy.StrictArray, "device", types.SimpleNamespace(id=1), raising=False)
    with pytest.raises(ValueError, match="device 1, but device 0 is current"):
        softmax(x)
