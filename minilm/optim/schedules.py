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

SCHEDULES = {  # after the warm-up, by the part x of the steps that is done, and the minimum c
    "constant": lambda x, c: 1.0,
    "cosine": lambda x, c: c + (1 - c) * ((1 + math.cos(math.pi * x)) / 2),
    "linear": lambda x, c: c + (1 - c) * (1 - x),
}


def schedule(name: str, step: int, total: int, warmup: int = 0, minimum: float = 0.0) -> float:
    """The factor of the schedule `name`: constant, cosine or linear. ValueError for another name."""
    decay = SCHEDULES[one_of("schedule", name, SCHEDULES)]
    if step < warmup:
        return (step + 1) / warmup
    return decay(min(1.0, (step - warmup) / max(1, total - warmup)), minimum)
