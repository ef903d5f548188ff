"""The ladder of attention kernels: every rung is within what float32 arithmetic allows of the float64 definition."""

from __future__ import annotations

import numpy as np
import pytest

from minilm.kernels.cuda import ladder
from tests.kernels.test_attention_exact import Case, K, Q, V, called
from tests.kernels.tolerances import assert_call_within


@pytest.mark.parametrize("rung", ["naive", "tiles", "online"])
@pytest.mark.parametrize("Tq, Tk, causal", [(33, 97, False), (97, 33, True), (31, 33, True)])
def test_the_rungs_of_the_ladder(rung, Tq, Tk, causal, poisoned_empty, host_run):
    case = Case((1, 2, 2, Tq, Tk, 40), causal=causal)
    arrays, options, _ = called(case)
    y = ladder.attention(**arrays, causal=causal, rung=rung)
    assert_call_within("attention", arrays, options, (y,))


SANITIZED_LADDER = """
import numpy as np
from minilm.kernels.cuda import ladder
rng = np.random.default_rng(0)
q, k, v = rng.standard_normal((3, 1, 1, 37, 40)).astype(np.float32)
for rung in ("naive", "tiles"):
    assert np.isfinite(ladder.attention(q, k, v, causal=True, rung=rung)).all()
for rung in ("naive", "shared"):
    assert np.isfinite(ladder.softmax(q[0], rung=rung)).all()
"""


def test_sanitizers_are_silent_on_the_ladder(sanitized):
    outcome = sanitized(SANITIZED_LADDER)
    assert outcome.clean, outcome.report[-3000:]


def test_the_ladder_refuses_what_its_rungs_do_not_serve():
    with pytest.raises(ValueError, match="rung 'best' is unknown"):
        ladder.attention(Q, K, V, rung="best")
    with pytest.raises(ValueError, match="serves equal numbers"):
        ladder.attention(Q, K[:, :1].copy(), V[:, :1].copy(), rung="naive")
    with pytest.raises(TypeError, match="served are float32"):
        ladder.attention(*(x.astype(np.float64) for x in (Q, K, V)), rung="naive")
