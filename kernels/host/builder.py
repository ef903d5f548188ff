"""Compile a CUDA source for the CPU and call its kernels on NumPy arrays, as a CuPy RawKernel on device arrays.

    compiled = build(text, "softmax_forward")
    compiled((blocks,), (threads,), (x, y, np.int32(n)), shared_mem=1024)

The source stays as it is, but for `extern __shared__` (see cuda_cpu.h). A C++ compiler is all that is needed: $CXX, g++
or clang++. What it makes is kept in a cache, by the hash of everything that goes into it: $MINILM_CACHE, or
$XDG_CACHE_HOME/minilm, or ~/.cache/minilm.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import mmap
import os
import platform
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HEADERS = Path(__file__).parent
SANITIZERS = (None, "thread", "address,undefined")
ORDERS = ("forward", "reverse", "random")
GUARD_BYTES = 1024  # before and behind every array
GUARD_PATTERN = 0xA5
ALIGNMENT = 16  # of a NumPy array's first byte, and kept by the guarded copy: misalignment must show
MAX_THREADS, STACK_BYTES = 1024, 256 * 1024  # of a block, and of one fiber: as in fibers.h
STACK_CHECK = f"-Werror=frame-larger-than={STACK_BYTES // 2}"
CHECKS = "alignment,null,bounds,shift-exponent,integer-divide-by-zero"  # cheap; checks.h says what they find
MAX_SHARED = 232448  # 227 KiB: the most that a block may use on sm_90 and sm_100
SCALARS = {"int32": "i4", "int64": "i8", "uint32": "u4", "uint64": "u8", "float32": "f4", "float64": "f8"}


class KernelError(RuntimeError):
    """A kernel did on the CPU what is undefined on a GPU: the message says what, and where in the source."""


class CompileError(RuntimeError):
    """A source doesn't compile for the CPU; the first line names the feature and its place in the source."""


class HostOptions(NamedTuple):
    """How kernels run on the CPU."""

    order: str = "forward"  # of the threads of a block, and of the blocks
    seed: int = 0  # of the random order
    sanitizer: str | None = None  # its runtime must be preloaded: see sanitize.py
    poison: bool = True  # shared memory holds NaN before each block
    guard: bool = True  # arrays are copied between zones that nobody may touch


DEFAULT = HostOptions()
_options: ContextVar[HostOptions] = ContextVar("minilm_host_options", default=DEFAULT)
_one_at_a_time = threading.Lock()  # a compiled kernel holds one machine


@contextmanager
def host_options(
    order: str = "forward",
    seed: int = 0,
    sanitizer: str | None = None,
    poison: bool = True,
    guard: bool = True,
) -> Iterator[None]:
    """Within this block, kernels that are given NumPy arrays run in this way."""
    if order not in ORDERS:
        raise ValueError(f"order {order!r} is unknown; choose {', '.join(ORDERS)}")
    if sanitizer not in SANITIZERS:
        raise ValueError(f"sanitizer {sanitizer!r} is unknown; choose None, 'thread' or 'address,undefined'")
    token = _options.set(HostOptions(order, seed, sanitizer, poison, guard))
    try:
        yield
    finally:
        _options.reset(token)


def current_options() -> HostOptions:
    return _options.get()


# ---- compiling -------------------------------------------------------------------------------------------------------


@functools.cache
def find_compiler() -> str | None:
    """The C++ compiler: $CXX, g++ or clang++, whichever is there first."""
    candidates = [os.environ.get("CXX"), "g++", "clang++"]
    return next((path for path in (shutil.which(c) for c in candidates if c) if path), None)


def compiler_problem() -> str | None:
    """Why kernels can't run on the CPU here; None if they can."""
    if find_compiler() is None:
        return "no C++ compiler was found ($CXX, g++, clang++)"
    if platform.system() != "Linux":
        return f"kernels run on the CPU under Linux, not under {platform.system()}"
    return None


def cache_directory() -> Path:
    chosen = os.environ.get("MINILM_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minilm"


@functools.cache
def machine_flags() -> tuple[str, ...]:
    """Instructions that this CPU has and half arithmetic gains from. They are part of the cache's key."""
    try:
        words = set(re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)[1].split())
    except (OSError, TypeError):
        return ()
    return tuple(f"-m{name}" for name in ("f16c", "fma", "avx2") if name in words)


