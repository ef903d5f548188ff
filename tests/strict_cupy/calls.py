"""One call of a CuPy function or method: checked against CuPy's parameters and rules, computed by NumPy."""

from __future__ import annotations

import inspect

import numpy as np

from tests.strict_cupy.array import StrictArray, unwrap, unwrap_keywords, wrap
from tests.strict_cupy.rules import StrictViolation, caller, note, policy

NARROW, WIDE = set("efF"), set("dD")  # floating dtypes up to 32 bits a number, and above

_signatures: dict[int, inspect.Signature] = {}


def bind(function: str, parameters, args, keywords) -> None:
    """Bind to CuPy's parameters (name, kind, has a default), so that keywords that only NumPy has fail as on CuPy."""
    if parameters is None:
        return
    signature = _signatures.get(id(parameters))
    if signature is None:
        signature = _signatures[id(parameters)] = inspect.Signature(
            [
                inspect.Parameter(
                    name, inspect._ParameterKind(kind), default=None if has_default else inspect.Parameter.empty
                )
                for name, kind, has_default in parameters
            ]
        )
    try:
        signature.bind(*args, **keywords)
    except TypeError as error:
        names = ", ".join(name for name, _, _ in parameters)
        raise TypeError(f"{function}() {error} [cupy]; CuPy's parameters: {names}") from None


def check_promotion(function: str, inputs, result, asked_for: bool = False) -> None:
    """float32 with float64 is legal on CuPy, slow on most GPUs, and hardly ever meant."""
    chars = [a.dtype.char for a in inputs if isinstance(a, StrictArray) and a.dtype.kind in "fc"]
    widened = result.dtype.char in WIDE or any(char in WIDE for char in chars)
    if policy.promotion == "error" and not asked_for and any(char in NARROW for char in chars) and widened:
        operands = [f"{type(a).__name__}:{a.dtype}" for a in inputs if hasattr(a, "dtype")]
        raise StrictViolation(
            f"{function} mixes float32 and float64, result {result.dtype} (operands {operands}) at {caller()}: float64 "
            "arrays (xp.zeros without dtype), NumPy scalars and integer arrays are strong types; use dtype=, a Python "
            "float or .astype"
        )


UPLOADS = {"array", "asarray", "asanyarray", "ascontiguousarray", "asfortranarray"}
SYNCS = {  # the size of the result depends on the data: CuPy reads it back
    *("nonzero", "argwhere", "flatnonzero", "unique", "unique_all", "unique_counts", "unique_inverse", "unique_values"),
    *("bincount", "compress", "extract", "delete", "histogram", "histogram2d", "histogramdd", "place", "isin", "in1d"),
    *("setdiff1d", "union1d", "intersect1d", "trim_zeros"),
}
HOST_ALLOWED = {"take", "put", "result_type", "can_cast", "promote_types", "save", "savez", "get_array_module"}
PLAIN_RESULTS = {
    *("ndim", "size", "shape", "iscomplexobj", "isrealobj", "isscalar", "may_share_memory", "shares_memory"),
    *("result_type", "can_cast"),
}
INTEGER_PARAMETERS = {"shape", "axis", "axes", "newshape", "N", "k", "axis1", "axis2", "num", "ndmin", "ddof", "offset"}
POSITIONAL_ONLY_HERE = {"clip"}  # CuPy's a_min and a_max may be named differently in NumPy
STACKING = ("concatenate", "stack", "vstack", "hstack", "concat")


def call(name: str, parameters, function, args, keywords, self: StrictArray | None = None):
    """One call of a CuPy function, or of a method of `self`: check it, let NumPy compute it, wrap the result."""
    bind(name, parameters, args, keywords)
    base = name.split(".")[-1]
    _check_syncs(name, base, args, keywords, self)
    _check_arguments(name, base, parameters, args, keywords, self)

    host_allowed = base in UPLOADS or base in HOST_ALLOWED
    raw = unwrap(args, name, host_allowed)
    raw_keywords = unwrap_keywords(keywords, name, host_allowed)
    upload = base in UPLOADS and not isinstance(args[0], StrictArray)
    if upload:
        _check_upload(args[0])
        note("upload", base)
        if base in ("array", "asarray", "asanyarray"):
            raw_keywords["copy"] = True
        raw_keywords.pop("blocking", None)
    if base == "take":
        _check_take(args, keywords, raw, raw_keywords, self)
    if parameters and self is None:
        raw = _keywords_by_position(base, parameters, function, raw, raw_keywords)
    try:
        out = function(*raw, **raw_keywords)
    except np.linalg.LinAlgError as error:
        raise StrictViolation(
            f"{name}: {error}: CuPy ignores this by default (cupyx.errstate(linalg='raise') checks)"
        ) from None

    if isinstance(keywords.get("out"), StrictArray):
        return keywords["out"]
    if base in PLAIN_RESULTS:
        return out
    result = wrap(np.array(out, copy=True) if upload and out is raw[0] else out)
    if isinstance(result, StrictArray) and base not in ("astype", "asarray", "array", "view"):
        inputs = [] if self is None else [self]
        for given in args:
            inputs += given if isinstance(given, tuple | list) else [given]
        check_promotion(name, inputs, result, "dtype" in keywords)
    if policy.poison and base in ("empty", "empty_like"):
        result._host[...] = _poison(result.dtype)
    return result


