"""What a device array hands over to the namespace `strict`: operators, methods, and NumPy functions called on it.

It is set on the class here, since `array` knows nothing of the namespace, which is made of arrays.
"""

from __future__ import annotations

import types

import numpy as np

from tests.strict_cupy.array import StrictArray, wrap
from tests.strict_cupy.calls import call
from tests.strict_cupy.namespace import missing, strict
from tests.strict_cupy.rules import API, TOP, StrictViolation, caller, policy

BINARY = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "true_divide",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "pow": "power",
    "matmul": "matmul",
    "divmod": "divmod",
    "lshift": "left_shift",
    "rshift": "right_shift",
    "xor": "bitwise_xor",
    "and": "bitwise_and",
    "or": "bitwise_or",
}
COMPARISONS = {
    "lt": "less",
    "le": "less_equal",
    "eq": "equal",
    "ne": "not_equal",
    "gt": "greater",
    "ge": "greater_equal",
}
UNARY = {"neg": "negative", "pos": "positive", "abs": "absolute", "invert": "invert"}


def _operator(name: str, reflected: bool = False, in_place: bool = False):
    def operator(self, other):
        if isinstance(other, np.ndarray) and other.ndim == 0 and name in COMPARISONS.values():
            other = other.item()
        if name in ("equal", "not_equal") and other is None:
            return strict.full(self.shape, name == "not_equal")
        function = getattr(strict, name)
        if in_place:
            return function(self, other, out=self)
        return function(other, self) if reflected else function(self, other)

    return operator


def _unary_operator(name: str):
    return lambda self: getattr(strict, name)(self)


def _array_ufunc(self, ufunc, method, *inputs, out=None, **keywords):
    """A NumPy ufunc that is handed a device array: CuPy dispatches it to itself, the default policy refuses."""
    if out is not None:
        keywords["out"] = out
    for given in inputs:
        # A 0-d host array is taken by comparisons alone.
        if isinstance(given, np.ndarray) and not (given.ndim == 0 and ufunc.__name__ in COMPARISONS.values()):
            raise TypeError(
                f"Unsupported type {np.ndarray} [cupy]: NumPy array mixed with a device array in "
                f"{ufunc.__name__} at {caller()}; use xp.asarray"
            )
    # NumPy scalars come here by `scalar * x`, which is no call of a NumPy function in the text.
    by_operator = method == "__call__" and out is None and any(isinstance(i, np.generic) for i in inputs)
    if policy.numpy_calls == "error" and not by_operator:
        raise StrictViolation(
            f"np.{ufunc.__name__} called on a device array at {caller()}: write xp.{ufunc.__name__} "
            "(CuPy would dispatch this one, but not every np.* function)"
        )
    function = getattr(strict, ufunc.__name__)
    if method != "__call__":
        function = getattr(function, method)
    return function(*[i.item() if isinstance(i, np.ndarray) else i for i in inputs], **keywords)


def _array_function(self, function, types_, args, keywords):
    """Any other NumPy function."""
    name = function.__name__
    if policy.numpy_calls == "error" or name not in TOP:
        lacks = "" if name in TOP else " - and CuPy lacks it: TypeError there"
        raise StrictViolation(f"np.{name} called on a device array at {caller()}: write xp.{name}{lacks}")
    return getattr(strict, name)(*args, **keywords)


def _attribute(self, name):
    """Attributes and methods: only CuPy's."""
    if name not in API["ndarray"]:
        raise missing("'cupy.ndarray' object", name, hasattr(np.ndarray, name))
    parameters = API["ndarray"][name]
    found = getattr(self._host, name)
    if parameters is None:
        return wrap(found) if name in ("T", "mT", "real", "imag", "base") else found
    return lambda *args, **keywords: call(f"ndarray.{name}", parameters, found, args, keywords, self)


def _reduce(self):
    return strict.array, (self._read_back("pickle"),)


def _device(self):
    """Device 0, as all of them; NumPy's own answer would be "cpu". It has attributes inside device_kernels()."""
    cuda = strict.__dict__.get("cuda")
    return types.SimpleNamespace(id=0) if cuda is None else cuda.Device(0)


for _special, _name in BINARY.items():
    setattr(StrictArray, f"__{_special}__", _operator(_name))
    setattr(StrictArray, f"__r{_special}__", _operator(_name, reflected=True))
    if _special not in ("matmul", "divmod"):
        setattr(StrictArray, f"__i{_special}__", _operator(_name, in_place=True))
for _special, _name in COMPARISONS.items():
    setattr(StrictArray, f"__{_special}__", _operator(_name))
for _special, _name in UNARY.items():
    setattr(StrictArray, f"__{_special}__", _unary_operator(_name))
StrictArray.__array_ufunc__ = _array_ufunc
StrictArray.__array_function__ = _array_function
StrictArray.__getattr__ = _attribute
StrictArray.__reduce__ = _reduce
StrictArray.device = property(_device)
