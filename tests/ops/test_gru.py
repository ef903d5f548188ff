"""gru: its definition, its gradient, its edges."""

from __future__ import annotations

import numpy as np
from hypothesis import given, strategies as st

from minilm.ops.gru import gru, gru_backward
from tests.ops.recurrent_suite import RecurrentOpSuite


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


class TestGRU(RecurrentOpSuite):
    op, backward, gates, states = staticmethod(gru), staticmethod(gru_backward), 3, 1

    @staticmethod
    def step(x, states, w_ih, w_hh, b_ih, b_hh):
        (h,) = states
        a_r, a_z, a_n = np.split(w_ih @ x + b_ih, 3)
        p_r, p_z, p_n = np.split(w_hh @ h + b_hh, 3)
        r, z = sigmoid(a_r + p_r), sigmoid(a_z + p_z)
        return [(1 - z) * np.tanh(a_n + r * p_n) + z * h]


@given(st.integers(0, 2**32), st.lists(st.integers(0, 5), min_size=1, max_size=4), st.booleans())
def test_a_batch_is_its_sequences_one_by_one(seed, lengths, reverse):
    TestGRU().check_each_alone(seed, lengths, 5, reverse)


def test_the_reset_gate_covers_the_bias():
    """With r closed, b_hn has no effect: it is inside the product. b_in, outside, has."""
    x, w = np.zeros((1, 1, 1)), np.zeros((3, 1))
    closed, outside = np.array([-50.0, 0.0, 0.0]), np.array([-50.0, 0.0, 1.0])
    (inside, _), _ = gru(x, w, w, closed, np.array([0.0, 0.0, 1.0]))
    (beside, _), _ = gru(x, w, w, outside, np.zeros(3))
    np.testing.assert_allclose(inside, 0, atol=1e-15)
    np.testing.assert_allclose(beside, 0.5 * np.tanh(1.0), atol=1e-15)


def test_a_closed_update_gate_keeps_the_state():
    """z = 1: h stays, and its gradient passes all steps unchanged."""
    h0, w, b_ih = np.full((1, 1), 0.7), np.zeros((3, 1)), np.array([0.0, 50.0, 0.0])
    (y, h_n), cache = gru(np.ones((1, 30, 1)), w, w, b_ih, None, h0)
    np.testing.assert_allclose(y, 0.7, atol=1e-15)
    *_, dh0 = gru_backward((None, np.ones((1, 1))), cache)
    np.testing.assert_allclose(dh0, 1.0, atol=1e-15)
    assert h_n.shape == (1, 1)