def _check_syncs(name, base, args, keywords, self) -> None:
    counts = args[1:] if self is None else args  # what follows the array
    device_counts = base == "repeat" and any(isinstance(a, StrictArray) for a in counts)
    if base in SYNCS or (base == "where" and len(args) + len(keywords) == 1) or device_counts:
        note("sync", f"{name} (output size is read back)")
    if base in ("arange", "linspace") and any(isinstance(a, StrictArray) for a in args):
        note("sync", f"{name} with device-array bounds")


def _check_arguments(name, base, parameters, args, keywords, self) -> None:
    if base in ("sort", "argsort") and keywords.get("kind") not in (None, "stable"):
        raise ValueError("kind can only be None or 'stable' [cupy]")
    if base == "sort" and self is not None and not self.flags.c_contiguous:
        raise NotImplementedError("Sorting non-contiguous array is not supported. [cupy]")
    if base == "astype":
        _check_astype(args, keywords, self)
    if base == "fill" and args and isinstance(args[0], np.ndarray) and args[0].ndim:
        raise ValueError("non-scalar numpy.ndarray cannot be used for fill [cupy]")
    if base == "einsum" and set(keywords) - {"dtype", "optimize"}:
        raise TypeError(f"Did not understand the following kwargs: {list(keywords)} [cupy]")
    if base in STACKING and any(not isinstance(a, StrictArray) for a in args[0]):
        raise TypeError("Only cupy arrays can be concatenated [cupy]")
    by_position = [(parameter[0], given) for parameter, given in zip(parameters or (), args, strict=False)]
    for parameter, given in [*by_position, *keywords.items()]:
        entries = given if isinstance(given, tuple | list) else (given,)
        if parameter in INTEGER_PARAMETERS and any(isinstance(entry, StrictArray) for entry in entries):
            raise TypeError(
                f"{name}: {parameter} given as a device array: 'ndarray' object cannot be interpreted as an integer "
                "[cupy]"
            )


def _check_astype(args, keywords, self) -> None:
    if keywords.get("casting") or keywords.get("subok"):
        raise TypeError("casting is not supported yet [cupy]")
    source = self if self is not None else args[0]
    positional = (args[0] if self is not None else args[-1]) if args else None
    target = np.dtype(keywords.get("dtype", positional))
    if source.dtype.kind == "f" and target.kind in "iu" and source.size:
        low, high = np.iinfo(target).min, np.iinfo(target).max
        host = source._host
        if not (np.isfinite(host).all() and host.min() > low - 1 and host.max() < float(high) + 1):
            raise StrictViolation(
                f"astype({target}) of NaN, inf or out-of-range floats: undefined, differs between CPU and GPU"
            )


def _check_upload(given) -> None:
    entries = list(given) if isinstance(given, list | tuple) else []
    on_device = [isinstance(entry, StrictArray) for entry in entries]
    if any(on_device) and not all(on_device):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. [cupy] (list mixing device arrays with host values)"
        )


def _check_take(args, keywords, raw, raw_keywords, self) -> None:
    first = 0 if self is not None else 1  # the position of the indices
    given = keywords.get("indices", args[first] if len(args) > first else None)
    if isinstance(given, np.ndarray | list):
        if isinstance(given, np.ndarray) and policy.host_index == "error":
            raise StrictViolation(
                f"take with a NumPy index array at {caller()}: CuPy uploads it at every call; use xp.asarray once"
            )
        note("upload", "host index")
    indices = np.asarray(raw[first] if len(raw) > first else raw_keywords["indices"])
    axis = raw_keywords.get("axis", raw[first + 1] if len(raw) > first + 1 else None)
    array = self if self is not None else args[0]
    length = array.size if axis is None else array.shape[axis]
    if indices.size and (indices.max() >= length or indices.min() < -length):
        raise StrictViolation(f"take: index out of range for {length}: CuPy wraps silently, at {caller()}")


def _keywords_by_position(base, parameters, function, raw, raw_keywords):
    """Keywords that NumPy calls otherwise, moved into their positions. Takes them out of `raw_keywords`."""
    names = [name for name, kind, _ in parameters if kind == inspect.Parameter.POSITIONAL_OR_KEYWORD]
    while len(raw) < len(names) and names[len(raw)] in raw_keywords:
        name = names[len(raw)]
        if base not in POSITIONAL_ONLY_HERE and _numpy_takes(function, name):
            break
        raw += (raw_keywords.pop(name),)
    return raw


def _numpy_takes(function, name: str) -> bool:
    try:
        return name in inspect.signature(function).parameters
    except (ValueError, TypeError):
        return True


def _poison(dtype):
    if dtype.kind in "fc" or dtype.name == "bfloat16":
        return np.nan
    return True if dtype.kind == "b" else np.iinfo(dtype).min + 113
