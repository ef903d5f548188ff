"""Learning rate schedules: their corners."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from minilm.optim.schedules import SCHEDULES, schedule


@pytest.mark.parametrize("name", SCHEDULES)
def test_warm_up_is_linear_and_never_zero(name):
    assert [schedule(name, step, 100, 4) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert schedule(name, 4, 100, 4) == 1.0
    assert schedule(name, 0, 100) == 1.0


def test_constant():
    assert {schedule("constant", step, 10, 0, 0.1) for step in range(20)} == {1.0}


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_falls_to_the_minimum(name):
    factors = [schedule(name, step, 20, 5, 0.1) for step in range(5, 30)]
    assert all(a >= b for a, b in pairwise(factors))
    assert factors[15:] == pytest.approx([0.1] * 10)  # also beyond the end
    assert schedule(name, 10, 20, 0, 0.0) == pytest.approx(0.5)  # both are halfway down at half time


def test_cosine_by_hand():
    assert schedule("cosine", 5, 20, 0, 0.2) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)


def test_edges():
    assert schedule("cosine", 3, 4, 10) == 0.4  # the run ends during the warm-up
    assert schedule("linear", 10, 10, 10) == 1.0  # no step is left after it: nothing to divide by
    with pytest.raises(ValueError, match="constant, cosine, linear"):
        schedule("step", 0, 10)
