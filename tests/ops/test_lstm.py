"""lstm: its definition, its gradient, its edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm.ops.lstm import lstm, lstm_backward
from tests.ops.recurrent_suite import RecurrentOpSuite


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


class TestLSTM(RecurrentOpSuite):
    op, backward, gates, states = staticmethod(lstm), staticmethod(lstm_backward), 4, 2

    @staticmethod
    def step(x, states, w_ih, w_hh, b_ih, b_hh):
        h, c = states
        i, f, g, o = np.split(w_ih @ x + b_ih + w_hh @ h + b_hh, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return [sigmoid(o) * np.tanh(c), c]

    @pytest.mark.parametrize("absent", [5, 6])
    def test_one_initial_state_is_enough(self, absent, xp, rng):
        args = [None if n == absent else a for n, a in enumerate(self.arguments(rng))]
        got, cache = self.op(*xp.asarrays(args))
        self.close(got, self.define(*args), xp)
        gradients = self.backward(self.upstream(rng, got, xp), cache)
        assert [g is None for g in gradients] == [a is None for a in args]

    def test_wrong_cell_shape(self, xp, rng):
        *args, _ = self.arguments(rng)
        with pytest.raises(ValueError, match="c0 has shape \\(3, 4\\), expected \\(3, 3\\)"):
            self.op(*xp.asarrays((*args, np.zeros((3, 4)))))


@given(st.integers(0, 2**32), st.lists(st.integers(0, 5), min_size=1, max_size=4), st.booleans())
def test_a_batch_is_its_sequences_one_by_one(seed, lengths, reverse):
    TestLSTM().check_each_alone(seed, lengths, 5, reverse)


def test_an_open_forget_gate_keeps_the_cell():
    """f = 1, i = 0: c stays, and its gradient passes all steps unchanged."""
    w, b = np.zeros((4, 1)), np.array([-50.0, 50.0, 0.0, 0.0])
    state = np.zeros((1, 1)), np.full((1, 1), 0.7)
    (_, _, c_n), cache = lstm(np.ones((1, 30, 1)), w, w, b, None, *state)
    np.testing.assert_allclose(c_n, 0.7, atol=1e-15)
    *_, dc0 = lstm_backward((None, None, np.ones((1, 1))), cache, wrt=("c0",))
    np.testing.assert_allclose(dc0, 1.0, atol=1e-15)
