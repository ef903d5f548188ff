"""The size of what people read: the definitions in all, and every source file."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINES_OF_OPS = 1800
LINES_OF_A_FILE = 400
FOLDERS = ("minilm", "kernels", "benchmarks", "examples")
SUFFIXES = {".py", ".cu", ".cuh", ".h", ".cpp"}


def lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def test_the_definitions_stay_small():
    sizes = {file.name: lines(file) for file in (ROOT / "minilm" / "ops").glob("*.py")}
    assert len(sizes) > 20
    assert sum(sizes.values()) <= LINES_OF_OPS, sorted(sizes.items(), key=lambda item: -item[1])


@pytest.mark.parametrize("folder", [name for name in FOLDERS if (ROOT / name).is_dir()])
def test_no_file_is_long(folder):
    sizes = {file: lines(file) for file in (ROOT / folder).rglob("*") if file.suffix in SUFFIXES}
    assert sizes
    assert not {str(file): n for file, n in sizes.items() if n > LINES_OF_A_FILE}
