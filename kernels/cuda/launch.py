"""The one door to the kernels: compile a source of this folder for the library of the arrays, and launch it.

    k = kernel("softmax.cu", "softmax_forward", {"ELEMENT_F32": 1}, like=x)
    k((rows,), (128,), (x, y, np.int32(columns), np.float32(scale)), shared_mem=0)

NumPy arrays run on the CPU (`minilm.kernels.host`), CuPy arrays on the GPU: both from the same text, in which the
#defines stand first and every `#include "x.cuh"` of this folder is replaced by the file.

Arguments are arrays, NumPy scalars of the very type that the kernel declares, or None for a null pointer. A Python
number is refused: CuPy would pass a float as a double, in silence.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minilm.backend import Array, array_namespace
from minilm.kernels.host.builder import SCALARS, build, current_options

FOLDER = Path(__file__).parent
MAX_GRID = (2**31 - 1, 65535, 65535)
PLAIN_SHARED = 48 * 1024  # bytes of dynamic shared memory that need no permission

Kernel = Callable[..., None]


def kernel(file: str | Path, name: str, defines: Mapping[str, int | str], like: Array) -> Kernel:
    """The entry point `name` of `file` (in this folder, or a path), compiled for the library that `like` belongs to.

    Call it with grid, block and arguments, and the bytes of dynamic shared memory: k(grid, block, args, shared_mem=0).
    """
    options = tuple(sorted((key, str(value)) for key, value in defines.items()))
    if array_namespace(like) is np:
        return _host_kernel(str(file), name, options, current_options().sanitizer)
    return _device_kernel(str(file), name, options)


def check_grid(grid: tuple[int, ...]) -> tuple[int, ...]:
    """The grid, if CUDA can launch it; else ValueError."""
    if any(size > most for size, most in zip(grid, MAX_GRID, strict=False)):
        raise ValueError(f"a grid of {grid} blocks is needed, and CUDA launches at most {MAX_GRID}; split the batch")
    return grid


@functools.cache
def source_of(file: str) -> str:
    """The text of a source file, its includes of this folder expanded; #line keeps the compilers' messages right."""
    return _expand(FOLDER / file, set())


def _expand(path: Path, included: set[str]) -> str:
    lines = [f'#line 1 "{path.name}"']
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        included_file = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
        if included_file and (FOLDER / included_file[1]).exists():
            if included_file[1] not in included:
                included.add(included_file[1])
                lines.append(_expand(FOLDER / included_file[1], included))
            lines.append(f'#line {number + 1} "{path.name}"')
        elif re.match(r"\s*#\s*pragma\s+once", line):
            lines.append("")  # each file is included once as it is
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _with_defines(file: str, options: tuple[tuple[str, str], ...]) -> str:
    return "".join(f"#define {key} {value}\n" for key, value in options) + source_of(file)


@functools.cache
def _host_kernel(file: str, name: str, options: tuple[tuple[str, str], ...], sanitizer: str | None) -> Kernel:
    compiled = build(_with_defines(file, options), name, sanitizer)

    def launch(grid: tuple[int, ...], block: tuple[int, ...], args: tuple, *, shared_mem: int = 0) -> None:
        compiled(check_grid(grid), block, _checked(name, args, np), shared_mem=shared_mem)

    return launch


@functools.cache
def _device_module(file: str, options: tuple[tuple[str, str], ...]) -> Any:
    source = _with_defines(file, options)
    return sys.modules["cupy"].RawModule(code=source, options=("-std=c++17",), backend="nvrtc")


@functools.cache
def _device_kernel(file: str, name: str, options: tuple[tuple[str, str], ...]) -> Kernel:
    cupy = sys.modules["cupy"]
    function = _device_module(file, options).get_function(name)

    def launch(grid: tuple[int, ...], block: tuple[int, ...], args: tuple, *, shared_mem: int = 0) -> None:
        args = _checked(name, check_grid(grid) and args, cupy)
        _check_device(name, args, int(cupy.cuda.Device()))
        if shared_mem > PLAIN_SHARED and shared_mem > function.max_dynamic_shared_size_bytes:
            function.max_dynamic_shared_size_bytes = shared_mem
        null = np.uint64(0)
        function(grid, block, tuple(null if a is None else a for a in args), shared_mem=shared_mem)

    return launch


def _check_device(name: str, args: tuple, current: int) -> None:
    """Raise ValueError for an array on another GPU than the one that the kernel would be launched on."""
    for number, argument in enumerate(args, 1):
        where = getattr(getattr(argument, "device", None), "id", current)
        if where != current:
            raise ValueError(
                f"{name}, argument {number}: the array lies on device {where}, but device {current} is current; "
                f"call inside `with cupy.cuda.Device({where}):`, or move the array"
            )


def _checked(name: str, args: tuple, xp: Any) -> tuple:
    """The arguments, if a kernel can take them as they are; else TypeError or ValueError."""
    for number, argument in enumerate(args, 1):
        if argument is None or (isinstance(argument, np.generic) and argument.dtype.name in SCALARS):
            continue
        if not isinstance(argument, xp.ndarray):
            raise TypeError(
                f"{name}, argument {number}: got {type(argument).__name__}, expected a {xp.__name__} array, None, or a "
                f"NumPy scalar of the type that the kernel declares ({', '.join(SCALARS)})"
            )
        if not argument.flags.c_contiguous:
            raise ValueError(
                f"{name}, argument {number}: the array is not C-contiguous, and a kernel ignores strides; "
                f"make a copy with {xp.__name__}.ascontiguousarray(array)"
            )
    return args
