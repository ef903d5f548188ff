"""Asynchronous copies on the CPU: one that is issued before others have finished reading its target shows as NaN."""

from __future__ import annotations

import numpy as np
import pytest

from minilm.kernels.host import host_options
from minilm.kernels.host.builder import ORDERS
from minilm.kernels.host.sanitize import run_sanitized, runtime
from tests.kernels.toys import N, run

pytestmark = pytest.mark.usefixtures("host_run")

HEADER = '#include "ptx.cuh"'
COPY = "if (threadIdx.x < 16) copy_async_16(shared_address(s + 4 * threadIdx.x), x + 4 * threadIdx.x, n > 0);"
READ_THEN_COPY = """
    extern __shared__ __align__(16) float s[];
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    BEFORE
    y[threadIdx.x] = s[63 - threadIdx.x];
    __syncthreads();
    AFTER
    commit_copies();
    wait_copies<0>();
    __syncthreads();
    y[64 + threadIdx.x] = s[threadIdx.x];
"""
RIGHT = READ_THEN_COPY.replace("BEFORE", "").replace("AFTER", COPY)
EARLY = READ_THEN_COPY.replace("BEFORE", COPY).replace("AFTER", "")


@pytest.mark.parametrize("present", [True, False], ids=["copied", "zeros"])
@pytest.mark.parametrize("order", ORDERS)
def test_a_copy_that_is_issued_too_early_shows_as_nan(toy, order, present):
    right, early = toy(RIGHT, before=HEADER), toy(EARLY, before=HEADER)
    x = np.arange(1, N + 1, dtype=np.float32)
    arrived = x if present else np.zeros(N)
    with host_options(order=order):
        y = run(right, x=x, n=int(present), size=2 * N, shared_mem=4 * N)
        np.testing.assert_array_equal(y, np.concatenate([x[::-1], arrived]))
        y = run(early, x=x, n=int(present), size=2 * N, shared_mem=4 * N)
        assert np.isnan(y[:N]).any() and (y[N:] == arrived).all()


@pytest.mark.parametrize(("body", "races"), [(RIGHT, False), (EARLY, True)], ids=["right", "early"])
def test_thread_sanitizer_sees_the_write_where_the_copy_is_issued(tmp_path, body, races):
    if runtime("thread") is None:
        pytest.skip("the runtime of sanitizer 'thread' isn't installed")
    parameters = "const float* x, float* y, int n"
    file = tmp_path / "toy.cu"
    file.write_text(f'{HEADER}\nextern "C" __global__ void toy({parameters}) {{\n{body}\n}}\n', encoding="utf-8")
    outcome = run_sanitized(
        "thread",
        f"""
import numpy as np
from minilm.kernels.cuda.launch import kernel
x, y = np.ones(64, np.float32), np.zeros(128, np.float32)
kernel({str(file)!r}, "toy", {{}}, x)((1,), (64,), (x, y, np.int32(1)), shared_mem=256)
""",
    )
    assert outcome.clean != races, outcome.report
    assert ("data race" in outcome.report and "copy_async_16" in outcome.report) == races, outcome.report
