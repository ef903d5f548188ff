"""docs/adding.md is true: a toy op, task and method are added in the files that it names, and run as commands.

They are put into a copy of the source tree, which goes away with the test.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

OP = '''"""The square.

    y = x²
"""

from __future__ import annotations

from typing import NamedTuple

from minilm.backend import Array, floating_namespace
from minilm.selection import backward_of, op


class SquareCache(NamedTuple):
    x: Array  # (...)  borrowed


@op
def square(x: Array) -> tuple[Array, SquareCache]:
    """y = x². x (...), y (...)."""
    floating_namespace(x)
    return x * x, SquareCache(x)


@backward_of(square)
def square_backward(dy: Array, cache: SquareCache) -> Array:
    """dx = 2 x dy."""
    return 2 * cache.x * dy
'''
OP_CASES = """

@OPS.of("square")
def square(case: OpCases) -> Iterator[Case]:
    yield case("x (B, C)", x=case.normal(2, 3))
"""
METHOD = '''"""Biases and the head: all else stays as it was."""

from minilm.adapt.method import HEAD, Method


def _install(model, options, rng):
    model.freeze()
    model.unfreeze("*bias*", HEAD)


BIASES = Method("biases", "biases, and the head", _install, learning_rate=1e-2)
'''
METHOD_CASES = """

@METHODS.of("biases")
def biases(case: MethodCases) -> Iterator[Case]:
    yield case.classifier("lstm-classifier")
"""
TASK = '''"""Vowels: does a line begin with one?"""

from pathlib import Path

import numpy as np

from minilm.tasks.classification import Classification
from minilm.text.datasets import LabelledTexts


class Vowels(Classification):
    name = "vowels"
    summary = "does a line begin with a vowel"

    def labelled(self, source, split, options):
        lines = Path(source).read_text().splitlines()
        lines = lines[:20] if split == "test" else lines[20:]
        labels = np.array([line[0] in "aeiou" for line in lines], dtype=np.int64)
        return LabelledTexts(lines, labels, ("no", "yes"))
'''

# What is added: (new file, its text), and per file of the tree what is put into it: (before this line, these lines).
ADDED = {
    "an op": (
        {"minilm/ops/square.py": OP},
        {
            "minilm/ops/__init__.py": "\nfrom minilm.ops.square import square as square\n",
            "minilm/study/cases/ops.py": OP_CASES,
        },
    ),
    "a method of adaptation": (
        {"minilm/adapt/biases.py": METHOD},
        {
            "minilm/adapt/methods.py": "\nfrom minilm.adapt.biases import BIASES\nMETHODS[BIASES.name] = BIASES\n",
            "minilm/study/cases/methods.py": METHOD_CASES,
        },
    ),
    "a task": (
        {"minilm/tasks/vowels.py": TASK},
        {"minilm/tasks/__init__.py": "\nfrom minilm.tasks.vowels import Vowels\nTASKS[Vowels.name] = Vowels()\n"},
    ),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the sources with all three added."""
    tree = tmp_path_factory.mktemp("tree")
    for folder in ("minilm", "kernels"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for new, lines in ADDED.values():
        for name, text in new.items():
            assert not (tree / name).exists()
            (tree / name).write_text(text, encoding="utf-8")
        for name, text in lines.items():
            with (tree / name).open("a", encoding="utf-8") as file:
                file.write(text)
    (tree / "lines.txt").write_text(
        "".join(f"{word} {n}\n" for n in range(20) for word in ("apple", "pear", "egg", "nut"))
    )
    return tree


def minilm(tree: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "minilm", *arguments]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("what", ADDED)
def test_the_page_names_these_files(what):
    """But for the tests, the new files and the places of a line are those of the page's table, and no more."""
    page = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| \[{what}\].*$", page, re.MULTILINE)
    _, _, files, places, _ = row.split("|")
    new, lines = ADDED[what]
    (name,) = new
    named = [n.replace("NAME", Path(name).stem) for n in re.findall(r"`([^`]+)`", files) if not n.startswith("tests/")]
    assert named == [name]
    assert {n for n in re.findall(r"`([^`]+)`", places) if "/" in n} == set(lines)


def test_the_op_is_checked(tree):
    assert "square" in minilm(tree, "gradcheck", "square")


def test_the_method_is_checked_and_trains_a_task_of_its_own(tree):
    minilm(tree, "gradcheck", "biases")
    small = ["--layers", "1", "--heads", "1", "--width", "8", "--context", "16", "--option", "bias=true"]
    training = ["--steps", "4", "--batch-size", "4", "--device", "cpu", "--quiet"]
    data = ["--task", "vowels", "--data", "lines.txt", "--out", "run"]
    assert "biases: biases, and the head" in " ".join(minilm(tree, "finetune", "--help").split())
    out = minilm(tree, "finetune", "gpt", "--method", "biases", *data, *small, *training, "--eval-every", "2")
    assert "run: trained; step 4" in out
    assert minilm(tree, "predict", "run", "apple pie", "--device", "cpu").split()[0] in ("no", "yes")
