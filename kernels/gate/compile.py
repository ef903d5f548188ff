"""Compile every kernel the way CuPy would on a GPU, and read its figures from the machine code. No GPU, no driver.

CuPy's own path compiles (what `cupy.RawModule` runs, with its options) with the architecture given instead of asked of
the device; `cuobjdump` and `nvdisasm` read the binary. The extra `kernels-ci` installs all of it. `sass` and
`control_flow` draw the figures, `rules` holds them to budget.json, `command` is the command.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import multiprocessing
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from minilm.kernels.cuda import launch
from minilm.kernels.cuda.instances import Instance
from minilm.kernels.gate import sass
from minilm.kernels.gate.control_flow import tensor_loop
from minilm.kernels.gate.occupancy import occupancy

SOURCES = Path(__file__).parents[1] / "cuda"
TOOLS = ("cuobjdump", "nvdisasm")
ELEMENT_BYTES = {"ELEMENT_F16": 2, "ELEMENT_BF16": 2, "ELEMENT_F32": 4, "ELEMENT_F64": 8}


class Figures(NamedTuple):
    """The figures of one instance, compiled for one architecture. The names are those of budget.json's limits."""

    kernel: str  # the name of the instance
    note: str
    arch: int
    error: str = ""  # of the compiler; then all else is zero
    registers: int = 0  # a thread
    stack: int = 0  # bytes per thread
    spills: int = 0  # loads and stores of local memory: spilled registers, and arrays that got no register
    shared: int = 0  # bytes per block, static and dynamic
    threads: int = 0
    blocks: int = 0  # on one multiprocessor at once
    warps: int = 0
    limited_by: str = ""
    instructions: int = 0
    wide_loads: int = 0  # 128-bit loads from global memory, asynchronous copies included
    wide_stores: int = 0  # 128-bit stores to global memory
    tensor: int = 0  # HMMA
    matrix_loads: int = 0  # LDSM
    transposed_loads: int = 0  # those of them that transpose
    async_copies: int = 0  # LDGSTS
    zero_filled_copies: int = 0  # those of them that write zeros where there is nothing to read
    atomics: int = 0
    hot_per_kfma: float = 0.0  # tensor-core kernels: instructions per 1000 multiply-adds of the hot loop
    tile_per_kfma: float = 0.0  # the same over the whole tile
    hot_mix: Mapping[str, int] | None = None  # the hot loop by the classes of sass.CLASSES, and "all"
    per_element: float = 0.0  # row kernels: instructions for each element of the row, start and end included


# --- the compiler and its tools -------------------------------------------------------------------------------------


def missing() -> str | None:
    """The packages that are missing, and what to install; None if nothing is missing."""
    absent = [] if importlib.util.find_spec("cupy") else ["cupy"]
    absent += [tool for tool in TOOLS if _tool(tool) is None]
    if not absent:
        return None
    return f'{", ".join(absent)} not found; the compile gate needs the extra: pip install "minilm[kernels-ci]"'


def _tool(name: str) -> str | None:
    """The path of a CUDA tool in the wheel that the extra installs."""
    try:
        files = importlib.metadata.files(f"nvidia-cuda-{name}") or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((str(file.locate()) for file in files if file.stem == name and file.parent.name == "bin"), None)


def compiler_version() -> str:
    """Of the compiler, which decides about registers as much as the source does."""
    import cupy
    from cupy.cuda import nvrtc

    return f"NVRTC {'.'.join(map(str, nvrtc.getVersion()))}, CuPy {cupy.__version__}"


class _Compiled(Exception):
    """Carries the binary out of CuPy before it would load it, which needs a driver."""


def compile_source(source: str, defines: Mapping[str, int | str], arch: int) -> bytes:
    """The binary (cubin) for one architecture, through CuPy's path. RuntimeError with the log if it doesn't compile."""
    from cupy._core.core import compile_with_cache
    from cupy.cuda import compiler

    original = compiler._compile_using_nvrtc_no_warning

    def compile_and_leave(*args, **kwargs):
        binary, _ = original(*args, **kwargs)
        raise _Compiled(binary + b"\0")  # CuPy cuts the last byte off, as it does for text; the tools need it

    source = "".join(f"#define {name} {value}\n" for name, value in sorted(defines.items())) + source
    changed = {
        "_compile_using_nvrtc_no_warning": compile_and_leave,
        "_get_arch_for_options_for_nvrtc": lambda arch=None: (f"-arch=sm_{arch}", "cubin"),  # it asks the device
    }
    with mock.patch.multiple(compiler, **changed), mock.patch.dict(os.environ, CUPY_CACHE_IN_MEMORY="1"):
        try:
            compile_with_cache(source, ("-std=c++17",), arch=str(arch), prepend_cupy_headers=False, backend="nvrtc")
        except _Compiled as compiled:
            return compiled.args[0]
        except compiler.CompileException as error:
            raise RuntimeError(str(error)) from None
    raise RuntimeError("CuPy compiled nothing; is its version one that the extra kernels-ci names?")


