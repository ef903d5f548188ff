"""The CPU run catches bugs: each kind is planted in a toy kernel, and is named or shows; and so with the sanitizers."""

from __future__ import annotations

import numpy as np
import pytest

from minilm.kernels.host import CompileError, KernelError, host_options
from minilm.kernels.host.builder import ORDERS
from tests.kernels.toys import N, f32, i32, run

pytestmark = pytest.mark.usefixtures("host_run")

MIRRORED = """
    __shared__ float s[64];
    s[threadIdx.x] = x[threadIdx.x];
    {barrier}
    y[threadIdx.x] = s[63 - threadIdx.x];
"""


def test_missing_barrier_shows_as_nan(toy):
    right, wrong = toy(MIRRORED.format(barrier="__syncthreads();")), toy(MIRRORED.format(barrier=""))
    for order in ORDERS:
        with host_options(order=order):
            np.testing.assert_array_equal(run(right), np.arange(N, 0, -1))
            assert np.isnan(run(wrong)).any()


def test_missing_warp_barrier_shows_as_nan(toy):
    body = """
        __shared__ float s[64];
        s[threadIdx.x] = x[threadIdx.x];
        {barrier}
        y[threadIdx.x] = s[threadIdx.x ^ 31];
    """
    right, wrong = toy(body.format(barrier="__syncwarp();")), toy(body.format(barrier=""))
    for order in ORDERS:
        with host_options(order=order):
            np.testing.assert_array_equal(run(right), np.arange(N).reshape(2, 32)[:, ::-1].ravel() + 1)
            assert np.isnan(run(wrong)).any()


def test_uninitialised_shared_memory_is_nan(toy):
    static = toy("__shared__ float s[64]; y[threadIdx.x] = s[threadIdx.x];")
    dynamic = toy("extern __shared__ float s[]; y[threadIdx.x] = s[threadIdx.x];")
    for k in (static, dynamic):
        assert np.isnan(run(k, shared_mem=4 * N)).all()
        with host_options(poison=False):
            run(k, shared_mem=4 * N)
    # Of an earlier block nothing is left either.
    stale = toy("extern __shared__ float s[]; y[threadIdx.x] = s[threadIdx.x]; s[threadIdx.x] = 1;")
    assert np.isnan(run(stale, blocks=2, shared_mem=4 * N)).all()


def test_a_template_may_have_shared_memory(toy):
    k = toy(
        "y[threadIdx.x] = mirror<64>(x) + mirror<32>(x);",
        before="""
        template <int SIZE> __device__ float mirror(const float* x) {
            __shared__ float s[SIZE];
            if (threadIdx.x < SIZE) s[threadIdx.x] = x[threadIdx.x];
            __syncthreads();
            return s[SIZE - 1 - threadIdx.x % SIZE];
        }
        """,
    )
    np.testing.assert_array_equal(run(k), np.arange(N, 0, -1) + np.tile(np.arange(32, 0, -1), 2))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("threadIdx.x + 1", "argument 2: out of bounds: the kernel writes at byte 256 of an array of 256 bytes"),
        ("(int)threadIdx.x - 2", r"argument 2: out of bounds: .* \(element -1 of 64\)"),
    ],
)
def test_a_write_out_of_bounds_is_named(toy, index, message):
    k = toy(f"y[{index}] = 1;")
    with pytest.raises(KernelError, match=message):
        run(k)
    with pytest.raises(KernelError, match="isn't mapped, or is misaligned"):
        run(toy("y[((long long)n << 40) + threadIdx.x] = 1;"))


def test_shared_memory_out_of_bounds_is_named(toy):
    with pytest.raises(
        KernelError, match=r"toy0.cu:4: out of bounds: thread 63 uses index 64 of an array 'float \[64\]'"
    ):
        run(toy("__shared__ float s[64];\ns[threadIdx.x + 1] = 0;\ny[threadIdx.x] = s[threadIdx.x];"))
    with pytest.raises(KernelError, match=r"writes shared memory at byte 256, and 256 bytes were given"):
        run(toy("extern __shared__ float s[];\ns[threadIdx.x + 1] = 0;"), shared_mem=4 * N)


def test_a_misaligned_vector_is_named(toy):
    k = toy("float4 v = *(const float4*)(x + 1);\n*(float4*)y = v;")
    with pytest.raises(KernelError, match=r"toy0.cu:3: misaligned: thread 0 uses a 'const struct float4' at"):
        run(k)
    shifted = toy("*(float4*)y = *(const float4*)x;")
    with pytest.raises(KernelError, match=r"toy1.cu:3: misaligned"):
        run(shifted, x=np.arange(N + 1, dtype=f32)[1:])  # the array itself begins in the middle of a vector


def test_null_pointers_shifts_and_divisions(toy):
    k = toy("y[0] = x[0];\ny[1] = 1 << n;")
    y = np.zeros(4, f32)
    with pytest.raises(KernelError, match=r"toy0.cu:3: null pointer"):
        k((1,), (1,), (None, y, i32(3)))
    with pytest.raises(KernelError, match=r"toy0.cu:4: thread 0 shifts a 'int' by 40"):
        k((1,), (1,), (y + 1, y, i32(40)))
    k((1,), (1,), (y + 1, y, i32(3)))
    assert y[:2].tolist() == [1, 8]
    divides = toy("y[0] = 5 / n;")
    with pytest.raises(KernelError, match=r"toy1.cu:3: thread 0 divides by zero"):
        run(divides, n=0, threads=1, size=1)