@functools.cache
def _compiler_version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


@functools.cache
def _headers() -> bytes:
    return b"".join(path.read_bytes() for path in sorted(HEADERS.glob("*.h")))


def flags(sanitizer: str | None = None) -> tuple[str, ...]:
    """How a kernel is compiled. CUDA code reads vectors of half data as it likes: no strict aliasing."""
    common = ("-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti")
    exact = ("-ffp-contract=off", "-fno-strict-aliasing", "-fno-threadsafe-statics", "-U_FORTIFY_SOURCE", STACK_CHECK)
    if sanitizer is None:
        return (*common, *exact, *machine_flags(), f"-fsanitize={CHECKS}")
    return (*common, *exact, *machine_flags(), f"-fsanitize={sanitizer}", "-fno-omit-frame-pointer", "-g1")


def translate(source: str, name: str) -> str:
    """The C++ translation unit that a CUDA source becomes."""
    rewritten = re.sub(
        r"extern\s+__shared__\s+(?:__align__\(\d+\)\s*|alignas\(\d+\)\s*)?([\w:]+(?:\s+[\w:]+)?)\s+(\w+)\s*\[\s*\]\s*;",
        r"CUDA_CPU_DYNAMIC_SHARED(\1, \2);",
        source,
    )
    return f"#include <cuda_cpu.h>\nnamespace {{\n{rewritten}\n}}\n#undef asm\nCUDA_CPU_EXPORT({name})\n"


def build(source: str, name: str, sanitizer: str | None = None) -> CompiledKernel:
    """The kernel `name` of `source` (with its #defines and #line directives), compiled or found in the cache."""
    problem = compiler_problem()
    if problem:
        raise CompileError(problem)
    return CompiledKernel(library_of(translate(source, name), name, [find_compiler(), *flags(sanitizer)]), name)


def library_of(unit: str, name: str, command: Sequence[str], handled: str = f"-fsanitize={CHECKS}") -> Path:
    """What `command` makes of a translation unit, compiled or found in the cache. handled: the flag whose calls the
    unit's own headers handle, so that the runtime library for it isn't linked."""
    key = "\0".join([unit, *command, _compiler_version(command[0]), platform.machine()]).encode() + _headers()
    library = cache_directory() / "host" / f"{name}-{hashlib.sha256(key).hexdigest()[:24]}.so"
    if not library.exists():
        _compile(unit, name, command, library, handled)
    return library


def _compile(unit: str, name: str, command: Sequence[str], library: Path, handled: str) -> None:
    library.parent.mkdir(parents=True, exist_ok=True)
    # Built beside its place and renamed: another process finds the whole file, or none.
    with tempfile.TemporaryDirectory(dir=library.parent, prefix="building-") as scratch:
        compiled, built = Path(scratch) / "kernel.o", Path(scratch) / "kernel.so"
        environment = {**{k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}, "LC_ALL": "C"}
        compiling = [*command, "-c", f"-I{HEADERS}", "-x", "c++", "-", "-o", str(compiled)]
        result = subprocess.run(compiling, input=unit, text=True, capture_output=True, env=environment)
        if result.returncode:
            raise CompileError(explain(result.stderr, name))
        # The compiler's checks are handled in checks.h: their runtime library isn't linked, unlike a sanitizer's.
        linking = [*(flag for flag in command if flag != handled), "-shared", str(compiled)]
        subprocess.run([*linking, "-o", str(built)], check=True, env=environment)
        os.replace(built, library)


# Of the compilers' messages, those that mean a feature of CUDA that cuda_cpu.h doesn't have.
UNSUPPORTED = (
    r"CUDA_CPU_HAS_NO_(\w+)",
    r"(\S+\.\w+): No such file",
    r"'(\S+\.\w+)' file not found",
    r"'([\w:]+)'.* (?:was not declared|does not name a type|has not been declared)",
    r"(?:unknown type name|undeclared identifier) '([\w:]+)'",
)
UNINITIALISED = ("uninitialized 'const", "default initialization of an object of const type")
LED_THERE = r"^([^\s:][^:\n]*):(\d+):\d+:\s+(?:note: in expansion of macro|required from here)"


