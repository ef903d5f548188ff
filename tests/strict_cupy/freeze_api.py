"""Write `cupy_api.json`, what the stand-in checks calls against, from the installed CuPy (no GPU, no driver needed):

    pip install cupy-cuda13x && python tests/strict_cupy/freeze_api.py

For each public name of cupy and its submodules one entry: a ufunc's loops and scatter operation, a function's
parameters as [name, kind, has a default], or what else it is. {"same": 1} is NumPy's very own object.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from pathlib import Path

import cupy
import numpy as np

CYTHON_TYPES = r"\b(int|Py_ssize_t|_ndarray_base|bint|tuple|str|object) (?=\w)"


def parameters(function) -> list | None:
    """[[name, kind, has a default], ...] without self; None where they cannot be known."""
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):
        return _documented_parameters(function)
    return [[p.name, int(p.kind), p.default is not p.empty] for p in signature.parameters.values() if p.name != "self"]


def _documented_parameters(function) -> list | None:
    """Cython methods have no signature, but a docstring "ndarray.sum(self, axis=None, dtype=None) -> ..."."""
    found = re.match(r"[\w.]*\((self,? ?)?(.*?)\)( ->.*)?$", (function.__doc__ or "").split("\n")[0])
    if not found:
        return None
    try:
        arguments = ast.parse(f"def documented({re.sub(CYTHON_TYPES, '', found[2])}): pass").body[0].args
    except SyntaxError:
        return None
    plain = [*arguments.posonlyargs, *arguments.args]
    required = len(plain) - len(arguments.defaults)
    table = [[a.arg, int(a in arguments.args), n >= required] for n, a in enumerate(plain)]
    table += [[arguments.vararg.arg, 2, False]] if arguments.vararg else []
    table += [[a.arg, 3, d is not None] for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    return table + ([[arguments.kwarg.arg, 4, False]] if arguments.kwarg else [])


def module_table(module, numpy_module) -> dict:
    """The entries of all public names of a module."""
    table = {}
    for name in dir(module):
        if name.startswith("_"):
            continue
        found = getattr(module, name)
        same = getattr(numpy_module, name, None) is found
        if isinstance(found, cupy.ufunc):
            table[name] = {"ufunc": found.types, "at": found._scatter_op, "name": found.name}
        elif inspect.ismodule(found):
            table[name] = {"module": 1}
        elif not callable(found):
            table[name] = {"const": 1}
        elif same:
            table[name] = {"same": 1}
        else:
            table[name] = {"class": 1} if inspect.isclass(found) else {"params": parameters(found)}
    return table


def class_table(cls) -> dict:
    """Parameters of each public method; None for an attribute."""
    members = {name: getattr(cls, name) for name in dir(cls) if not name.startswith("_")}
    return {name: parameters(member) if callable(member) else None for name, member in members.items()}


if __name__ == "__main__":
    api = {
        "cupy": cupy.__version__,
        "numpy": np.__version__,
        "top": module_table(cupy, np),
        "linalg": module_table(cupy.linalg, np.linalg),
        "fft": module_table(cupy.fft, np.fft),
        "stride_tricks": module_table(cupy.lib.stride_tricks, np.lib.stride_tricks),
        "random": module_table(cupy.random, np.random),
        "Generator": class_table(cupy.random.Generator),
        "RandomState": class_table(cupy.random.RandomState),
        "ndarray": class_table(cupy.ndarray),
    }
    Path(__file__).with_name("cupy_api.json").write_text(json.dumps(api, separators=(",", ":")))
