"""What every task has, and that nothing else knows a task or a method by its name."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest

import minilm
from minilm.adapt import METHODS
from minilm.tasks import TASKS, Task

ROOT = Path(minilm.__file__).parent


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_a_task_says_all_that_is_asked(task):
    assert isinstance(task, Task) and task.summary and task.held_out
    for kind in (task.options, task.head):
        assert all(field.metadata["help"] for field in dataclasses.fields(kind))
    for method in ("read", "model", "data", "scores"):
        assert getattr(type(task), method) is not getattr(Task, method)


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_a_method_says_all_that_is_asked(method):
    assert method.summary and method.learning_rate > 0
    assert all(field.metadata["help"] for field in dataclasses.fields(method.options))


def branches(folder, names):
    """Comparisons with one of `names`, in all files outside of `folder`."""
    for file in sorted(ROOT.rglob("*.py")):
        if not file.is_relative_to(ROOT / folder):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Compare | ast.MatchValue):
                    found = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
                    if found & names:
                        yield f"{file.relative_to(ROOT)}:{node.lineno}"


def test_no_branch_on_the_name_of_a_task():
    assert not list(branches("tasks", set(TASKS)))


def test_no_branch_on_the_name_of_a_method():
    """ "full" is also a mode of the gradient checker, which knows of no methods."""
    assert not [where for where in branches("adapt", set(METHODS)) if not where.startswith("gradcheck/")]
