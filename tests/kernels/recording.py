"""Conflicts in the banks of shared memory, counted from the addresses that the kernels' own source computes.

    with recorded() as launches:
        attention(q, k, v)
    places(launches)

Shared memory has 32 banks of 4 bytes; a wavefront serves one word of each. The lanes of a warp are served in phases:
all 32 at once for accesses of up to 4 bytes, 16 for 8 bytes, 8 for 16 bytes and for each matrix of ldmatrix. A phase
takes as many wavefronts as there are different words in its busiest bank: 1 without a conflict.
[NVIDIA, "CUDA C++ Programming Guide", shared memory; the phases of wide accesses are known from measurements]

The kernels run on the CPU, compiled so that every access is announced (recorded.h). Accesses of a warp belong together
that come from one place in the code, the n-th time each lane is there: so the sizes of a call have to be such that no
lane skips a turn.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minilm.kernels.cuda import launch
from minilm.kernels.host import builder

HEADER = Path(__file__).with_name("recorded.h")
KINDS = ("read", "write", "ldmatrix", "cp.async")  # AccessKind of recorded.h
ACCESS = np.dtype([("site", "u8"), ("address", "u4"), ("thread", "i4"), ("bytes", "i4"), ("kind", "i4")])
# Behind ptx.cuh: its functions as they are, with a record of the address. A macro is not replaced within itself.
INSTRUCTIONS = """\
#define RECORDED(kind, address) cuda_cpu::Twin(address, cuda_cpu::kind)
#define load_matrix_x4(to, address) (RECORDED(MATRIX_LOAD, address), load_matrix_x4(to, address))
#define load_matrix_x4_trans(to, address) (RECORDED(MATRIX_LOAD, address), load_matrix_x4_trans(to, address))
#define load_matrix_x2(to, address) (RECORDED(MATRIX_LOAD, address), load_matrix_x2(to, address))
#define copy_async_16(to, ...) (RECORDED(ASYNC_COPY, to), copy_async_16(to, __VA_ARGS__))
#define wait_copies cuda_cpu::Twin(), wait_copies
"""
BANKS = 32
MAX_THREADS = builder.MAX_THREADS


class Place(NamedTuple):
    """One place in a kernel's code that uses shared memory."""

    kernel: str  # file:entry
    kind: str  # of KINDS
    bytes: int  # of one lane
    wavefronts: int  # of its worst phase: the conflict degree
    library: Path
    site: int

    @property
    def line(self) -> str:
        """file:line in the source, where binutils are installed."""
        tool = shutil.which("addr2line")
        if tool is None:
            return "a line that addr2line would know"
        command = [tool, "-e", str(self.library), hex(self.site - 1)]  # what is known is where the access returns to
        return Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]).name


def problem() -> str | None:
    """Why nothing can be recorded here; None if it can."""
    missing = builder.compiler_problem()
    if missing is None and "clang" in builder._compiler_version(builder.find_compiler()):
        return "accesses are recorded with g++ alone: clang would take the run for one under ThreadSanitizer"
    return missing


# ---- recording -------------------------------------------------------------------------------------------------------


class Recorder(builder.CompiledKernel):
    """A compiled kernel that keeps what it did to shared memory."""

    def __init__(self, library: Path, file: str, name: str, launches: list):
        super().__init__(library, name)
        self.library, self.launches, self.kernel = library, launches, f"{file}:{name}"
        self.take = ctypes.CDLL(str(library)).cuda_cpu_accesses
        self.take.restype = ctypes.c_void_p

    def __call__(self, *args, **options) -> None:
        super().__call__(*args, **options)
        count = ctypes.c_size_t()
        first = self.take(ctypes.byref(count))
        if count.value:
            memory = (ctypes.c_char * (count.value * ACCESS.itemsize)).from_address(first)
            self.launches.append((self, np.frombuffer(memory, ACCESS).copy()))


def _build(source: str, name: str, launches: list) -> Recorder:
    file = re.search(r'#line 1 "([^"]+)"', source)[1]
    source = re.sub(r'(?s)(?<=#line 1 "ptx\.cuh"\n).*?\n(?=#line )', lambda text: text[0] + INSTRUCTIONS, source)
    # The header's text is part of the unit: the cache must know it.
    header = HEADER.read_text(encoding="utf-8")
    unit = builder.translate(source, name).replace("<cuda_cpu.h>", f"<cuda_cpu.h>\n{header}", 1)
    plain = [flag for flag in builder.flags() if not flag.startswith(("-O", "-fsanitize"))]
    # Not optimised: a struct of 16 bytes stays one access.
    command = [builder.find_compiler(), *plain, "-O0", "-g1", "-fsanitize=thread", "-U__SANITIZE_THREAD__"]
    library = builder.library_of(unit, name, command, handled="-fsanitize=thread")
    return Recorder(library, file, name, launches)


@contextmanager
def recorded() -> Iterator[list[tuple[Recorder, np.ndarray]]]:
    """Within this block, kernels that are given NumPy arrays are recorded: (kernel, its accesses) of each launch."""
    launches: list[tuple[Recorder, np.ndarray]] = []
    original = launch.build
    launch.build = lambda source, name, sanitizer=None: _build(source, name, launches)
    launch._host_kernel.cache_clear()
    try:
        yield launches
    finally:
        launch.build = original
        launch._host_kernel.cache_clear()


# ---- counting --------------------------------------------------------------------------------------------------------


def _turns(place: np.ndarray, thread: np.ndarray) -> np.ndarray:
    """For each access, how often its thread was at its place before."""
    key = place * MAX_THREADS + thread
    order = np.argsort(key, kind="stable")
    _, first, count = np.unique(key[order], return_index=True, return_counts=True)
    turns = np.empty(len(key), np.int64)
    turns[order] = np.arange(len(key)) - np.repeat(first, count)
    return turns


def wavefronts(accesses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(first, count): for each phase the index of one of its accesses, and how many wavefronts it takes."""
    lanes = np.where(accesses["bytes"] == 16, 8, np.where(accesses["bytes"] == 8, 16, 32))
    _, place = np.unique(accesses[["site", "kind", "bytes"]], return_inverse=True)
    turns = _turns(place.reshape(-1), accesses["thread"])
    phase = (place.reshape(-1) * (turns.max(initial=0) + 1) + turns) * MAX_THREADS + accesses["thread"] // lanes
    _, first, phase = np.unique(phase, return_index=True, return_inverse=True)
    words = np.maximum(accesses["bytes"] // 4, 1)
    which = np.repeat(np.arange(len(accesses)), words)
    word = accesses["address"][which] // 4 + np.arange(len(which)) - np.repeat(np.cumsum(words) - words, words)
    different = np.unique(phase.reshape(-1)[which] << 32 | word)
    banks, in_bank = np.unique((different >> 32) * BANKS + different % BANKS, return_counts=True)
    most = np.zeros(len(first), np.int64)
    np.maximum.at(most, banks // BANKS, in_bank)
    return first, most


def places(launches: Sequence[tuple[Recorder, np.ndarray]]) -> list[Place]:
    """Every place in a kernel that used shared memory."""
    found = []
    for kernel, accesses in launches:
        first, most = wavefronts(accesses)
        keys, which = np.unique(accesses[["kind", "bytes", "site"]][first], return_inverse=True)
        for number, (kind, size, site) in enumerate(keys):
            degree = most[which.reshape(-1) == number].max()
            found.append(Place(kernel.kernel, KINDS[kind], int(size), int(degree), kernel.library, int(site)))
    return found
