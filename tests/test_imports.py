"""Imports go down only: cli → study, runs → presets → tasks → train, adapt → models → layers → ops; kernels → ops."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import minilm
import minilm.kernels

# A package may import those on the lines above its own, and itself.
FROM_THE_BOTTOM = [
    ("backend", "checks", "files", "memory", "options", "selection", "threads"),
    ("data", "gradcheck"),
    ("ops", "text"),
    ("kernels", "layers"),
    ("optim", "models"),
    ("adapt",),
    ("train",),
    ("tasks",),
    ("presets",),
    ("kernels.check", "runs", "study"),
    ("kernels.__main__", "cli"),
]
LEVEL = {name: level for level, names in enumerate(FROM_THE_BOTTOM) for name in names}
# Packages of their own among the kernels: what holds them to the ops, and the program that puts its commands together.
APART = {"kernels.check", "kernels.__main__"}
ROOTS = {"": Path(minilm.__file__).parent, "kernels": Path(minilm.kernels.__file__).parent}


def modules():
    """(package, file) of every module but the top one and the program's entry, which put the names together."""
    for prefix, root in ROOTS.items():
        for file in sorted(root.rglob("*.py")):
            parts = (*([prefix] if prefix else []), *file.relative_to(root).with_suffix("").parts)
            package = package_of(parts)
            if package not in ("__init__", "__main__"):
                yield package, file


def package_of(parts):
    """The package of a module minilm.<parts>: its first part, or two for those that stand apart."""
    two = ".".join(parts[:2])
    return two if two in APART else parts[0]


def imported(file):
    """The packages of minilm, and other top names, that a file imports."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module or ''}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            yield package_of(parts[1:]) if parts[0] == "minilm" and len(parts) > 1 else parts[0]


@pytest.mark.parametrize("package", LEVEL)
def test_a_package_imports_what_lies_below_it(package):
    files = [file for own, file in modules() if own == package]
    assert files
    for file in files:
        for name in imported(file):
            assert name not in ("tests", "benchmarks", "torch", "jax", "triton"), f"{file} imports {name}"
            if name in LEVEL and name != package:
                same_ground = LEVEL[name] == LEVEL[package] == 0
                assert LEVEL[name] < LEVEL[package] or same_ground, f"{file} imports {name}, which lies above it"


def test_the_checker_stands_alone():
    names = {name for own, file in modules() if own == "gradcheck" for name in imported(file)}
    assert names & {*LEVEL} == {"gradcheck", "backend", "checks"}


def test_every_package_has_its_place():
    assert {package for package, _ in modules()} == set(LEVEL)


def test_the_source_tree_needs_no_installation():
    """From its folder, whatever is installed: `pip install .` puts a second copy where the folder hides it."""
    code = """if True:
        import sys
        sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in str(finder).lower()]
        import minilm.kernels.cpu.softmax, minilm
        print(minilm.kernels.__file__)
    """
    root = Path(minilm.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = Path(done.stdout.strip())
    assert found.is_relative_to(root)


def test_a_second_checkout_uses_its_own_kernels(tmp_path):
    """Whichever checkout is installed: the other one, first on the path, must not test the kernels of the first."""
    root = Path(minilm.__file__).parents[1]
    for package in ("minilm", "kernels"):
        shutil.copytree(root / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "data"))
    code = "import minilm.kernels; print(minilm.__file__); print(minilm.kernels.__file__)"
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [Path(line).parts[-2] for line in found.stdout.splitlines()] == ["minilm", "kernels"]
    assert all(Path(line).is_relative_to(tmp_path) for line in found.stdout.splitlines()), found.stdout


@pytest.mark.parametrize("module", ["minilm.ops", "minilm.gradcheck"])
def test_the_mathematics_needs_numpy_alone(module):
    """No tuned version is loaded, and none of the libraries that the rest of minilm depends on."""
    code = f"""if True:
        import sys
        import {module}
        roots = {{name.partition(".")[0] for name in sys.modules}}
        print(sorted(roots & {{"cupy", "hypothesis", "safetensors", "threadpoolctl", "tokenizers", "tqdm"}}))
        print(sorted(name for name in sys.modules if name.startswith("minilm.kernels")))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "[]"]
