"""The array library of an array, the device that is meant, and generators of random numbers.

The one module that knows CuPy exists. Everything else in `minilm/` is written once, for NumPy and CuPy arrays alike,
and asks here for the library of the arrays it was given:

    xp = array_namespace(x, weight)

CuPy is imported only when a device array or `--device cuda` asks for it, never at import time.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or cupy.ndarray: the two share no base class

DTYPES = ("float32", "float64")
REAL = {np.dtype(name) for name in DTYPES}


def _library(array: Array) -> str:
    """ "numpy" or "cupy", by type: cupy.ndarray has no `__array_namespace__`."""
    if isinstance(array, np.ndarray | np.generic):
        return "numpy"
    library = type(array).__module__.partition(".")[0]
    if library == "cupy":
        return "cupy"
    raise TypeError(
        f"expected a NumPy or CuPy array, got {type(array).__module__}.{type(array).__qualname__}; "
        "convert it first, e.g. with numpy.asarray(...)"
    )


def array_namespace(*arrays: Array | None) -> ModuleType:
    """The library (the module numpy or cupy) that all `arrays` belong to. `None` entries are passed over.

    Raises TypeError where NumPy and CuPy arrays meet in one call: nothing is moved between devices silently.
    """
    libraries = [None if a is None else _library(a) for a in arrays]
    present = [name for name in libraries if name is not None]
    if not present:
        raise TypeError("expected at least one array, got none")
    if "numpy" in present and "cupy" in present:
        odd = libraries.index("numpy")
        raise TypeError(
            f"NumPy and CuPy arrays are mixed in one call: array argument {odd + 1} is a numpy.ndarray, others are "
            "on the GPU; move it with cupy.asarray(array), or move the others with cupy.asnumpy(array)"
        )
    return sys.modules[present[0]]


def floating_namespace(*arrays: Array | None) -> ModuleType:
    """Like `array_namespace`, for arrays that gradients flow through: they must share one floating precision.

    float32 with float64 raises TypeError, so that nothing turns into float64 by accident; float64 with complex128 is
    legal: the complex-step gradient check runs on it.
    """
    xp = array_namespace(*arrays)
    if len(dtypes := {array.dtype for array in arrays if array is not None}) == 1 and dtypes <= REAL:
        return xp  # nearly every call: names of dtypes are slow to come by
    precisions = {}
    for number, array in enumerate(arrays, 1):
        if array is None:
            continue
        if array.dtype.kind not in "fc":
            raise TypeError(
                f"array argument {number} has dtype {array.dtype}, expected a floating dtype; "
                "convert it with array.astype('float32')"
            )
        precisions[array.real.dtype.name] = number
    if len(precisions) > 1:
        mixed = " and ".join(f"{name} (argument {number})" for name, number in precisions.items())
        raise TypeError(f"arrays of different precision in one call: {mixed}; convert with array.astype(...)")
    return xp


def asarray_like(host: np.ndarray, like: Array) -> Array:
    """`host` as an array of the library that `like` belongs to: a copy to the device where that is CuPy."""
    xp = array_namespace(like)
    return host if xp is np else xp.asarray(host)


def to_numpy(array: Array) -> np.ndarray:
    """`array` on the host; a NumPy array is returned as it is. On a GPU this waits for the device."""
    return np.asarray(array) if _library(array) == "numpy" else array.get()


def resolve_device(device: str = "auto") -> ModuleType:
    """The array library that `--device auto|cpu|cuda` means: numpy, or cupy with a working GPU.

    "auto" is cupy where it is installed and sees a device, else numpy. "cuda" raises ValueError where that fails.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device {device!r} is unknown; choose auto, cpu or cuda")
    if device == "cpu":
        return np
    try:
        cupy = importlib.import_module("cupy")
        if cupy.is_available():
            return cupy
        problem = "CuPy is installed but sees no CUDA device"
    except ImportError:
        problem = "CuPy is not installed"
    if device == "auto":
        return np
    raise ValueError(
        f"device cuda: {problem}; install minilm[cuda12] or minilm[cuda13] on a machine with an NVIDIA GPU, "
        "or use --device cpu"
    )


def generator(*seed: int | str) -> np.random.Generator:
    """A random generator from integers and names, the same on every machine: `generator(seed, "WIND", step)`.

    The name keeps one use of a seed apart from every other; it counts as the integer that its UTF-8 bytes spell.
    Deriving a generator from (seed, name, step) instead of carrying one along is what makes a resumed run identical.
    """
    return np.random.default_rng(
        [int.from_bytes(part.encode(), "big") if isinstance(part, str) else part for part in seed]
    )


def uniform(rng: Any, shape: tuple[int, ...], like: Array) -> Array:
    """float32 numbers in [0, 1) in the library of `like`. A NumPy generator's draw is uploaded where that is CuPy."""
    xp = array_namespace(like)
    drawn = rng.random(shape, dtype=np.float32)
    return drawn if xp is np or not isinstance(drawn, np.ndarray) else xp.asarray(drawn)
