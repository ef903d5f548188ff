"""The device array: a NumPy array that is not let go of. Its operators and methods are set in `dispatch`."""

from __future__ import annotations

import types

import numpy as np

from tests.strict_cupy.rules import StrictViolation, caller, note, policy

DTYPE_CHARS = set("?bBhHiIlLqQefdFD")


class StrictArray:
    """A device array. `_host` is the NumPy array behind it, for this folder only."""

    __slots__ = ("_host",)
    __array_priority__ = 100
    __hash__ = None

    def __new__(cls, *args, **keywords):
        raise StrictViolation("build arrays with xp.empty/zeros/asarray, not the class (CuPy's constructor differs)")

    @staticmethod
    def _new(host: np.ndarray) -> StrictArray:
        self = object.__new__(StrictArray)
        self._host = host
        return self

    # conversion: refused, or a wait for the device

    def __array__(self, dtype=None, copy=None):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array "
            f"explicitly. [cupy] at {caller()}"
        )

    def _read_back(self, what: str) -> np.ndarray:
        note("sync", f"{what} on {self.dtype}{list(self.shape)}")
        return self._host

    def get(self, stream=None, order="C", out=None, blocking=True):
        host = self._read_back(".get()")
        if out is None:
            return host.copy(order)
        np.copyto(out, host)
        return out

    def item(self):
        return self._read_back(".item()").item()

    def tolist(self):
        return self._read_back(".tolist()").tolist()

    def tobytes(self, order="C"):
        return self._read_back(".tobytes()").tobytes(order)

    def __bool__(self):
        return bool(self._read_back("bool() (if/while/and/or/not/assert)"))

    def __float__(self):
        return float(self._read_back("float()"))

    def __int__(self):
        return int(self._read_back("int()"))

    def __complex__(self):
        return complex(self._read_back("complex()"))

    def __repr__(self):
        return repr(self._read_back("repr()/print")).replace("array", "strict", 1)

    def __str__(self):
        return str(self._read_back("str()/print"))

    def __format__(self, spec):
        host = self._read_back("format()/f-string")
        return format(host if self.ndim else host.item(), spec)

    def __copy__(self):
        return StrictArray._new(self._host.copy())

    def __deepcopy__(self, memo):
        return StrictArray._new(self._host.copy())

    @property
    def flags(self):
        flags = self._host.flags
        return types.SimpleNamespace(
            c_contiguous=flags.c_contiguous, f_contiguous=flags.f_contiguous, owndata=flags.owndata
        )

    @property
    def data(self):
        """A memory pointer: no buffer, as NumPy's own answer would be."""
        return types.SimpleNamespace(ptr=self._host.ctypes.data)

    @property
    def flat(self):
        raise StrictViolation("x.flat: cupy.flatiter is partial and element access is one kernel each; use x.ravel()")

    # container protocol

    def __len__(self):
        if not self.ndim:
            raise TypeError("len() of unsized object [cupy]")
        return self.shape[0]

    def __iter__(self):
        if not self.ndim:
            raise TypeError("iteration over a 0-d array [cupy]")
        if self.ndim == 1 and policy.iterate_1d == "error":
            raise StrictViolation(
                f"iteration over a 1-D device array at {caller()}: list()/zip()/for/in/unpacking give one "
                "0-d device array an element; use .get().tolist() once"
            )
        return (self[i] for i in range(self.shape[0]))

    def __contains__(self, value):
        raise StrictViolation(
            "`in` on a device array: CuPy has no __contains__; Python loops and synchronises at each element"
        )

    def _key(self, key):
        """An index for NumPy, once what it means on CuPy has been checked."""
        entries = [self._key_entry(entry) for entry in (key if isinstance(key, tuple) else (key,))]
        checked = tuple(entries) if isinstance(key, tuple) else entries[0]
        if any(isinstance(entry, np.ndarray) and entry.dtype.kind in "iu" for entry in entries):
            try:
                np.empty(self.shape, "?")[checked]
            except IndexError as error:
                raise StrictViolation(
                    f"{error}: CuPy wraps out-of-range index arrays silently, at {caller()}"
                ) from None
        return checked

    @staticmethod
    def _key_entry(entry):
        if isinstance(entry, StrictArray):
            if entry.dtype.kind not in "biu":
                raise IndexError(
                    f"arrays used as indices must be of integer or boolean type. (actual: {entry.dtype.type}) [cupy]"
                )
            if entry.dtype.kind == "b":
                note("sync", f"boolean-mask indexing with {list(entry.shape)} (output size is read back)")
            return entry._host
        if isinstance(entry, np.ndarray | list):
            if isinstance(entry, np.ndarray) and policy.host_index == "error":
                raise StrictViolation(
                    f"NumPy array used as an index at {caller()}: CuPy uploads it at every call; use xp.asarray once"
                )
            note("upload", "host index")
            return np.asarray(entry, None if len(entry) else np.int32)
        return entry

    @staticmethod
    def _assigned(value, by_index_array: bool):
        """The right-hand side of an assignment, for NumPy."""
        if isinstance(value, StrictArray):
            return value._host
        if isinstance(value, np.ndarray | list | tuple) and np.ndim(value):
            if not by_index_array:
                raise ValueError(
                    "non-scalar numpy.ndarray cannot be used for fill [cupy]: assigning host data at "
                    f"{caller()}; use xp.asarray"
                )
            if policy.host_value == "error":
                raise StrictViolation(
                    f"host data assigned into a device array at {caller()}: CuPy uploads it at every call"
                )
            note("upload", "host value")
        return value

    def __getitem__(self, key):
        key = self._key(key)
        entries = key if isinstance(key, tuple) else (key,)
        plain = all(isinstance(entry, int | np.integer) and not isinstance(entry, bool) for entry in entries)
        if plain and len(entries) == self.ndim:
            return wrap(self._host[(*entries, ...)])  # on CuPy a 0-d view: later writes show through
        return wrap(self._host[key])

    def __setitem__(self, key, value):
        key = self._key(key)
        entries = key if isinstance(key, tuple) else (key,)
        index_arrays = [entry for entry in entries if isinstance(entry, np.ndarray)]
        value = self._assigned(value, bool(index_arrays))
        if policy.duplicates == "error" and np.ndim(value) and any(i.dtype.kind in "iu" for i in index_arrays):
            cells = np.arange(self.size).reshape(self.shape)[key]
            if np.unique(cells).size != cells.size:
                raise StrictViolation(
                    f"duplicate indices in assignment at {caller()}: the stored value is undefined on CuPy; use "
                    "xp.add.at"
                )
        if not index_arrays and np.ndim(value):
            target = self._host[key]
            same_cells = target.__array_interface__ == value.__array_interface__
            if np.shares_memory(target, value) and not same_cells:
                raise StrictViolation(
                    f"overlapping assignment (x[1:] = x[:-1]) at {caller()}: CuPy may issue one plain memcpy; copy the "
                    "source first"
                )
        self._host[key] = value

    def __imatmul__(self, other):
        raise StrictViolation(
            "x @= y: CuPy has no __imatmul__, so it rebinds x where NumPy works in place; use xp.matmul(..., out=)"
        )

    def __setattr__(self, name, value):
        if name == "_host":
            object.__setattr__(self, name, value)
        else:
            setattr(self._host, name, unwrap(value, name))


