"""What is installed is the source tree: every package, every kernel source and table, and the licence."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import minilm

ROOT = Path(__file__).parents[1]
BUILT_FROM = ["pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "NOTICE"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """A wheel of a copy of the tree, so that nothing left over from an earlier build gets into it."""
    copy = tmp_path_factory.mktemp("copy")
    for folder in ("minilm", "kernels"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in BUILT_FROM:
        shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "out", "."]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (copy / "out").glob("minilm-*.whl")
    return zipfile.ZipFile(built)


def test_the_wheel_holds_every_file_of_the_source_tree(wheel):
    expected = {f"minilm/{file.relative_to(ROOT / 'minilm').as_posix()}" for file in files_below(ROOT / "minilm")}
    expected |= {f"minilm/kernels/{file.relative_to(ROOT / 'kernels')}" for file in files_below(ROOT / "kernels")}
    found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert found == expected
    assert {"minilm/py.typed", "minilm/kernels/cuda/attention.cu", "minilm/kernels/gate/budget.json"} <= found


def files_below(folder: Path) -> list[Path]:
    """All but what the interpreter leaves, and the texts for readers of the source."""
    found = [file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    assert found
    return [file for file in found if file.suffix != ".md"]


def test_every_folder_of_modules_is_a_package(wheel):
    folders = {name.rpartition("/")[0] for name in wheel.namelist() if name.endswith(".py")}
    assert {folder for folder in folders if f"{folder}/__init__.py" not in wheel.namelist()} == set()


def test_its_metadata_is_the_sources(wheel):
    (info,) = {name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    assert info == f"minilm-{minilm.__version__}.dist-info"
    assert {f"{info}/licenses/LICENSE", f"{info}/licenses/NOTICE"} <= set(wheel.namelist())
    assert wheel.read(f"{info}/top_level.txt").decode().split() == ["minilm"]  # another project owns the name kernels
