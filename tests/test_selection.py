"""The choice between an op's definition and its tuned versions, on an op made up for the test: y = 2 x."""

from __future__ import annotations

import inspect
import threading
from typing import NamedTuple

import numpy as np
import pytest

import minilm
import minilm.kernels  # must register in the real registry, not in a test's
from minilm import selection
from minilm.selection import Version, backward_of, op, problem, reference, register, versions, which


class DefinitionCache(NamedTuple):
    factor: float


class SmallCache(NamedTuple):
    factor: float


class AnyCache(NamedTuple):
    factor: float


@pytest.fixture
def calls(monkeypatch):
    """Registries of this test alone; what ran is listed by name."""
    monkeypatch.setattr(selection, "_versions", {})
    monkeypatch.setattr(selection, "_ops", {})
    return []


@pytest.fixture
def double(calls):
    @op
    def double(x, factor=2.0):
        """y = factor · x"""
        calls.append("definition")
        return factor * x, DefinitionCache(factor)

    @backward_of(double)
    def double_backward(dy, cache):
        calls.append("definition backward")
        return dy * cache.factor

    return double


def version(name, cache_type, calls, refuses=lambda x, factor=2.0: None):
    def forward(x, factor=2.0):
        calls.append(name)
        return factor * x, cache_type(factor)

    def backward(dy, cache):
        calls.append(f"{name} backward")
        return dy * cache.factor

    return Version(name, forward, backward, cache_type, refuses)


def only_small(x, factor=2.0):
    return None if x.size <= 4 else f"{x.size} numbers are more than 4"


SMALL, LARGE = np.ones(3), np.ones(8)


def test_definition_runs_where_nothing_is_registered(double, calls):
    y, cache = double(SMALL)
    assert np.array_equal(y, 2 * SMALL) and type(cache) is DefinitionCache
    assert calls == ["definition"]


def test_first_version_that_serves_runs(double, calls):
    register("double", version("small", SmallCache, calls, only_small))
    register("double", version("any", AnyCache, calls))
    assert type(double(SMALL)[1]) is SmallCache
    assert type(double(LARGE)[1]) is AnyCache
    assert calls == ["small", "any"]
    assert [v.name for v in versions("double")] == ["small", "any"]


def test_definition_runs_where_every_version_refuses(double, calls):
    register("double", version("small", SmallCache, calls, only_small))
    assert type(double(LARGE)[1]) is DefinitionCache
    assert calls == ["definition"]


def test_backward_follows_the_cache(double, calls):
    register("double", version("small", SmallCache, calls, only_small))
    for x, ran in ((SMALL, "small"), (LARGE, "definition")):
        calls.clear()
        _, cache = double(x, factor=3.0)
        assert np.array_equal(double.backward(x, cache), 3.0 * x)
        assert calls == [ran, f"{ran} backward"]


def test_reference_forces_the_definition(double, calls):
    register("double", version("small", SmallCache, calls, only_small))
    with reference():
        assert type(double(SMALL)[1]) is DefinitionCache
    assert type(double(SMALL)[1]) is SmallCache


def test_reference_is_public_and_ends_with_an_exception(double, calls):
    register("double", version("small", SmallCache, calls, only_small))
    with pytest.raises(KeyError), minilm.reference():
        raise KeyError
    double(SMALL)
    assert calls == ["small"]


def test_backward_follows_the_cache_inside_reference(double, calls):
    register("double", version("small", SmallCache, calls, only_small))
    _, cache = double(SMALL)
    with reference():
        double.backward(SMALL, cache)
    assert calls == ["small", "small backward"]


def test_reference_holds_for_its_own_thread(double, calls):
    register("double", version("small", SmallCache, calls, only_small))
    with reference():
        other = threading.Thread(target=double, args=(SMALL,))
        other.start()
        other.join()
        double(SMALL)
    assert calls == ["small", "definition"]


def test_without_cache(double, calls):
    register("double", version("small", SmallCache, calls, only_small))
    for x in (SMALL, LARGE):
        y, cache = double(x, cache=False)
        assert cache is None and np.array_equal(y, 2 * x)


def test_op_that_can_save_work_is_told_whether_a_cache_is_wanted(calls):
    @op
    def frugal(x, *, cache=True):
        calls.append(cache)
        return x, (DefinitionCache(1.0) if cache else None)

    assert frugal(SMALL)[1] is not None
    assert frugal(SMALL, cache=False)[1] is None
    assert calls == [True, False]


def test_problem_is_what_a_check_raises():
    def check(x, *, limit):
        if x > limit:
            raise ValueError(f"{x} is too large")

    assert problem(check, 1, limit=2) is None
    assert problem(check, 3, limit=2) == "3 is too large"
    assert "not supported" in problem(check, None, limit=2)  # a TypeError
    with pytest.raises(AttributeError):  # an error in the check itself is not swallowed
        problem(lambda x: x.nothing, 1)


def test_signature_shows_cache(double):
    assert list(inspect.signature(double).parameters) == ["x", "factor", "cache"]
    assert double.__doc__ == "y = factor · x"


@pytest.mark.parametrize("name, cache_type", [("small", AnyCache), ("other", SmallCache)])
def test_a_version_needs_its_own_name_and_cache_type(double, calls, name, cache_type):
    register("double", version("small", SmallCache, calls))
    with pytest.raises(ValueError, match="'small' has this name or cache type"):
        register("double", version(name, cache_type, calls))
    assert len(versions("double")) == 1


def test_an_op_needs_its_own_name(double):
    with pytest.raises(ValueError, match="two ops are named 'double'"):

        @op
        def double(x):
            return x, None


def test_which(double, calls):
    assert which("double", SMALL) == "double: definition (no tuned version is registered)"
    register("double", version("small", SmallCache, calls, only_small))
    register("double", version("any", AnyCache, calls))
    assert which("double", SMALL) == "double: small"
    assert which("double", LARGE) == "double: any\n  not small: 8 numbers are more than 4"
    with reference():
        assert which("double", SMALL) == "double: definition (inside minilm.reference())"
    assert which("double", SMALL, factor=3.0, cache=False) == "double: small"
    assert calls == []  # nothing was computed
    with pytest.raises(ValueError, match="op 'triple' is unknown; known are double"):
        which("triple", SMALL)


def test_which_names_the_definition_where_all_refuse(double, calls):
    register("double", version("small", SmallCache, calls, only_small))
    assert which("double", LARGE) == "double: definition\n  not small: 8 numbers are more than 4"


def test_an_error_of_a_version_is_not_hidden_by_the_definition(double, calls):
    def fails(x, factor=2.0):
        raise RuntimeError("out of memory")

    register("double", version("small", SmallCache, calls)._replace(forward=fails))
    with pytest.raises(RuntimeError, match="out of memory"):
        double(SMALL)
    assert calls == []