StrictArray.__name__ = StrictArray.__qualname__ = "ndarray"  # as cupy.ndarray calls itself
StrictArray.__module__ = "cupy"


def wrap(result):
    """What NumPy returned, every array in it as a device array."""
    if isinstance(result, StrictArray):
        return result
    if isinstance(result, np.ndarray | np.generic):
        host = np.asarray(result)
        if host.dtype.char not in DTYPE_CHARS and host.dtype.name != "bfloat16":  # CuPy 14 takes ml_dtypes.bfloat16
            raise ValueError(f"Unsupported dtype {host.dtype} [cupy]")
        return StrictArray._new(host)
    if isinstance(result, tuple) and hasattr(result, "_fields"):
        return type(result)(*map(wrap, result))
    return type(result)(map(wrap, result)) if isinstance(result, tuple | list) else result


def unwrap(given, function: str, host_allowed: bool = False):
    """An argument for NumPy. A host array where CuPy takes device arrays only is its TypeError."""
    if isinstance(given, StrictArray):
        return given._host
    if isinstance(given, np.ndarray) and not host_allowed:
        raise TypeError(
            f"Unsupported type {np.ndarray} [cupy] in {function}: NumPy and device arrays mixed; use xp.asarray"
        )
    if isinstance(given, list | tuple):
        return type(given)(unwrap(entry, function, host_allowed) for entry in given)
    return given


def unwrap_keywords(keywords: dict, function: str, host_allowed: bool = False) -> dict:
    return {name: unwrap(value, function, host_allowed) for name, value in keywords.items()}
