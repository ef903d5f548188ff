"""The modules of CuPy, with the names that it has: `strict` is `cupy`, with linalg, fft, random and testing in it."""

from __future__ import annotations

import types

import numpy as np

from tests.strict_cupy.array import StrictArray, unwrap, unwrap_keywords, wrap
from tests.strict_cupy.calls import bind, call, check_promotion
from tests.strict_cupy.rules import API, TOP
from tests.strict_cupy.ufuncs import StrictUfunc

HINTS = {
    "vecdot": "use (a * b).sum(-1) or einsum",
    "errstate": "guard the call in the NumPy branch only; CuPy never warns",
    "block": "use concatenate",
    "insert": "use concatenate",
    "unstack": "index along the axis",
    "geomspace": "use exp(linspace(log a, log b))",
    "normal": "use loc + scale * rng.standard_normal(...)",
    "permutation": "draw on the host with NumPy and upload",
    "choice": "draw on the host with NumPy and upload",
    "shuffle": "draw on the host with NumPy and upload",
}


def missing(owner: str, name: str, numpy_has_it: bool) -> AttributeError:
    extra = "NumPy has it; CuPy does not" if numpy_has_it else "neither has it"
    hint = f"; {HINTS[name]}" if name in HINTS else ""
    return AttributeError(f"{owner} has no attribute {name!r} [cupy] ({extra}{hint})")


COMPILING = ("RawModule", "RawKernel")  # there inside device_kernels() alone


class Namespace(types.ModuleType):
    """A module of CuPy: the names in its frozen table, each made at first use."""

    def __init__(self, name: str, table: dict, numpy_module):
        super().__init__(name)
        self.__dict__.update(_table=table, _numpy=numpy_module)

    def __dir__(self):
        return sorted(self._table)

    def __getattr__(self, name):
        if name.startswith("__") or name not in self._table:
            raise missing(f"module {self.__name__!r}", name, hasattr(self._numpy, name))
        if name in COMPILING:
            raise AttributeError(f"the stand-in has no {name} outside of device_kernels(): it compiles nothing")
        entry = self._table[name]
        function = getattr(self._numpy, name, None)
        if "ufunc" in entry:
            made = StrictUfunc(name)
        elif "same" in entry or "const" in entry:
            made = function
        elif function is None:
            raise NotImplementedError(
                f"{self.__name__}.{name} exists in CuPy, but the stand-in has no NumPy counterpart"
            )
        else:

            def made(*args, **keywords):
                return call(f"{self.__name__}.{name}", entry.get("params"), function, args, keywords)

            made.__name__ = name
        self.__dict__[name] = made
        return made


def _matmul(
    *args, out=None, axes=None, axis=None, keepdims=False, casting="same_kind", dtype=None, signature=None, order="K"
):
    operands = [unwrap(given, "cupy.matmul") for given in args]
    if any(np.ndim(operand) == 0 for operand in operands):
        raise ValueError("matmul: scalar operands are not allowed [cupy]")
    if out is not None and not isinstance(out, StrictArray):
        raise TypeError("`out` must be a tuple or `cupy.ndarray` [cupy]")
    options = {"dtype": dtype} if dtype else {}
    result = wrap(np.matmul(*operands, out=None if out is None else out._host, **options))
    check_promotion("matmul", args, result, dtype is not None or out is not None)
    return result if out is None else out


class StrictGenerator:
    """cupy.random.Generator: few of NumPy's distributions, other streams on the real one."""

    def __init__(self, seed=None):
        self._generator = np.random.default_rng(seed)

    def __getattr__(self, name):
        if name not in API["Generator"]:
            raise missing("'cupy.random.Generator' object", name, hasattr(np.random.Generator, name))

        def draw(*args, dtype=None, **keywords):
            bind(
                f"Generator.{name}",
                API["Generator"][name],
                args,
                keywords if dtype is None else {**keywords, "dtype": dtype},
            )
            out = keywords.pop("out", None)
            options = {"dtype": dtype} if dtype is not None and name not in ("uniform", "beta") else {}
            method = getattr(self._generator, name)
            drawn = method(*unwrap(args, name), **unwrap_keywords(keywords, name), **options)
            result = wrap(np.asarray(drawn, dtype))
            if out is None:
                return result
            out[...] = result
            return out

        return draw


class _Random(Namespace):
    """cupy.random: the functions of the old interface besides the generator."""

    Generator, default_rng = StrictGenerator, staticmethod(StrictGenerator)

    def __getattr__(self, name):
        if name.startswith("__") or name not in self._table:
            raise missing("module 'cupy.random'", name, hasattr(np.random, name))

        def draw(*args, dtype=None, **keywords):
            drawn = getattr(np.random, name)(*unwrap(args, name), **unwrap_keywords(keywords, name))
            return None if drawn is None else wrap(np.asarray(drawn, dtype))

        return draw


def _assertion(name: str):
    """cupy.testing copies to the host itself."""

    def check(actual, desired, *args, **keywords):
        host = [a._host if isinstance(a, StrictArray) else a for a in (actual, desired)]
        return getattr(np.testing, name)(*host, *args, **keywords)

    return check


ASSERTIONS = ("assert_allclose", "assert_array_equal", "assert_array_almost_equal", "assert_array_less")


def _asnumpy(array, *args, **keywords):
    return array.get() if isinstance(array, StrictArray) else np.asarray(array)


def _get_array_module(*arrays):
    return strict if any(isinstance(array, StrictArray) for array in arrays) else np


strict = Namespace("cupy", TOP, np)
strict.__dict__.update(
    __version__=API["cupy"],
    ndarray=StrictArray,
    matmul=_matmul,
    asnumpy=_asnumpy,
    get_array_module=_get_array_module,
    is_available=lambda: True,
    linalg=Namespace("cupy.linalg", API["linalg"], np.linalg),
    fft=Namespace("cupy.fft", API["fft"], np.fft),
    random=_Random("cupy.random", API["random"], np.random),
    testing=types.SimpleNamespace(**{name: _assertion(name) for name in ASSERTIONS}),
    lib=types.SimpleNamespace(
        stride_tricks=Namespace("cupy.lib.stride_tricks", API["stride_tricks"], np.lib.stride_tricks)
    ),
)