def disassemble(binary: bytes, arch: int) -> dict[str, sass.Function]:
    """The kernels of a binary."""
    cuobjdump, nvdisasm = map(_tool, TOOLS)
    path = os.pathsep.join([str(Path(nvdisasm).parent), os.environ.get("PATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(binary)
        command = [cuobjdump, "-sass", "-res-usage", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path})
    if done.returncode:
        raise RuntimeError(f"cuobjdump failed: {(done.stderr or done.stdout).strip()}")
    return sass.parse(done.stdout, arch)


# --- figures --------------------------------------------------------------------------------------------------------


def figures(instance: Instance, arch: int, function: sass.Function) -> Figures:
    """The figures of one compiled instance."""
    code, resources = function.code, function.resources
    counts = sass.mix(code)
    shared = resources.shared + instance.shared_memory
    held = occupancy(arch, resources.registers, instance.threads, shared)
    loop = tensor_loop(code, steps_of_tile(instance))
    elements = elements_of_thread(instance)
    return Figures(
        kernel=instance.name,
        note=instance.note,
        arch=arch,
        registers=resources.registers,
        stack=resources.stack,
        spills=counts["spill"],
        shared=shared,
        threads=instance.threads,
        blocks=held.blocks,
        warps=held.warps,
        limited_by=held.limit,
        instructions=len(code),
        wide_loads=sass.wide(code, "LDG") + sass.wide(code, "LDGSTS"),
        wide_stores=sass.wide(code, "STG"),
        tensor=counts["tensor"],
        matrix_loads=counts["matrix load"],
        transposed_loads=sass.transposed(code),
        async_copies=counts["asynchronous copy"],
        zero_filled_copies=sass.zero_filled(code),
        atomics=counts["atomic"],
        hot_per_kfma=round(loop.hot_per_kfma, 2) if loop else 0.0,
        tile_per_kfma=round(loop.tile_per_kfma, 2) if loop else 0.0,
        hot_mix={"all": len(loop.hot), **sass.mix(loop.hot)} if loop else None,
        per_element=round(len(code) / elements, 2) if elements else 0.0,
    )


def steps_of_tile(instance: Instance) -> int:
    """How often the hot loop, 16 columns, runs in one tile of BC columns; 1 where the launcher names no BC."""
    columns = next((int(value) for name, value in instance.defines.items() if name in ("KV_BC", "DQ_BC")), 16)
    return columns // 16


def elements_of_thread(instance: Instance) -> int:
    """Numbers of a row that a thread holds in registers (rows.cuh); 0 for any other kernel, or where rows vary."""
    defines = instance.defines
    if not defines.get("HELD") or not defines.get("EXACT"):
        return 0
    size = next((size for name, size in ELEMENT_BYTES.items() if name in defines), 4)
    return int(defines["HELD"]) * (16 // size if defines.get("WIDE") else 1)


# --- the matrix -----------------------------------------------------------------------------------------------------


class Unit(NamedTuple):
    """One run of the compiler: all entry points that share a source, defines and architecture."""

    arch: int
    instances: tuple[Instance, ...]


def units(instances: Iterable[Instance], archs: Sequence[int]) -> list[Unit]:
    """The runs that the instances need on those of `archs` that they claim."""
    together: dict[tuple, list[Instance]] = {}
    for instance in instances:
        for arch in instance.archs:
            if arch in archs:
                together.setdefault((arch, instance.file, *sorted(instance.defines.items())), []).append(instance)
    return [Unit(key[0], tuple(members)) for key, members in together.items()]


def covering(work: Sequence[Unit]) -> list[Unit]:
    """The fewest of the runs (found greedily) in which each pair of choices still occurs together, for each source: a
    head size with an architecture, an option with a type. [Cohen et al. 1997, "The AETG system"]
    """
    chosen = []
    for file in dict.fromkeys(unit.instances[0].file for unit in work):
        mine = [unit for unit in work if unit.instances[0].file == file]
        names = sorted({name for unit in mine for name in unit.instances[0].defines})
        pairs = [frozenset(itertools.combinations(_choices(unit, names), 2)) for unit in mine]
        left = set[tuple]().union(*pairs)
        while left:
            best = max(range(len(mine)), key=lambda n: len(pairs[n] & left))
            left -= pairs[best]
            chosen.append(mine[best])
    return chosen


def _choices(unit: Unit, names: Iterable[str]) -> list[tuple]:
    """The marks of a run: its architecture, its entry points, and the value of each define, if it has one."""
    defines = unit.instances[0].defines
    return [("arch", unit.arch), *(("entry", i.entry) for i in unit.instances), *((n, defines.get(n)) for n in names)]


def measure(unit: Unit) -> list[Figures]:
    """Compile one unit and read its figures; what doesn't compile says so in `error`."""
    first = unit.instances[0]
    try:
        functions = disassemble(compile_source(launch.source_of(first.file), dict(first.defines), unit.arch), unit.arch)
    except (RuntimeError, ValueError, OSError) as error:
        lines = [line for line in str(error).splitlines() if "error" in line] or str(error).splitlines()
        problem = lines[0] if lines else type(error).__name__
        return [Figures(i.name, i.note, unit.arch, error=problem) for i in unit.instances]
    return [
        figures(i, unit.arch, functions[i.entry])
        if i.entry in functions
        else Figures(i.name, i.note, unit.arch, error=f"has no entry point {i.entry!r}; it has {', '.join(functions)}")
        for i in unit.instances
    ]


def measure_all(work: Sequence[Unit], jobs: int) -> Iterator[list[Figures]]:
    """The figures of each unit, in their order and as they come, compiled by `jobs` processes."""
    if jobs == 1 or len(work) < 3:
        yield from map(measure, work)
        return
    # spawn: a process that has loaded the compiler must not be copied
    with ProcessPoolExecutor(min(jobs, len(work)), multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(measure, work, chunksize=4)
