"""Keys and values with room: what is appended comes out, and no past is disturbed by another's future."""

from __future__ import annotations

import numpy as np
from hypothesis import given, strategies as st

from minilm.layers.key_values import extend_past


def draw(xp, rng, T):
    return tuple(xp.asarray(rng.standard_normal((2, 3, T, 4)).astype(np.float32)) for _ in "kv")


def test_appended_rows_come_out_in_order(xp, rng):
    parts = [draw(xp, rng, T) for T in (5, 1, 1, 90, 0, 3)]
    past = None
    for k, v in parts:
        past = extend_past(past, k, v)
    for found, column in ((past.keys, 0), (past.values, 1)):
        np.testing.assert_array_equal(
            xp.to_numpy(found), np.concatenate([xp.to_numpy(part[column]) for part in parts], axis=2)
        )
    assert past.length == 100


def test_the_newest_past_is_continued_in_place(xp, rng):
    first = extend_past(None, *draw(xp, rng, 5))
    second = extend_past(first, *draw(xp, rng, 1))
    assert second.buffers is first.buffers


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 40)), max_size=30))
def test_any_past_may_be_continued(steps):
    """A tree of texts: each step continues one of the pasts before it; all of them keep what they were."""
    rng = np.random.default_rng(0)
    pasts = [(extend_past(None, *(a := tuple(rng.random((2, 1, 1, 3, 2))))), a[0], a[1])]
    for which, T in steps:
        past, keys, values = pasts[which % len(pasts)]
        k, v = rng.random((2, 1, 1, T, 2))
        pasts.append((extend_past(past, k, v), np.concatenate((keys, k), 2), np.concatenate((values, v), 2)))
        for past, keys, values in pasts:
            assert np.array_equal(past.keys, keys) and np.array_equal(past.values, values)