def explain(messages: str, name: str) -> str:
    """The compiler's first error in one line, in terms of CUDA; its own words follow."""
    found = re.search(r"^([^\s:][^:\n]*):(\d+)(?::\d+)?: (?:fatal )?error: (.*)$", messages, re.MULTILINE)
    if not found:
        return f"kernel {name} doesn't compile for the CPU\n{messages}"
    file, line, text = found.groups()
    if file.startswith(str(HEADERS)):
        led = re.search(LED_THERE, messages, re.MULTILINE)  # the line of the kernel, not of our header
        file, line = led.groups() if led else (Path(file).name, line)
    features = [match[1] for match in (re.search(pattern, text) for pattern in UNSUPPORTED) if match]
    if any(words in text for words in UNINITIALISED):
        features = ["__constant__ memory that the host writes"]
    if features:
        feature = f"<{features[0]}>" if "." in features[0] else features[0].replace("inline_PTX", "inline PTX")
        text = f"{feature} isn't supported in a CPU run"
    return f"{file}:{line}: {text} (kernel {name})\n\n{messages}"


# ---- calling ---------------------------------------------------------------------------------------------------------


class _Config(ctypes.Structure):  # the twin of cuda_cpu::Config
    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint64),
        ("order", ctypes.c_int),
        ("poison", ctypes.c_int),
        ("seed", ctypes.c_uint64),
        ("stacks", ctypes.c_void_p),
    )


@functools.cache
def _stacks() -> ctypes.Array:
    """Address space for the fibers' stacks, and one more below for overruns; only what they touch becomes memory."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    memory = mmap.mmap(-1, (MAX_THREADS + 1) * STACK_BYTES, flags=flags)
    return (ctypes.c_char * len(memory)).from_buffer(memory)


class CompiledKernel:
    """One kernel, callable on NumPy arrays."""

    def __init__(self, library: Path, name: str):
        self.name = name
        loaded = ctypes.CDLL(str(library))
        self._launch, self._guard = loaded.cuda_cpu_launch, loaded.cuda_cpu_guard
        self._launch.restype = ctypes.c_char_p
        self._guard.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        loaded.cuda_cpu_signature.restype = ctypes.c_char_p
        self.signature = tuple(loaded.cuda_cpu_signature().decode().split())

    def __call__(self, grid: tuple, block: tuple, args: tuple, *, shared_mem: int = 0) -> None:
        options = current_options()
        grid, block = (*grid, 1, 1)[:3], (*block, 1, 1)[:3]
        if min(grid) < 1 or min(block) < 1 or np.prod(block) > 1024 or block[2] > 64:
            raise ValueError(
                f"{self.name}: grid {grid}, block {block}: a block has 1 to 1024 threads, a grid no size 0"
            )
        if not 0 <= shared_mem <= MAX_SHARED:
            raise ValueError(f"{self.name}: {shared_mem} bytes of shared memory; a block has at most {MAX_SHARED}")
        if len(args) != len(self.signature):
            raise TypeError(f"{self.name} takes {len(self.signature)} arguments, got {len(args)}")
        config = _Config(
            (ctypes.c_uint * 3)(*grid),
            (ctypes.c_uint * 3)(*block),
            shared_mem,
            ORDERS.index(options.order),
            options.poison,
            options.seed,
            ctypes.addressof(_stacks()) + STACK_BYTES,
        )
        arrays = _Arrays(self, options.guard)
        values = [self._value(i, a, arrays) for i, a in enumerate(args)]
        pointers = (ctypes.c_void_p * len(values))(*(v.ctypes.data for v in values))
        with _one_at_a_time:
            arrays.enter()
            message = self._launch(ctypes.byref(config), pointers)
            arrays.leave()
        if message:
            raise KernelError(f"{self.name}: {message.decode()}")
        arrays.check()

    def _value(self, number: int, argument: Any, arrays: _Arrays) -> np.ndarray:
        """The argument's bits as the kernel reads them: a scalar, or an address."""
        expected = self.signature[number]
        where = f"{self.name}, argument {number + 1}"
        if isinstance(argument, np.ndarray):
            if not expected.startswith("p"):
                raise TypeError(f"{where}: got an array, the kernel takes a scalar ({expected})")
            given = _element(argument.dtype)
            if "?" not in expected and given != expected[1:] and given is not None:
                raise TypeError(f"{where}: got an array of {argument.dtype}, the kernel reads {expected[1:]}")
            return np.array([arrays.address(argument, where)], np.uint64)
        if argument is None:
            if not expected.startswith("p"):
                raise TypeError(f"{where}: got None, the kernel takes a scalar ({expected})")
            return np.zeros(1, np.uint64)
        if expected != SCALARS[argument.dtype.name]:
            raise TypeError(f"{where}: got a {argument.dtype.name}, the kernel takes {expected}")
        return np.array([argument])


