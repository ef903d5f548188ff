"""The CPU run proves itself on toy kernels: each mode does what it says, and each kind of bug is caught."""

from __future__ import annotations

import itertools
import threading

import ml_dtypes
import numpy as np
import pytest

from minilm.kernels.cuda import launch
from minilm.kernels.cuda.launch import kernel
from minilm.kernels.host import CompileError, KernelError, builder, host_options

pytestmark = pytest.mark.usefixtures("host_run")

ORDERS = ("forward", "reverse", "random")
f32, i32 = np.float32, np.int32
N = 64  # two warps
X = np.zeros(1)  # any NumPy array: kernels run on the CPU


@pytest.fixture
def toy(tmp_path):
    """toy(body, ...): a kernel `toy` with the parameters float* x, float* y, int n, compiled for the CPU."""
    numbers = itertools.count()

    def compile_toy(body, parameters="const float* x, float* y, int n", before="", defines=()):
        file = tmp_path / f"toy{next(numbers)}.cu"
        file.write_text(f'{before}\nextern "C" __global__ void toy({parameters}) {{\n{body}\n}}\n', encoding="utf-8")
        return kernel(file, "toy", dict(defines), X)

    return compile_toy


def run(k, x=None, n=N, threads=N, blocks=1, shared_mem=0, size=None):
    """y of toy(x, y, n), of x's size; x is 1, 2, ... by default."""
    x = np.arange(1, n + 1, dtype=f32) if x is None else x
    y = np.zeros(size or x.size, f32)
    k((blocks,), (threads,), (x, y, i32(n)), shared_mem=shared_mem)
    return y


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


# ---- bugs, each caught -----------------------------------------------------------------------------------------------

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


# ---- the twins of the PTX instructions, against NumPy ----------------------------------------------------------------

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
