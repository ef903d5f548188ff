"""What the definitions of the recurrent ops share: the products outside the loop, the states before and after it.

Inside the ops all is time-major, (T, B, ·), so that the T steps together are one matrix of T·B rows. The products that
do not depend on the state are done for all steps at once: the input's before the loop, those of the weight gradients
after it. The state after a sequence's last step is picked out of all states, as is its gradient.
"""

from __future__ import annotations

from collections.abc import Container

import numpy as np

from minilm.backend import Array, array_namespace
from minilm.steps import Steps, to_positions, to_steps


def recurrent_weight(w_hh: Array, T: int) -> Array:
    """w_hhᵀ (H, gates·H), laid out for the T products of the loop; a single step is not worth the copy."""
    return array_namespace(w_hh).ascontiguousarray(w_hh.T) if T > 1 else w_hh.T


def final_state(states: Array, steps: Steps) -> Array:
    """The state after each sequence's last step. `states` (T + 1, B, H) begins with the initial one. Returns (B, H)."""
    if steps.lengths is None:
        return states[-1].copy()
    return states[steps.lengths, array_namespace(states).arange(states.shape[1])]


def state_gradients(dy: Array | None, dfinal: Array | None, steps: Steps, like: Array) -> Array:
    """∂L/∂state from outside the recurrence, for every state: that of y, and at each sequence's end that of h_n.

    `like` are the states (T + 1, B, H), which begin with the initial one. Returns (T + 1, B, H).
    """
    xp = array_namespace(like)
    dtype = xp.result_type(*(array for array in (like, dy, dfinal) if array is not None))
    dstates = xp.zeros(like.shape, dtype)
    if dy is not None:
        dstates[1:] = to_steps(dy, steps)
    if dfinal is not None:
        at_end = -1 if steps.lengths is None else (steps.lengths, xp.arange(like.shape[1]))
        dstates[at_end] += dfinal
    return dstates


def project_inputs(x: Array, w_ih: Array, bias: Array | None, steps: Steps, dtype: np.dtype) -> Array:
    """x w_ihᵀ + bias for all steps in one product. Returns a new (T, B, gates·H) of `dtype`."""
    B, T, I = x.shape
    projected = (to_steps(x, steps).reshape(T * B, I) @ w_ih.T).astype(dtype, copy=False)  # (T·B, gates·H)
    if bias is not None:
        projected += bias
    return projected.reshape(T, B, w_ih.shape[0])


def input_gradients(
    dgates: Array, x: Array, w_ih: Array, has_bias: bool, steps: Steps, wrt: Container[str]
) -> tuple[Array | None, Array | None, Array | None]:
    """dx, dw_ih, db_ih of `project_inputs` from dgates (T, B, gates·H): one product each for all steps."""
    B, T, I = x.shape
    drows = dgates.reshape(T * B, w_ih.shape[0])
    dx = dw_ih = db_ih = None
    if "x" in wrt:
        dx = to_positions((drows @ w_ih).reshape(T, B, I), steps)  # (B, T, I)
    if "w_ih" in wrt:
        dw_ih = drows.T @ to_steps(x, steps).reshape(T * B, I)  # (gates·H, I)
    if "b_ih" in wrt and has_bias:
        db_ih = drows.sum(axis=0)  # (gates·H,)
    return dx, dw_ih, db_ih


def recurrent_gradients(
    dgates: Array, states: Array, has_bias: bool, wrt: Container[str]
) -> tuple[Array | None, Array | None]:
    """dw_hh, db_hh from dgates (T, B, gates·H) and the states (T + 1, B, H): one product for all steps."""
    T, B, rows = dgates.shape
    drows = dgates.reshape(T * B, rows)
    dw_hh = drows.T @ states[:-1].reshape(T * B, states.shape[2]) if "w_hh" in wrt else None  # (gates·H, H)
    return dw_hh, drows.sum(axis=0) if "b_hh" in wrt and has_bias else None
