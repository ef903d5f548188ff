"""RawModule for the stand-in: the CUDA source that a launcher hands to CuPy is run on the CPU, by CuPy's rules.

    with device_kernels():                 # cupy.RawModule, RawKernel and cuda.Device exist, on the stand-in
        y, cache = ops.softmax(x)          # x a StrictArray: the launcher takes the way that it takes on a GPU

Without this block the stand-in has no RawModule, and ops run their definitions on it. What a call is checked for, and
what CuPy would do:

    scalars            NumPy scalars of the parameter's own type. CuPy copies the bytes: a Python float arrives as a
                       double, a Python int as 64 bits, a float32 for an `int` as its bits
    None               is no null pointer: CuPy passes an invalid address (its issue 9046); np.uint64(0) is one
    pointers           device arrays of the element type that the parameter points to
    strides            a kernel sees none: an array that is not C-contiguous is read in the order of its memory. With
                       policy.strided_arguments = "error" that is a StrictViolation, else it is done
    dynamic shared     above 48 KiB only after `max_dynamic_shared_size_bytes`, and that up to what the device has
    grid and block     grid within (2³¹ − 1, 65535, 65535), block within (1024, 1024, 64) and 1024 threads

No wait for the device happens in a launch. What is left to the host run: everything inside the kernel.
"""

from __future__ import annotations

import contextlib
import re
import time
import types
from collections.abc import Iterator

import numpy as np

from minilm.kernels.cuda import launch
from minilm.kernels.host.builder import build
from tests.strict_cupy.array import StrictArray
from tests.strict_cupy.namespace import strict
from tests.strict_cupy.rules import StrictViolation, caller, events, note, policy

DEFAULT_SHARED = 48 * 1024  # what a launch may ask for without opting in
OPT_IN_SHARED = {75: 64 * 1024, 80: 163 * 1024, 86: 99 * 1024, 89: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024}
GRID_LIMITS, BLOCK_LIMITS, MAX_THREADS = (2**31 - 1, 65535, 65535), (1024, 1024, 64), 1024


class StrictKernel:
    """A cupy.RawKernel."""

    def __init__(self, code: str, name: str, options: tuple[str, ...] = (), backend: str = "nvrtc", **_):
        _check_source(code, options, backend)
        self.name, self.code, self.options = name, code, options
        self._shared_limit = DEFAULT_SHARED
        self._run = None

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        return self._shared_limit

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        most = OPT_IN_SHARED[int(strict.cuda.Device().compute_capability)]
        if size > most:
            raise RuntimeError(
                f"CUDA_ERROR_INVALID_VALUE: invalid argument [cupy]: {size} bytes of shared memory, "
                f"the device has {most}"
            )
        self._shared_limit = size

    def compile(self, log_stream=None) -> None:
        if self._run is None:
            defines = [option[2:].replace("=", " ", 1) for option in self.options if option.startswith("-D")]
            self._run = build("".join(f"#define {each}\n" for each in defines) + self.code, self.name)

    def __call__(self, grid, block, args, *, shared_mem: int = 0, stream=None) -> None:
        where = f"kernel {self.name} at {caller()}"
        grid, block = _check_size(where, grid, block)
        if shared_mem > self._shared_limit:
            raise RuntimeError(
                f"CUDA_ERROR_INVALID_VALUE: invalid argument [cupy] in {where}: {shared_mem} bytes of dynamic shared "
                f"memory, allowed are {self._shared_limit}: set max_dynamic_shared_size_bytes"
            )
        if not isinstance(args, tuple | list):
            raise TypeError(f"Argument 'args' has incorrect type [cupy] in {where}: expected a tuple")
        self.compile()
        declared = self._run.signature
        if len(declared) != len(args):
            raise StrictViolation(f"{where}: {len(args)} arguments for {len(declared)} parameters: CuPy counts neither")
        host = [
            _argument(f"{where}: argument {number}", given, expected)
            for number, (given, expected) in enumerate(zip(args, declared, strict=True), 1)
        ]
        self._run(grid, block, tuple(host), shared_mem=shared_mem)


