"""The CPU run on toy kernels: the language, what a launch takes and refuses, and what doesn't compile."""

from __future__ import annotations

import threading

import ml_dtypes
import numpy as np
import pytest

from minilm.kernels.cuda import launch
from minilm.kernels.cuda.launch import kernel
from minilm.kernels.host import CompileError, KernelError, builder, host_options
from minilm.kernels.host.builder import ORDERS
from tests.kernels.toys import N, f32, i32, run

pytestmark = pytest.mark.usefixtures("host_run")

X = np.zeros(1)  # any NumPy array: kernels run on the CPU


# ---- the language ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
def test_barriers_shuffles_and_votes(toy, order):
    k = toy(
        """
        __shared__ float sums[2];
        const int i = threadIdx.x;
        float sum = x[i];
        for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
        if (i % 32 == 0) sums[i / 32] = sum;
        __syncthreads();
        const unsigned odd = __ballot_sync(~0u, i & 1);
        const float left = __shfl_up_sync(~0u, x[i], 1), right = __shfl_down_sync(~0u, x[i], 1, 8);
        y[i] = sums[0] + sums[1];
        y[n + i] = odd == 0xaaaaaaaau && __any_sync(~0u, i == 3) == (i < 32) && __all_sync(~0u, i < 32) == (i < 32);
        y[2 * n + i] = left;
        y[3 * n + i] = right;
        """
    )
    with host_options(order=order):
        y = run(k, size=4 * N).reshape(4, N)
    x = np.arange(1, N + 1)
    assert (y[0] == x.sum()).all() and (y[1] == 1).all()
    np.testing.assert_array_equal(y[2], np.where(x % 32 == 1, x, x - 1))
    np.testing.assert_array_equal(y[3], np.where(x % 8 == 0, x, x + 1))


def test_warps_in_parts_exchange_among_themselves(toy):
    """Half a warp takes another number of turns, and meets the other half again."""
    k = toy(
        """
        const int i = threadIdx.x, half = i / 16 % 2;
        const unsigned mine = half ? 0xffff0000u : 0x0000ffffu;
        float sum = x[i];
        for (int step = half ? 8 : 4; step > 0; step /= 2) sum += __shfl_xor_sync(mine, sum, step);
        y[i] = __shfl_xor_sync(~0u, sum, 16);
        """
    )
    x = np.arange(1, N + 1, dtype=f32).reshape(2, 2, 16)  # warp, half, lane
    first = np.repeat(x[:, :1].reshape(2, 2, 8).sum(axis=2), 8, axis=1)
    second = np.repeat(x[:, 1].sum(axis=1), 16).reshape(2, 16)
    for order in ORDERS:
        with host_options(order=order):
            np.testing.assert_array_equal(run(k).reshape(2, 2, 16), np.stack([second, first], axis=1))


def test_grid_block_and_dynamic_shared_memory(toy):
    k = toy(
        """
        extern __shared__ __align__(16) double scratch[];
        const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
        const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
        scratch[thread] = block;
        __syncthreads();
        y[block * 24 + thread] = scratch[23 - thread] * 100 + thread;
        """
    )
    for order in ORDERS:
        y = np.zeros((2 * 3 * 5, 24), f32)
        with host_options(order=order, seed=7):
            k((2, 3, 5), (2, 3, 4), (None, y, i32(0)), shared_mem=8 * 24)
        np.testing.assert_array_equal(y, np.arange(30)[:, None] * 100 + np.arange(24))


def test_fibers_without_our_assembly(toy, monkeypatch):
    """Another processor than x86-64 switches fibers by ucontext."""
    monkeypatch.setattr(builder, "machine_flags", lambda: ("-DCUDA_CPU_UCONTEXT",))
    k = toy(
        """
        __shared__ float s[64];
        s[threadIdx.x] = x[threadIdx.x];
        __syncthreads();
        y[threadIdx.x] = __shfl_xor_sync(~0u, s[63 - threadIdx.x], 1);
        """
    )
    for order in ORDERS:
        with host_options(order=order):
            np.testing.assert_array_equal(run(k), (np.arange(N, 0, -1).reshape(-1, 2)[:, ::-1]).ravel())