def test_a_divergent_barrier_is_named(toy):
    ended = toy("if (threadIdx.x == 5) return;\n__syncthreads();")
    with pytest.raises(KernelError, match=r"toy0.cu:4: divergent barrier: 63 of 64 threads wait here, the others have"):
        run(ended)
    split = toy("if (threadIdx.x < 40)\n__syncthreads();\nelse\n__syncthreads();")
    with pytest.raises(KernelError, match=r"toy1.cu:4: divergent barrier: thread 0 waits here, thread 40 waits at"):
        run(split)
    with pytest.raises(KernelError):  # and a launch after an error is as good as any
        run(ended)
    run(toy("__syncthreads();"))


def test_a_shuffle_with_absent_lanes_is_named(toy):
    k = toy("if (threadIdx.x < 30)\ny[0] = __shfl_sync(~0u, x[threadIdx.x], 0);")
    with pytest.raises(KernelError, match=r"toy0.cu:4: deadlock: thread 0 waits in a warp operation for"):
        run(k)
    k = toy("y[threadIdx.x] = __shfl_sync(0x3u, x[threadIdx.x], 0);")
    with pytest.raises(KernelError, match=r"toy1.cu:3: thread 2 names lanes 00000003 in a warp operation, and not"):
        run(k)
    k = toy("if (threadIdx.x < 4)\ny[threadIdx.x] = __shfl_sync(0xfu, x[threadIdx.x], 4);")
    with pytest.raises(KernelError, match=r"toy2.cu:4: thread 0 shuffles from lane 4, which isn't in its mask"):
        run(k)


def test_more_local_memory_than_a_fiber_has_is_refused(toy):
    with pytest.raises(CompileError, match="frame size"):
        toy("volatile float mine[70000]; mine[0] = mine[n] = 0; y[0] = mine[0];")
    k = toy(
        "y[0] = deep(x, n);",
        before="""
        __device__ __noinline__ float deep(const float* x, int n) {
            volatile float mine[1000];
            for (int i = 0; i < 1000; i++) mine[i] = x[0];
            return n ? mine[n] + deep(x, n - 1) : 0;
        }
        """,
    )
    assert run(k, n=10, threads=2)[0] == 10
    with pytest.raises(KernelError, match=r"overruns its stack|isn't mapped"):
        run(k, n=70, threads=2)


# ---- sanitizers ------------------------------------------------------------------------------------------------------

SANITIZED = """
import numpy as np
from minilm.kernels.cuda.launch import kernel
x, y = np.arange(64, dtype=np.float32), np.zeros(64, np.float32)
k = kernel({file!r}, "toy", {{}}, x)
k((1,), (64,), (x, y, np.int32(64)), shared_mem=256)
print("sum", int(y.sum()))
"""
EPOCHS = """
    extern __shared__ float s[];
    for (int turn = 0; turn < 3; turn++) {
        s[threadIdx.x] = turn;
        __syncthreads();
        y[threadIdx.x] = s[63 - threadIdx.x];
        BARRIER
    }
"""


def sanitized_toy(tmp_path, body):
    (tmp_path / "toy.cu").write_text(
        f'extern "C" __global__ void toy(const float* x, float* y, int n) {{\n{body}\n}}\n', encoding="utf-8"
    )
    return SANITIZED.format(file=str(tmp_path / "toy.cu"))


@pytest.mark.parametrize(
    "body", [MIRRORED.format(barrier="__syncthreads();"), EPOCHS.replace("BARRIER", "__syncthreads();")]
)
def test_sanitizers_are_silent_on_a_right_kernel(tmp_path, sanitized, body):
    outcome = sanitized(sanitized_toy(tmp_path, body))
    assert outcome.clean and "sum" in outcome.output, outcome.report


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (MIRRORED.format(barrier=""), 6),  # a missing __syncthreads
        (
            EPOCHS.replace("BARRIER", ""),
            5,
        ),  # the second barrier of a loop: a fast thread overwrites what a slow one reads
        ("__shared__ float s;\ns = x[7];\n__syncthreads();\ny[threadIdx.x] = s;", 3),  # a race with a right result
        (
            "__shared__ int s[64]; s[threadIdx.x] = 1;\n__shfl_sync(~0u, 1, 0);\ny[threadIdx.x] = s[threadIdx.x ^ 1];",
            4,
        ),
    ],
    ids=["barrier", "loop", "right result", "a shuffle is no barrier"],
)
@pytest.mark.parametrize("sanitized", ["thread"], indirect=True)
def test_thread_sanitizer_names_races(tmp_path, sanitized, body, line):
    outcome = sanitized(sanitized_toy(tmp_path, body))
    assert not outcome.clean and "data race" in outcome.report and f"toy.cu:{line}" in outcome.report, outcome.report


@pytest.mark.parametrize(
    "body",
    [
        "y[threadIdx.x] = x[threadIdx.x + 1];",  # a read behind the array: no wrong result need come of it
        "y[threadIdx.x] = x[(int)threadIdx.x - 1];",
        "extern __shared__ float s[];\ny[threadIdx.x] = s[threadIdx.x + 1];",
        "__shared__ float s[64]; float* p = s + n; s[threadIdx.x] = 1;\ny[threadIdx.x] = p[0];",
        "__shared__ float s[64]; float* p = s + 61; p[0] = 1;\n*(float4*)p = *(float4*)x;",
    ],
    ids=["behind", "before", "dynamic", "static", "misaligned"],
)
@pytest.mark.parametrize("sanitized", ["address,undefined"], indirect=True)
def test_address_sanitizer_names_reads_out_of_bounds(tmp_path, sanitized, body):
    outcome = sanitized(sanitized_toy(tmp_path, body))
    assert not outcome.clean and "toy.cu:" in outcome.report, outcome.report