class StrictModule:
    """A cupy.RawModule from source text."""

    def __init__(self, *, code: str, options: tuple[str, ...] = (), backend: str = "nvrtc", name_expressions=None, **_):
        _check_source(code, options, backend)
        if name_expressions is not None:
            raise StrictViolation('name_expressions miss CuPy\'s cache of compiled modules: use extern "C" names')
        self.code, self.options, self.backend = code, options, backend

    def get_function(self, name: str) -> StrictKernel:
        if not re.search(rf"\b{name}\b", self.code):
            raise RuntimeError(f"CUDA_ERROR_NOT_FOUND: named symbol not found [cupy]: {name}")
        return StrictKernel(self.code, name, self.options, self.backend)

    def compile(self, log_stream=None) -> None:
        """Nothing: each function is compiled at its first call."""


def _check_source(code, options, backend) -> None:
    if not isinstance(code, str) or not isinstance(options, tuple) or backend not in ("nvrtc", "nvcc"):
        raise TypeError(
            f"Argument has incorrect type [cupy]: code {type(code).__name__}, options {type(options).__name__}, "
            f"backend {backend!r}; expected a str, a tuple of str, and nvrtc or nvcc"
        )


def _check_size(where: str, grid, block) -> tuple[tuple[int, ...], tuple[int, ...]]:
    for what, sizes, limits in (("grid", grid, GRID_LIMITS), ("block", block, BLOCK_LIMITS)):
        if not isinstance(sizes, tuple) or not 1 <= len(sizes) <= 3:
            raise TypeError(f"Argument '{what}' has incorrect type [cupy] in {where}: {sizes!r}, expected a tuple")
        for size, limit in zip(sizes, limits, strict=False):
            if isinstance(size, StrictArray) or not 0 <= size <= limit:
                raise RuntimeError(f"CUDA_ERROR_INVALID_VALUE: invalid argument [cupy] in {where}: {what} {sizes}")
            if size == 0:
                raise StrictViolation(f"{where}: {what} {sizes}: CuPy launches one block where the size is 0")
    if int(np.prod(block)) > MAX_THREADS:
        raise RuntimeError(f"CUDA_ERROR_INVALID_VALUE: invalid argument [cupy] in {where}: {block} threads a block")
    return tuple(map(int, grid)), tuple(map(int, block))


def _argument(where: str, given, expected: str):
    """What the host run is given. `expected` is the builder's word for a type: i4, or pf4 for a pointer to it."""
    declared = f"the kernel declares {expected}"
    pointer = expected.startswith("p")
    if given is None:
        raise StrictViolation(
            f"{where} is None, {declared}: CuPy passes an invalid address; np.uint64(0) is the null pointer"
        )
    if isinstance(given, bool | int | float | complex) and not isinstance(given, np.generic):
        raise StrictViolation(
            f"{where} is the Python {type(given).__name__} {given}, {declared}: CuPy passes 64-bit numbers; use "
            "np.int32(...), np.float32(...)"
        )
    if isinstance(given, StrictArray):
        if not pointer:
            raise StrictViolation(f"{where} is an array, {declared}: the kernel gets its address as a number")
        _check_type(where, given.dtype, expected[1:], declared)
        return _as_memory(where, given)
    if isinstance(given, np.generic):
        if pointer and given.dtype.itemsize == 8 and given == 0:
            return None  # the host run's null pointer
        if pointer:
            raise StrictViolation(f"{where} is {given.dtype.name} {given}, {declared}: no address")
        _check_type(where, given.dtype, expected, declared)
        return given
    raise TypeError(f"Unsupported type {type(given)} [cupy] in {where}, {declared}")


def _check_type(where: str, dtype: np.dtype, expected: str, declared: str) -> None:
    given = "b2" if dtype.name == "bfloat16" else f"{'u' if dtype.kind == 'b' else dtype.kind}{dtype.itemsize}"
    if "?" not in expected and given != expected:
        raise StrictViolation(f"{where} is {dtype.name}, {declared}: CuPy copies the bytes and converts nothing")


def _as_memory(where: str, array: StrictArray) -> np.ndarray:
    """The host array as a kernel sees it: an address, and elements in the order of memory."""
    host = array._host
    if host.flags.c_contiguous:
        return host
    if policy.strided_arguments == "error":
        raise StrictViolation(
            f"{where} has shape {host.shape} and strides {host.strides}: a kernel reads memory in order; check, or "
            "pass xp.ascontiguousarray(...)"
        )
    if any(stride <= 0 and n > 1 for stride, n in zip(host.strides, host.shape, strict=True)):
        raise StrictViolation(f"{where} is broadcast or reversed: a kernel would read outside of it")
    return np.lib.stride_tricks.as_strided(host, host.shape, np.empty(host.shape, host.dtype).strides)


# ---- the device that kernels are told of


