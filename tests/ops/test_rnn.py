"""rnn: its definition, its gradient, its edges."""

from __future__ import annotations

import numpy as np
from hypothesis import given, strategies as st

from minilm.ops.rnn import rnn, rnn_backward
from tests.ops.recurrent_suite import RecurrentOpSuite


class TestRNN(RecurrentOpSuite):
    op, backward, gates, states = staticmethod(rnn), staticmethod(rnn_backward), 1, 1

    @staticmethod
    def step(x, states, w_ih, w_hh, b_ih, b_hh):
        return [np.tanh(w_ih @ x + b_ih + w_hh @ states[0] + b_hh)]


@given(st.integers(0, 2**32), st.lists(st.integers(0, 5), min_size=1, max_size=4), st.booleans())
def test_a_batch_is_its_sequences_one_by_one(seed, lengths, reverse):
    TestRNN().check_each_alone(seed, lengths, 5, reverse)


def test_gradient_vanishes_and_explodes_with_the_recurrent_weight():
    """One unit near h = 0: ∂h_T/∂h_0 is the weight to the power T."""
    for weight in (0.5, 2.0):
        x, one = np.zeros((1, 10, 1)), np.ones((1, 1))
        _, cache = rnn(x, one, weight * one, h0=1e-9 * one)
        *_, dh0 = rnn_backward((None, one), cache, wrt=("h0",))
        np.testing.assert_allclose(dh0, [[weight**10]], rtol=1e-6)