@pytest.mark.parametrize("name", ["half", "bfloat16"])
@pytest.mark.parametrize("native", [True, False], ids=["native", "software"])
def test_sixteen_bit_conversions_are_exact(toy, monkeypatch, rng, name, native):
    if not native:
        monkeypatch.setattr(builder, "machine_flags", lambda: ())
    dtype, kind = {"half": (np.float16, "__half"), "bfloat16": (ml_dtypes.bfloat16, "__nv_bfloat16")}[name]
    k = toy(
        """
        const int i = blockIdx.x * 256 + threadIdx.x;
        wide[i] = (float)every[i];
        rounded[i] = (TYPE)x[i];
        """,
        "const TYPE* every, float* wide, const float* x, TYPE* rounded",
        "#include <cuda_fp16.h>\n#include <cuda_bf16.h>",
        {"TYPE": kind},
    )
    every = np.arange(2**16, dtype=np.uint16).view(dtype)
    # Midway between neighbours, and beside it: rounding to even, to subnormal numbers, to infinity.
    with np.errstate(invalid="ignore", over="ignore"):
        neighbours = every.astype(f32), np.roll(every, -1).astype(f32)
        x = ((neighbours[0].astype(np.float64) + neighbours[1]) / 2).astype(f32)
        x[::3] = np.nextafter(x[::3], f32(np.inf))
        x[1::7] = rng.normal(size=x[1::7].size).astype(f32)
        want = x.astype(dtype)
    wide, rounded = np.zeros(2**16, f32), np.zeros(2**16, dtype)
    k((256,), (256,), (every, wide, x, rounded))
    np.testing.assert_array_equal(wide, every.astype(f32))
    number = ~np.isnan(x)
    np.testing.assert_array_equal(rounded.view(np.uint16)[number], want.view(np.uint16)[number])
    assert np.isnan(rounded.astype(f32)[~number]).all()


def test_pairs_of_half(toy):
    k = toy(
        """
        const half2 a = *(const half2*)(x + 0), b = *(const half2*)(x + 2);
        *(half2*)(y + 0) = __hadd2(a, b);
        *(half2*)(y + 2) = __hfma2(a, b, b);
        y[4] = a.x * b.x / a.y - b.y;
        const float2 wide = __half22float2(__hmul2(a, b));
        *(half2*)(y + 6) = __floats2half2_rn(wide.x, wide.y);
        y[5] = __low2half(a) < __high2half(a) ? __hmax(a.x, a.y) : half(0.f);
        """,
        "const half* x, half* y",
        "#include <cuda_fp16.h>",
    )
    x, y = np.array([1.1, 2.3, 0.7, 5.9], np.float16), np.zeros(8, np.float16)
    k((1,), (1,), (x, y))
    a, b = x[:2], x[2:]
    fused = (a.astype(np.float64) * b + b).astype(np.float16)
    np.testing.assert_array_equal(y[:4], np.concatenate([a + b, fused]))
    np.testing.assert_array_equal(y[4:], [a[0] * b[0] / a[1] - b[1], a[1], *(a * b)])


# ---- launches --------------------------------------------------------------------------------------------------------


def test_python_numbers_and_other_types_are_refused(toy):
    k = toy("if (y) y[threadIdx.x] = a;", "float* y, float a, int n")
    y = np.zeros(4, f32)
    k((1,), (4,), (y, f32(2), i32(4)))
    assert (y == 2).all()
    with pytest.raises(TypeError, match="argument 2: got float"):
        k((1,), (4,), (y, 2.0, i32(4)))
    with pytest.raises(TypeError, match="argument 3: got int"):
        k((1,), (4,), (y, f32(2), 4))
    with pytest.raises(TypeError, match="argument 2: got a float64, the kernel takes f4"):
        k((1,), (4,), (y, np.float64(2), i32(4)))
    with pytest.raises(TypeError, match="argument 1: got an array of float64, the kernel reads f4"):
        k((1,), (4,), (y.astype(np.float64), f32(2), i32(4)))
    with pytest.raises(TypeError, match="argument 2: got None"):
        k((1,), (4,), (y, None, i32(4)))
    with pytest.raises(TypeError, match="takes 3 arguments, got 2"):
        k((1,), (4,), (y, f32(2)))
    with pytest.raises(ValueError, match="argument 1: the array is not C-contiguous"):
        k((1,), (4,), (np.zeros((4, 4), f32).T, f32(2), i32(4)))
    k((1,), (4,), (None, f32(2), i32(4)))  # a null pointer