class _Device:
    """cupy.cuda.Device: one device, number 0."""

    compute_capability = "80"

    def __init__(self, device=None):
        if device not in (None, 0):
            raise RuntimeError("cudaErrorInvalidDevice: invalid device ordinal [cupy]")
        self.id = 0
        arch = int(self.compute_capability)
        self.attributes = {
            "L2CacheSize": 1 << 20,
            "ClockRate": 1_000_000,  # kHz: the CPU run's clock64() counts nanoseconds
            "MemoryClockRate": 1_000_000_000,  # kHz: faster than any host
            "GlobalMemoryBusWidth": 4096,  # bits
            "MultiProcessorCount": 4,  # few, so that splitting over keys is seen at small sizes
            "MaxSharedMemoryPerBlock": DEFAULT_SHARED,
            "MaxSharedMemoryPerBlockOptin": OPT_IN_SHARED[arch],
            "MaxThreadsPerBlock": MAX_THREADS,
            "ComputeCapabilityMajor": arch // 10,
            "ComputeCapabilityMinor": arch % 10,
            "WarpSize": 32,
        }

    def __int__(self) -> int:
        return self.id

    def __enter__(self) -> _Device:
        return self

    def __exit__(self, *_) -> None:
        pass

    def use(self) -> None:
        pass

    def synchronize(self) -> None:
        note("sync", "Device.synchronize()")


class _Event:
    """cupy.cuda.Event: the time on the host, since everything has been computed when a launch returns.

    Whether it is `done` is told as by a device that is far behind the host: only once the host has waited for it.
    """

    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self.time = self.place = None

    def record(self, stream=None) -> None:
        self.time, self.place = time.perf_counter(), len(events)

    @property
    def done(self) -> bool:
        return any(kind == "sync" for kind, _, _ in events[self.place :])

    def synchronize(self) -> None:
        note("sync", "Event.synchronize()")


def _elapsed(start: _Event, stop: _Event) -> float:
    return 1e3 * (stop.time - start.time)


class CUDARuntimeError(RuntimeError):
    """cupy.cuda.runtime.CUDARuntimeError"""


class _Limits(dict):
    """What cudaDeviceSetLimit sets, by its number; a device of compute capability 7.5 has no L2 cache that persists."""

    def get_limit(self, number: int) -> int:
        if number == 6 and int(strict.cuda.Device().compute_capability) < 80:
            raise CUDARuntimeError("cudaErrorUnsupportedLimit: limit is not supported on this architecture [cupy]")
        return self.get(number, 0)


class _Pool:
    """cupy.cuda.MemoryPool: it hands out nothing here, so that it holds nothing."""

    def free_all_blocks(self) -> None:
        pass

    def used_bytes(self) -> int:
        return 0

    total_bytes = used_bytes


def _forget() -> None:
    """Kernels that the door keeps were made by another library, or for another device."""
    launch._device_kernel.cache_clear()
    launch._device_module.cache_clear()


def _cuda(compute_capability: int) -> types.SimpleNamespace:
    """As much of cupy.cuda as launchers use."""
    device = type("Device", (_Device,), {"compute_capability": str(compute_capability), "__module__": "cupy.cuda"})
    limits = _Limits()
    runtime = types.SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        deviceGetLimit=limits.get_limit,
        deviceSetLimit=limits.__setitem__,
        getDeviceProperties=lambda device: {"name": b"stand-in"},
        driverGetVersion=lambda: 0,
        runtimeGetVersion=lambda: 0,
    )
    return types.SimpleNamespace(
        Device=device, Event=_Event, get_elapsed_time=_elapsed, runtime=runtime, set_allocator=lambda allocator: None
    )


@contextlib.contextmanager
def device_kernels(compute_capability: int = 80) -> Iterator[None]:
    """Within this block the stand-in compiles and runs kernels. What the door remembers of them is forgotten after."""
    if compute_capability not in OPT_IN_SHARED:
        raise ValueError(f"compute capability {compute_capability} is unknown; known are {sorted(OPT_IN_SHARED)}")
    _forget()
    there = {
        "RawModule": StrictModule,
        "RawKernel": StrictKernel,
        "cuda": _cuda(compute_capability),
        "get_default_memory_pool": _Pool,
    }
    before = {name: strict.__dict__.pop(name) for name in there if name in strict.__dict__}
    strict.__dict__.update(there)
    try:
        yield
    finally:
        for name in there:
            del strict.__dict__[name]
        strict.__dict__.update(before)
        _forget()
