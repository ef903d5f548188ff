"""What the tests of attention share: inputs, every combination of options, and the definition as a loop.

Masks are drawn with queries as rows, keys as columns, 1 = visible:

    causal, 3 queries, 5 keys     key_lengths (2, 0)            mask (MASK below)
      1 1 1 0 0                     1 1 0 0 0 | 0 0 0 0 0         1 0 1 0 0
      1 1 1 1 0                     1 1 0 0 0 | 0 0 0 0 0         0 0 0 0 0    a row that sees nothing
      1 1 1 1 1                     1 1 0 0 0 | 0 0 0 0 0         0 1 1 0 1    key 3 is seen by nobody
"""

from __future__ import annotations

import itertools
import math

import numpy as np

MASK = np.array([[1, 0, 1, 0, 0], [0, 0, 0, 0, 0], [0, 1, 1, 0, 1]], dtype=bool)

OPTIONS = [
    dict(zip(("causal", "lengths", "mask", "bias"), chosen, strict=True))
    for chosen in itertools.product((False, True), repeat=4)
]


def arrays(rng, B=2, H=2, Hkv=2, Tq=3, Tk=5, D=4, Dv=4):
    shapes = (B, H, Tq, D), (B, Hkv, Tk, D), (B, Hkv, Tk, Dv)
    return tuple(rng.normal(size=shape) for shape in shapes)


def options_of(chosen, xp=None):
    """The keyword arguments, `bias` apart, of one row of OPTIONS for B = 2, Tq = 3, Tk = 5."""
    keywords = {"causal": chosen["causal"]}
    if chosen["lengths"]:
        keywords["key_lengths"] = np.array([4, 1])
    if chosen["mask"]:
        keywords["mask"] = MASK
    return keywords if xp is None else {name: xp.asarray(value) for name, value in keywords.items()}


def name_of(chosen):
    return "+".join(name for name, on in chosen.items() if on) or "plain"


def attention_in_a_loop(q, k, v, *, causal=False, key_lengths=None, mask=None, bias=None, scale=None):
    """One query at a time, over the list of keys that it sees. Returns y and the weights."""
    B, H, Tq, D = q.shape
    Hkv, Tk, Dv = v.shape[1:]
    y, weights = np.zeros((B, H, Tq, Dv)), np.zeros((B, H, Tq, Tk))
    allowed = np.broadcast_to(True if mask is None else mask, (B, H, Tq, Tk))
    added = np.broadcast_to(0.0 if bias is None else bias, (B, H, Tq, Tk))
    scale = 1 / math.sqrt(D) if scale is None else scale
    for b, h, i in itertools.product(range(B), range(H), range(Tq)):
        g = h // (H // Hkv)
        keys = [j for j in range(Tk) if allowed[b, h, i, j] and added[b, h, i, j] != -math.inf]
        keys = [j for j in keys if not causal or Tk - j >= Tq - i]  # as many keys after j as queries after i, or more
        keys = [j for j in keys if key_lengths is None or j < key_lengths[b]]
        if keys:
            scores = [scale * float(q[b, h, i] @ k[b, g, j]) + added[b, h, i, j] for j in keys]
            powers = [math.exp(s - max(scores)) for s in scores]
            for j, power in zip(keys, powers, strict=True):
                weights[b, h, i, j] = power / sum(powers)
                y[b, h, i] += weights[b, h, i, j] * v[b, g, j]
    return y, weights
