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
import math
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

from minilm.checks import one_of, unknown, whole
from minilm.kernels.host.guards import GuardedArrays, KernelError

HEADERS = Path(__file__).parent
SANITIZERS = (None, "thread", "address,undefined")
ORDERS = ("forward", "reverse", "random")
MAX_THREADS, STACK_BYTES = 1024, 256 * 1024  # of a block, and of one fiber: as in fibers.h
STACK_CHECK = f"-Werror=frame-larger-than={STACK_BYTES // 2}"
CHECKS = "alignment,null,bounds,shift-exponent,integer-divide-by-zero,signed-integer-overflow"  # named by checks.h
MAX_SHARED = 232448  # 227 KiB: the most that a block may use on sm_90 and sm_100
SCALARS = {"int32": "i4", "int64": "i8", "uint32": "u4", "uint64": "u8", "float32": "f4", "float64": "f8"}


class CompileError(RuntimeError):
    """A source doesn't compile for the CPU; the first line names the feature and its place in the source."""


class HostOptions(NamedTuple):
    """How kernels run on the CPU."""

    order: str = "forward"  # of the threads of a block, and of the blocks
    seed: int = 0  # of the random order
    sanitizer: str | None = None  # its runtime must be preloaded: see sanitize.py
    poison: bool = True  # shared memory holds NaN before each block
    guard: bool = True  # arrays are copied between zones that nobody may touch
    last_part: int = 1  # n: of each grid only the last n-th is run, for arrays too large to be worked through


DEFAULT = HostOptions()
_options: ContextVar[HostOptions] = ContextVar("minilm_host_options", default=DEFAULT)
_one_at_a_time = threading.Lock()  # a compiled kernel holds one machine


@contextmanager
def host_options(**chosen: Any) -> Iterator[None]:
    """Within this block, kernels that are given NumPy arrays run in this way: the fields of `HostOptions` by name."""
    options = HostOptions(**chosen)
    one_of("order", options.order, ORDERS)
    if options.sanitizer not in SANITIZERS:
        raise ValueError(unknown("sanitizer", options.sanitizer, map(repr, SANITIZERS)))
    whole("last_part (1 for the whole grid, n for its last n-th)", options.last_part, at_least=1)
    token = _options.set(options)
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


@functools.cache
def poison_flags() -> tuple[str, ...]:
    """Registers that nobody has written hold a huge negative number, where the compiler can see to it."""
    flag = "-ftrivial-auto-var-init=pattern"
    command = [find_compiler(), flag, "-fsyntax-only", "-x", "c++", os.devnull]
    return (flag,) if subprocess.run(command, capture_output=True).returncode == 0 else ()


def flags(sanitizer: str | None = None) -> tuple[str, ...]:
    """How a kernel is compiled. CUDA code reads vectors of half data as it likes: no strict aliasing.

    Little is optimised: the runs are short, and compiling takes longer.
    """
    optimised = "-O0" if sanitizer == "address,undefined" else "-Og"
    common = ("-std=c++17", optimised, "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti")
    exact = ("-ffp-contract=off", "-fno-strict-aliasing", "-fno-threadsafe-statics", "-U_FORTIFY_SOURCE", STACK_CHECK)
    always = (*common, *exact, *machine_flags(), *poison_flags())
    if sanitizer is None:
        return (*always, f"-fsanitize={CHECKS}")
    return (*always, f"-fsanitize={sanitizer}", "-fno-omit-frame-pointer", "-g1")


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
    """The library that `command` makes of a translation unit, compiled or found in the cache.

    handled   the flag whose calls the unit's own headers handle, so that the runtime library for it isn't linked
    """
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
        ("last_blocks", ctypes.c_uint64),
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
            -(-math.prod(grid) // options.last_part),
            ctypes.addressof(_stacks()) + STACK_BYTES,
        )
        arrays = GuardedArrays(options.guard, self._guard)
        values = [self._value(i, a, arrays) for i, a in enumerate(args)]
        pointers = (ctypes.c_void_p * len(values))(*(v.ctypes.data for v in values))
        with _one_at_a_time:
            arrays.mark(1)
            message = self._launch(ctypes.byref(config), pointers)
            arrays.mark(0)
        if message:
            raise KernelError(f"{self.name}: {message.decode()}")
        arrays.check()

    def _value(self, number: int, argument: Any, arrays: GuardedArrays) -> np.ndarray:
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
