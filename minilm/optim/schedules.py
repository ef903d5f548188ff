"""Schedules of the learning rate over a run: pure functions of the step, so that a resumed run needs no state.

Each gives a factor of the peak learning rate for `step` = 0, 1, …, `total` − 1:

    warm-up   (step + 1) / warmup                     the first `warmup` steps, linear  [Goyal et al. 2017, section 2.2]
    cosine    c + (1 − c) (1 + cos π x) / 2            c = `minimum`, x = (step − warmup) / (total − warmup)
    linear    c + (1 − c) (1 − x)                                                     [cosine: Loshchilov & Hutter 2017]
    constant  1
"""

from __future__ import annotations

import math

from minilm.checks import one_of


def constant(step: int, total: int, warmup: int = 0, minimum: float = 0.0) -> float:
    """1 after the warm-up."""
    return _warming_up(step, warmup) or 1.0


def warmup_cosine(step: int, total: int, warmup: int = 0, minimum: float = 0.0) -> float:
    """From 1 to `minimum` along half a cosine wave."""
    wave = (1 + math.cos(math.pi * _passed(step, total, warmup))) / 2
    return _warming_up(step, warmup) or minimum + (1 - minimum) * wave


def warmup_linear(step: int, total: int, warmup: int = 0, minimum: float = 0.0) -> float:
    """From 1 to `minimum` along a straight line."""
    return _warming_up(step, warmup) or minimum + (1 - minimum) * (1 - _passed(step, total, warmup))


SCHEDULES = {"constant": constant, "cosine": warmup_cosine, "linear": warmup_linear}


def schedule(name: str, step: int, total: int, warmup: int = 0, minimum: float = 0.0) -> float:
    """The factor of the schedule `name`: constant, cosine or linear. ValueError for another name."""
    return SCHEDULES[one_of("schedule", name, SCHEDULES)](step, total, warmup, minimum)


def _warming_up(step: int, warmup: int) -> float | None:
    """The factor during the warm-up, None after it."""
    return (step + 1) / warmup if step < warmup else None


def _passed(step: int, total: int, warmup: int) -> float:
    """The part of the steps after the warm-up that is done: 0 to 1."""
    return min(1.0, max(0, step - warmup) / max(1, total - warmup))
