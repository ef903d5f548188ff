"""Every name that minilm and its kernels take from the array library exists in CuPy.

Read from the sources, without running them: attributes of what `array_namespace` returned, of a variable `xp`, and of
`cupy` itself. They are looked up in the frozen list of CuPy's names, and in CuPy itself where it is installed.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
from pathlib import Path

import pytest

import minilm.kernels
from minilm import backend

PACKAGES = {"minilm": Path(minilm.__file__).parent, "kernels": Path(minilm.kernels.__file__).parent}
API = json.loads((Path(__file__).parent / "strict_cupy" / "cupy_api.json").read_text())
FROZEN_SUBMODULES = ("linalg", "fft", "random")  # of others, such as cupy.cuda, the list has no names
RETURNS_LIBRARY = {"array_namespace", "floating_namespace", "resolve_device"}
UFUNC_METHODS = {"reduce", "accumulate", "reduceat", "outer", "nin", "nout", "nargs", "types", "name"}


def names_taken(tree: ast.AST) -> dict[str, int]:
    """Dotted names below the array library, `add.at` for `xp.add.at(...)`, with the first line of each."""
    libraries = {"xp", "cupy"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and _returns_library(node.value):
            libraries |= {target.id for target in node.targets if isinstance(target, ast.Name)}

    def path(node: ast.AST) -> list[str] | None:
        """[] for the library itself, the names below it for an attribute of it, None for anything else."""
        if isinstance(node, ast.Name) and node.id in libraries:
            return []
        if _returns_library(node) or _is_module_cupy(node):
            return []
        if isinstance(node, ast.Attribute):
            below = path(node.value)
            return [] if below is None and node.attr == "xp" else None if below is None else [*below, node.attr]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            below = path(node.args[0])
            if below is not None and isinstance(node.args[1], ast.Constant):
                return [*below, node.args[1].value]
        return None

    found: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "cupy":
            for alias in node.names:
                found.setdefault(".".join([*node.module.split(".")[1:], alias.name]), node.lineno)
        elif (below := path(node)) and not any(name.startswith("__") for name in below):
            found.setdefault(".".join(below), node.lineno)
    return found


def _returns_library(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in RETURNS_LIBRARY


def _is_module_cupy(node: ast.AST) -> bool:
    """sys.modules["cupy"] or importlib.import_module("cupy")."""
    return ast.unparse(node) in ("sys.modules['cupy']", "importlib.import_module('cupy')")


def missing_from_frozen_list(name: str) -> bool:
    first, *rest = name.split(".")
    if first not in API["top"]:
        return not first.startswith("_")  # private modules, of the compiler: only CuPy itself knows them
    if not rest:
        return False
    if first in FROZEN_SUBMODULES:
        return rest[0] not in API[first]
    entry = API["top"][first]
    if "ufunc" in entry:
        return entry["at"] is None if rest[0] == "at" else rest[0] not in UFUNC_METHODS
    return False


def sources() -> list[Path]:
    return [file for folder in PACKAGES.values() for file in sorted(folder.rglob("*.py"))]


def everything_taken() -> dict[str, str]:
    """Each name with the first place that takes it."""
    found: dict[str, str] = {}
    for file in sources():
        for name, line in names_taken(ast.parse(file.read_text(encoding="utf-8"))).items():
            found.setdefault(name, f"{file.parent.name}/{file.name}:{line}")
    return found


def test_names_are_found_however_the_library_is_held():
    taken = names_taken(
        ast.parse(
            "xp.exp(x); library = array_namespace(x); library.vecdot(x, x); self.xp.add.at(x, i, 1)\n"
            "sys.modules['cupy'].RawModule; getattr(xp, 'tanh')(x); array_namespace(x).where(x)\n"
            "from cupy.cuda import compiler\n"
            "x.xpand(); np.errstate(); xp.__name__"
        )
    )
    assert taken.keys() == {
        *("exp", "vecdot", "add", "add.at", "RawModule", "tanh", "where", "cuda.compiler"),
    }
    assert taken["exp"] == 1 and taken["cuda.compiler"] == 3


@pytest.mark.parametrize("name", ["vecdot", "errstate", "linalg.eigvals_of", "exp.at", "add.sum"])
def test_what_cupy_lacks_is_noticed(name):
    assert missing_from_frozen_list(name)


def test_all_names_are_in_the_frozen_list():
    taken = everything_taken()
    assert {"exp", "where", "empty"} <= taken.keys()  # the walk sees the sources
    assert {name: place for name, place in taken.items() if missing_from_frozen_list(name)} == {}


@pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="CuPy is not installed")
def test_all_names_are_in_the_installed_cupy():
    cupy = importlib.import_module("cupy")

    def is_missing(name: str) -> bool:
        found = cupy
        path = "cupy"
        for part in name.split("."):
            path += "." + part
            if not hasattr(found, part):
                try:
                    found = importlib.import_module(path)
                except ImportError:
                    return True
            else:
                found = getattr(found, part)
        return False

    assert {name: place for name, place in everything_taken().items() if is_missing(name)} == {}


def test_the_functions_that_return_the_library_are_known():
    assert all(callable(getattr(backend, name)) for name in RETURNS_LIBRARY)
