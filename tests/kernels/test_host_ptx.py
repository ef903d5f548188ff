"""The twins of the PTX instructions on the CPU: against NumPy, and what their wrong use shows as."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from minilm.kernels.host import KernelError, host_options
from minilm.kernels.host.builder import ORDERS
from tests.kernels.toys import N, f32, run

pytestmark = pytest.mark.usefixtures("host_run")


# ---- asynchronous copies and addresses -------------------------------------------------------------------------------

COPIED = """
    extern __shared__ __align__(16) float s[];
    copy_async_16(shared_address(s + 4 * threadIdx.x), x + 4 * threadIdx.x, threadIdx.x < n / 4);
    commit_copies();
    {wait}
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x];
"""


def test_asynchronous_copies_zero_fill_and_a_missing_wait_shows(toy):
    header = '#include "ptx.cuh"'
    right = toy(COPIED.format(wait="wait_copies<0>();"), before=header)
    y = run(right, n=40, size=N, shared_mem=16 * N)
    np.testing.assert_array_equal(
        y, np.where(np.arange(N) < 40, np.arange(1, N + 1), 0)
    )  # nothing is read past the end
    for wait in ("", "wait_copies<1>();"):
        assert np.isnan(run(toy(COPIED.format(wait=wait), before=header), n=40, size=N, shared_mem=16 * N)).all()


def test_copies_are_done_group_by_group(toy):
    k = toy(
        """
        extern __shared__ __align__(16) float s[];
        for (int i = 0; i < 3; i++) {
            copy_async_16(shared_address(s + 4 * i), x + 4 * i, true);
            commit_copies();
        }
        wait_copies<2>();
        for (int i = 0; i < 12; i++) y[i] = s[i];
        wait_copies<1>();
        for (int i = 0; i < 12; i++) y[12 + i] = s[i];
        """,
        before='#include "ptx.cuh"',
    )
    y = run(k, threads=1, shared_mem=48)
    assert np.isfinite(y[:24]).tolist() == [True] * 4 + [False] * 8 + [True] * 8 + [False] * 4


def test_ptx_addresses_are_checked(toy):
    header = '#include "ptx.cuh"'
    body = "extern __shared__ float s[];\ncopy_async_16(shared_address(s) + {to}, x + {source}, true);"
    for to, source, message in (
        (1024, 0, r"toy\d.cu:4: out of bounds: thread 0 uses shared memory at byte 1024, and 1024 bytes were given"),
        (8, 0, r"toy\d.cu:4: misaligned: thread 0 uses 16 bytes of shared memory at byte 8"),
        (0, 1, r"toy\d.cu:4: misaligned: thread 0 copies 16 bytes from"),
    ):
        with pytest.raises(KernelError, match=message):
            run(toy(body.format(to=to, source=source), before=header), shared_mem=1024)
    k = toy("extern __shared__ float s[];\nunsigned r[4];\nload_matrix_x4(r, shared_address(s) + 1024);", before=header)
    with pytest.raises(KernelError, match=r"toy\d.cu:5: out of bounds"):
        run(k, threads=32, shared_mem=1024)
    k = toy("extern __shared__ float s[];\nunsigned r[4];\nif (threadIdx.x < 8)\nload_matrix_x4(r, 0);", before=header)
    with pytest.raises(KernelError, match=r"toy\d.cu:6: deadlock"):
        run(k, threads=32, shared_mem=1024)


# ---- matrices and arithmetic, against NumPy --------------------------------------------------------------------------

DTYPES = {"float16": (np.float16, {}), "bfloat16": (ml_dtypes.bfloat16, {"ELEMENT_BF16": 1})}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ORDERS)
def test_mma_multiplies_matrices(toy, rng, dtype, order):
    """Fragments are loaded here by the PTX ISA's formulas for each register, one element at a time."""
    dtype, defines = DTYPES[dtype]
    k = toy(
        """
        const int lane = threadIdx.x, group = lane >> 2, in_group = lane % 4;
        unsigned a[4] = {0}, b[2] = {0};
        float c[4], d[4];
        for (int i = 0; i < 8; i++) {
            const int row = (i >= 0 && i < 2) || (i >= 4 && i < 6) ? group : group + 8;
            const int column = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
            a[i / 2] |= (unsigned)A[row * 16 + column] << 16 * (i % 2);
        }
        for (int i = 0; i < 4; i++) {
            const int row = in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0);
            b[i / 2] |= (unsigned)B[row * 8 + group] << 16 * (i % 2);
        }
        for (int i = 0; i < 4; i++) c[i] = C[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)];
        mma_m16n8k16(d, a, b, c);
        mma_m16n8k16(d, a, b[0], b[1]);
        for (int i = 0; i < 4; i++) D[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)] = d[i];
        """,
        "const unsigned short* A, const unsigned short* B, const float* C, float* D",
        '#include "ptx.cuh"',
        defines,
    )
    A, B = rng.normal(size=(16, 16)).astype(dtype), rng.normal(size=(16, 8)).astype(dtype)
    C, D = rng.normal(size=(16, 8)).astype(f32), np.zeros((16, 8), f32)
    with host_options(order=order):
        k((1,), (32,), (A.view(np.uint16), B.view(np.uint16), C, D))
    want = C + 2 * (A.astype(np.float64) @ B.astype(np.float64))
    np.testing.assert_allclose(D, want, rtol=0, atol=4e-6)


@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix_distributes_rows(toy, transposed):
    k = toy(
        """
        __shared__ __align__(16) unsigned short s[32 * 8];
        const int lane = threadIdx.x;
        for (int i = 0; i < 8; i++) s[lane * 8 + i] = x[lane * 8 + i];
        __syncwarp();
        unsigned r[4], two[2];
        LOAD(r, shared_address(s + lane * 8));
        load_matrix_x2(two, shared_address(s + lane * 8));
        for (int m = 0; m < 4; m++) y[m * 32 + lane] = r[m];
        for (int m = 0; m < 2; m++) y[(4 + m) * 32 + lane] = two[m];
        """,
        "const unsigned short* x, unsigned* y",
        '#include "ptx.cuh"',
        {"LOAD": "load_matrix_x4_trans" if transposed else "load_matrix_x4"},
    )
    x, y = np.arange(32 * 8, dtype=np.uint16).reshape(4, 8, 8), np.zeros((6, 32), np.uint32)
    k((1,), (32,), (x, y))
    got = y.view(np.uint16).reshape(6, 8, 8)  # matrix, lane // 4, 2 (lane % 4) + which half of the register
    np.testing.assert_array_equal(got[:4], x.swapaxes(1, 2) if transposed else x)
    np.testing.assert_array_equal(got[4:], x[:2])


def test_exp2_flushes_and_is_accurate(toy):
    k = toy("y[threadIdx.x] = exp2_fast(x[threadIdx.x]);", before='#include "ptx.cuh"')
    x = np.array([0, -1, 10.5, -126, -127, -200, -np.inf, 200], f32)
    np.testing.assert_allclose(run(k, x=x, threads=8), [1, 0.5, 2**10.5, 2.0**-126, 0, 0, 0, np.inf], rtol=3e-7)
