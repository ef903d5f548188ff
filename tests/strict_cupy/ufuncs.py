"""The ufuncs of CuPy: what they take, and the few of their methods that it has."""

from __future__ import annotations

import numpy as np

from tests.strict_cupy.array import StrictArray, unwrap, wrap
from tests.strict_cupy.calls import NARROW, WIDE, check_promotion
from tests.strict_cupy.rules import TOP, StrictViolation, policy

SCALARS = (bool, int, float, complex, np.generic)

# Which dtypes CuPy's atomic operations take, by the name of its scatter operation.
AT_DTYPES = {
    "add": "ilefdILqQ",
    "sub": "iI",
    "max": "ilfdILqQ",
    "min": "ilfdILqQ",
    "and": "ilILqQ",
    "or": "ilILqQ",
    "xor": "ilILqQ",
}


class StrictUfunc:
    """A cupy.ufunc: out, dtype and casting, no where=; few of the methods."""

    def __init__(self, name: str):
        self.__name__, self._numpy, self._info = name, getattr(np, name), TOP[name]

    def _operand(self, given):
        if not isinstance(given, (StrictArray, *SCALARS)):
            raise TypeError(f"Unsupported type {type(given)} [cupy] in {self.__name__}: only device arrays and scalars")
        return given._host if isinstance(given, StrictArray) else given

    def __call__(self, *args, out=None, dtype=None, casting="same_kind", **unknown):
        if unknown:
            raise TypeError(
                f"Wrong arguments {sorted(unknown)} [cupy] in {self.__name__} (ufuncs take out, dtype, casting; "
                "no where=)"
            )
        count = getattr(self._numpy, "nin", len(args))
        inputs, outputs = args[:count], args[count:]
        if not outputs and out is not None:
            outputs = out if isinstance(out, tuple) else (out,)
        operands = [self._operand(given) for given in inputs]
        for output in outputs:
            if output is not None and not isinstance(output, StrictArray):
                raise TypeError("Output arguments type must be cupy.ndarray [cupy]")
            if output is not None and output.shape != np.broadcast_shapes(*(np.shape(a) for a in operands)):
                raise ValueError("Out shape is mismatched [cupy]")
        self._check_floor(operands)

        options = {}
        if isinstance(self._numpy, np.ufunc):
            options = {"casting": casting, **({"dtype": dtype} if dtype else {})}
        if outputs:
            options["out"] = tuple(None if output is None else output._host for output in outputs)
        result = wrap(self._numpy(*operands, **options))

        chars = {a.dtype.char for a in inputs if isinstance(a, StrictArray) and a.dtype.kind in "fc"}
        mixed = bool(chars & NARROW and chars & WIDE)  # with out= only a mix of inputs is a mistake
        for each in result if isinstance(result, tuple) else (result,):
            check_promotion(self.__name__, inputs, each, dtype is not None or (bool(outputs) and not mixed))
        return outputs[0] if len(outputs) == 1 else outputs or result

    def _check_floor(self, operands) -> None:
        if self.__name__ not in ("floor_divide", "remainder", "mod", "divmod"):
            return
        if any(np.asarray(a).dtype.kind == "f" for a in operands):
            with np.errstate(all="ignore"):
                same = np.array_equal(np.floor_divide(*operands), np.floor(np.true_divide(*operands)), equal_nan=True)
            if not same:
                raise StrictViolation(
                    f"{self.__name__} on floats: CuPy computes floor(x / y), NumPy differs for these values"
                )

    def at(self, array, indices, values=None):
        operation = self._info["at"]
        if operation is None:
            raise NotImplementedError(f"`{self._info['name']}.at` is not supported yet [cupy]")
        if array.dtype.char not in AT_DTYPES[operation]:
            raise TypeError(
                f"cupy.{self.__name__}.at does not support {array.dtype} [cupy]; it takes {AT_DTYPES[operation]}"
            )
        values = array._assigned(values, True)
        if operation in ("max", "min") and np.isnan(np.asarray(values)).any():
            raise StrictViolation(
                f"{self.__name__}.at with NaN: CuPy's atomic uses fmax/fmin and drops NaN; NumPy keeps it"
            )
        self._numpy.at(array._host, array._key(indices), values)

    def _method(self, method: str, supported: tuple[str, ...], *args):
        if self.__name__ not in supported:
            raise NotImplementedError(f"`{self._info['name']}.{method}` is not supported yet [cupy]")
        return wrap(getattr(self._numpy, method)(*unwrap(args, self.__name__)))

    def reduce(self, array, axis=0, dtype=None, out=None, keepdims=False):
        return self._method("reduce", ("add", "multiply"), array, axis, dtype, out, keepdims)

    def accumulate(self, array, axis=0, dtype=None, out=None):
        return self._method("accumulate", ("add", "multiply"), array, axis, dtype, out)

    def reduceat(self, array, indices, axis=0, dtype=None, out=None):
        if self.__name__ == "add" and array.dtype.kind in "fc" and policy.promotion == "error":
            raise StrictViolation(
                "cupy.add.reduceat is a difference of cumulative sums: float cancellation; use add.at or a one-hot "
                "matmul"
            )
        return self._method("reduceat", ("add",), array, indices, axis, dtype, out)

    def outer(self, a, b, **keywords):
        return self(a.reshape(a.shape + (1,) * b.ndim), b, **keywords)