def _element(dtype: np.dtype) -> str | None:
    """An array's element in the words of `signature`."""
    if dtype.name == "bfloat16":
        return "b2"
    kind = "u" if dtype.kind == "b" else dtype.kind
    return f"{kind}{dtype.itemsize}" if kind in "fiu" else None


class _Arrays:
    """The arrays of one launch, copied between guard zones and back."""

    def __init__(self, kernel: CompiledKernel, guarded: bool):
        self.kernel, self.guarded = kernel, guarded
        self.copies: dict[tuple[int, int], tuple[np.ndarray, np.ndarray, int, str]] = {}

    def address(self, array: np.ndarray, where: str) -> int:
        start, size = array.ctypes.data, array.nbytes
        for (other, length), (first, _, _, named) in self.copies.items():
            if (other, length) == (start, size):
                break
            if other < start + size and start < other + length and first.size and size:
                raise ValueError(f"{where} overlaps the array of {named}")
        else:
            self.copies[start, size] = (array, *self._copy(array), where)
        _, buffer, offset, _ = self.copies[start, size]
        return buffer.ctypes.data + offset if self.guarded else start

    def _copy(self, array: np.ndarray) -> tuple[np.ndarray, int]:
        if not self.guarded:
            return np.empty(0, np.uint8), 0
        buffer = np.full(array.nbytes + 2 * GUARD_BYTES + 2 * ALIGNMENT, GUARD_PATTERN, np.uint8)
        offset = GUARD_BYTES + (array.ctypes.data - buffer.ctypes.data - GUARD_BYTES) % ALIGNMENT
        buffer[offset : offset + array.nbytes] = array.reshape(-1).view(np.uint8)
        return buffer, offset

    def _zones(self) -> Iterator[tuple[np.ndarray, int]]:
        """Each zone, and its first byte's distance from the array's first."""
        for array, buffer, offset, _ in self.copies.values():
            if self.guarded:
                yield buffer[:offset], -offset
                yield buffer[offset + array.nbytes :], array.nbytes

    def enter(self) -> None:
        for zone, _ in self._zones():
            self.kernel._guard(zone.ctypes.data, zone.nbytes, 1)

    def leave(self) -> None:
        for zone, _ in self._zones():
            self.kernel._guard(zone.ctypes.data, zone.nbytes, 0)

    def check(self) -> None:
        """Copy the results back. KernelError if the kernel wrote where it has no business."""
        if not self.guarded:
            return
        for array, buffer, offset, where in self.copies.values():
            for zone, start in ((buffer[:offset], -offset), (buffer[offset + array.nbytes :], array.nbytes)):
                touched = np.flatnonzero(zone != GUARD_PATTERN)
                if touched.size:
                    at = start + int(touched[0 if start >= 0 else -1])
                    raise KernelError(
                        f"{where}: out of bounds: the kernel writes at byte {at} of an array of {array.nbytes} bytes "
                        f"(element {at // array.itemsize} of {array.size})"
                    )
            result = buffer[offset : offset + array.nbytes].view(array.dtype).reshape(array.shape)
            if array.flags.writeable:
                array[...] = result
            elif array.tobytes() != result.tobytes():
                raise KernelError(f"{where}: the kernel writes to an array that is read-only")
