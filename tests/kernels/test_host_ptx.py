"""The twins of the PTX instructions on the CPU: what their wrong use shows as. Their right use is test_ptx_toys."""

from __future__ import annotations

import numpy as np
import pytest

from minilm.kernels.host import KernelError
from tests.kernels.toys import N, run

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