def test_limits_of_a_launch(toy):
    k = toy("")
    for grid in ((2**31,), (1, 65536), (1, 1, 65536)):
        with pytest.raises(ValueError, match="CUDA launches at most"):
            k(grid, (32,), (None, None, i32(0)))
    assert launch.check_grid((2**31 - 1, 65535, 65535)) == (2**31 - 1, 65535, 65535)
    for block in ((1025,), (32, 33), (1, 1, 65), (0,)):
        with pytest.raises(ValueError, match="a block has 1 to 1024 threads"):
            k((1,), block, (None, None, i32(0)))
    with pytest.raises(ValueError, match="a block has at most 232448"):
        k((1,), (1,), (None, None, i32(0)), shared_mem=232449)
    with pytest.raises(ValueError, match="order 'sideways' is unknown"), host_options(order="sideways"):
        pass
    with pytest.raises(ValueError, match="sanitizer 'memory' is unknown"), host_options(sanitizer="memory"):
        pass


def test_the_same_array_twice_is_one_array_and_overlaps_are_refused(toy):
    k = toy("y[threadIdx.x] = x[threadIdx.x] + 1;")
    x = np.arange(N, dtype=f32)
    k((1,), (N,), (x, x, i32(N)))
    np.testing.assert_array_equal(x, np.arange(N) + 1)
    with pytest.raises(ValueError, match="argument 2 overlaps the array of toy, argument 1"):
        k((1,), (N,), (x[:-1], x[1:], i32(N)))


def test_read_only_arrays_stay_as_they_are(toy):
    k = toy("y[threadIdx.x] = 1;")
    y = np.zeros(N, f32)
    y.flags.writeable = False
    with pytest.raises(KernelError, match="argument 2: the kernel writes to an array that is read-only"):
        k((1,), (N,), (None, y, i32(N)))


def test_threads_of_python_take_turns(toy):
    k = toy(
        """
        __shared__ float s[64];
        for (int turn = 0; turn < 20; turn++) {
            s[threadIdx.x] = x[threadIdx.x];
            __syncthreads();
            y[threadIdx.x] = s[63 - threadIdx.x];
            __syncthreads();
        }
        """
    )
    xs = [np.full(N, i, f32) for i in range(8)]
    ys = [np.zeros(N, f32) for _ in xs]
    threads = [threading.Thread(target=k, args=((4,), (N,), (x, y, i32(N)))) for x, y in zip(xs, ys, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((y == x).all() for x, y in zip(xs, ys, strict=True))


def test_builds_are_cached_by_content(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("MINILM_CACHE", str(tmp_path / "cache"))
    for defines in ({"FACTOR": 2}, {"FACTOR": 3}):
        k = toy("y[threadIdx.x] = FACTOR * x[threadIdx.x];", defines=defines)
        np.testing.assert_array_equal(run(k), np.arange(1, N + 1) * defines["FACTOR"])
    libraries = sorted((tmp_path / "cache" / "host").iterdir())
    assert [path.suffix for path in libraries] == [".so", ".so"]  # and nothing of the building is left
    times = [path.stat().st_mtime_ns for path in libraries]
    launch._host_kernel.cache_clear()
    kernel(tmp_path / "toy0.cu", "toy", {"FACTOR": 2}, X)  # found again
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "cache" / "host").iterdir())] == times


# ---- what doesn't compile --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "before", "message"),
    [
        ("y[0] = tex1Dfetch<float>(n, 0);", "", r"toy0.cu:3: tex1Dfetch isn't supported in a CPU run"),
        ('printf("%d", n);', "", r"toy0.cu:3: printf isn't supported"),
        ('asm volatile("bar.sync 0;");', "", r"toy0.cu:3: inline PTX isn't supported"),
        ("", "#include <mma.h>", r"toy0.cu:1: <mma.h> isn't supported"),
        ("", "#include <cooperative_groups.h>", r"toy0.cu:1: <cooperative_groups.h> isn't supported"),
        (
            "y[0] = table[n];",
            "__constant__ float table[4];",
            r"toy0.cu:1: __constant__ memory that the host writes isn't",
        ),
        ("atomicAdd(y, 1.f);", "", r"toy0.cu:3: atomicAdd isn't supported"),
        ("y[0] = INFINITY;", "", r"toy0.cu:3: INFINITY isn't supported"),
        ("y[0] = 1 +;", "", r"toy0.cu:3: expected primary-expression|toy0.cu:3: expected expression"),
    ],
)
def test_an_unsupported_feature_is_named_with_its_line(toy, body, before, message):
    with pytest.raises(CompileError, match=message):
        toy(body, before=before)


def test_an_unknown_kernel_is_named(tmp_path):
    file = tmp_path / "toy.cu"
    file.write_text('extern "C" __global__ void toy() {}', encoding="utf-8")
    with pytest.raises(CompileError, match="missing"):
        kernel(file, "missing", {}, X)
