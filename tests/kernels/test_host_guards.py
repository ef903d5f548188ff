"""The zones around a kernel's arrays: a tile long, NaN to whoever reads there, and a write there is named."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from minilm.kernels.host import KernelError, host_options
from minilm.kernels.host.guards import ALIGNMENT, MOST, zone_bytes
from tests.kernels.toys import f32, i32, run

pytestmark = pytest.mark.usefixtures("host_run")

TYPES = {
    "float16": ("__half", np.float16),
    "bfloat16": ("__nv_bfloat16", ml_dtypes.bfloat16),
    "float32": ("float", f32),
    "float64": ("double", np.float64),
}
INCLUDES = "#include <cuda_fp16.h>\n#include <cuda_bf16.h>"


def aside(x, y, at, k):
    k((1,), (1,), (x, y, np.int64(at)))


@pytest.mark.parametrize("name", TYPES)
def test_what_is_read_outside_is_nan(toy, name):
    c_type, dtype = TYPES[name]
    k = toy("y[0] = (double)x[at];", f"const {c_type}* x, double* y, long long at", INCLUDES)
    x, y = np.ones((3, 24), dtype), np.zeros(1)
    for at in (-128 * 24, -1, x.size, x.size + 128 * 24 - 1):  # a tile of 128 rows on either side
        aside(x, y, at, k)
        assert np.isnan(y[0]), at
    aside(x, y, x.size - 1, k)
    assert y[0] == 1


@pytest.mark.parametrize("name", TYPES)
def test_a_result_that_is_made_of_it_and_written_outside_is_named(toy, name):
    """What arithmetic makes of the zone's NaN is no zone's pattern, on whatever side it is written."""
    c_type, dtype = TYPES[name]
    k = toy("y[at] = x[at] + x[at];", f"const {c_type}* x, {c_type}* y, long long at", INCLUDES)
    for at, where in ((24, "element 24 of 24"), (-1, "element -1 of 24"), (24 * 128, f"element {24 * 128} of 24")):
        with pytest.raises(KernelError, match=rf"argument 2: out of bounds: the kernel writes at byte .*\({where}\)"):
            aside(np.ones((1, 24), dtype), np.zeros((1, 24), dtype), at, k)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "bool"])
def test_integers_outside_are_no_index(toy, dtype):
    """Negative, so that no length and no class is taken for one; and true, for a mask."""
    c_type = {"int32": "int", "int64": "long long"}.get(dtype, "unsigned char")
    k = toy("y[0] = x[at];", f"const {c_type}* x, long long* y, long long at")
    x, y = np.zeros(5, dtype), np.zeros(1, np.int64)
    for at in (-1, 5):
        aside(x, y, at, k)
        assert y[0] < -(2**30) if dtype.startswith("int") else y[0] == 0x80


def test_zones_are_a_tile_and_bounded():
    assert zone_bytes(np.zeros((5, 128), np.float16)) == 128 * 128 * 2
    assert zone_bytes(np.zeros((5, 256), f32)) == 128 * 256 * 4
    assert zone_bytes(np.zeros((2, 50_257), f32)) == MOST  # rows of a vocabulary: no tile has 128 of them
    assert zone_bytes(np.zeros(1, i32)) == zone_bytes(np.array(1.0)) == 1024
    assert all(zone_bytes(np.zeros((2, n), np.int8)) % ALIGNMENT == 0 for n in range(1, 40))


def test_without_guards_the_arrays_are_the_callers(toy):
    k = toy("y[0] = x == (const float*)at;", "const float* x, float* y, long long at")
    x, y = np.ones(4, f32), np.zeros(1, f32)
    with host_options(guard=False):
        aside(x, y, x.ctypes.data, k)
    assert y[0] == 1


def test_the_last_part_of_a_grid(toy):
    k = toy("y[blockIdx.x] = 1;")
    for order in ("forward", "reverse", "random"):
        with host_options(order=order, last_part=4):
            assert run(k, blocks=10, threads=1, size=10).tolist() == [0] * 7 + [1] * 3
    with (
        pytest.raises(ValueError, match=r"last_part \(.*\) is 0, expected a whole number of at least 1"),
        host_options(last_part=0),
    ):
        pass


def test_an_overflow_is_named(toy):
    k = toy("y[0] = x[(n + 1) % 2];\ny[1] = n * n;")
    assert run(k, n=46_340, size=4, threads=1)[1] == 46_340**2 // 128 * 128
    with pytest.raises(KernelError, match=r"toy0.cu:4: overflow: thread 0 leaves the range of a 'int'"):
        run(k, n=46_341, size=4, threads=1)
    for body in ("y[0] = n + 1;", "y[0] = -n - 2;", "y[0] = -(-n - 1);"):
        with pytest.raises(KernelError, match=r"overflow: thread 0"):
            run(toy(body), x=np.ones(1, f32), n=2**31 - 1, threads=1)
