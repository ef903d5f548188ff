"""Layer norm over rows. y = gain · x̂ + bias with x̂ = (x − μ)/σ; x, y, dx, dy (rows, N); gain, bias (N,).

With g = gain · dy and ⟨·⟩ the mean of a row: dx = (g − ⟨g⟩ − x̂ ⟨g x̂⟩)/σ; dgain = Σ dy x̂ and dbias = Σ dy over the rows.
The sums over rows take two kernels, without atomics: each program adds up rows of its own, in order, and the second
kernel adds up the programs' parts. The same launch gives the same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def layer_norm_forward(x, gain, bias, y, mean, rstd, N, eps, BLOCK: tl.constexpr):
    """One program a row, held in registers; μ and 1/σ (rows,) float32 are kept for the backward."""
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < N
    base = row.to(tl.int64) * N
    values = tl.load(x + base + at, mask=inside, other=0.0).to(tl.float32)  # (BLOCK,)
    centre = tl.sum(values, axis=0) / N
    centred = tl.where(inside, values - centre, 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=0) / N + eps)
    scale = tl.load(gain + at, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + base + at, centred * inverse * scale + shift, mask=inside)
    tl.store(mean + row, centre)
    tl.store(rstd + row, inverse)


@triton.jit
def layer_norm_backward(x, gain, dy, mean, rstd, dx, dgain_parts, dbias_parts, rows, N, BLOCK: tl.constexpr):
    """Program p of P takes the rows p, p + P, p + 2P, ...; the parts are (P, N) float32."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    at = tl.arange(0, BLOCK)
    inside = at < N
    scale = tl.load(gain + at, mask=inside, other=0.0).to(tl.float32)  # (BLOCK,)
    dgain = tl.zeros([BLOCK], tl.float32)
    dbias = tl.zeros([BLOCK], tl.float32)
    offset = program.to(tl.int64) * N + at
    step = programs.to(tl.int64) * N
    for row in range(program, rows, programs):
        inverse = tl.load(rstd + row)
        xhat = tl.load(x + offset, mask=inside, other=0.0).to(tl.float32) - tl.load(mean + row)
        xhat = tl.where(inside, xhat * inverse, 0.0)
        slope = tl.load(dy + offset, mask=inside, other=0.0).to(tl.float32)
        dgain += slope * xhat
        dbias += slope
        g = slope * scale
        through_mean = tl.sum(g, axis=0) / N
        through_sigma = tl.sum(g * xhat, axis=0) / N
        tl.store(dx + offset, (g - through_mean - xhat * through_sigma) * inverse, mask=inside)
        offset += step
    part = program.to(tl.int64) * N + at
    tl.store(dgain_parts + part, dgain, mask=inside)
    tl.store(dbias_parts + part, dbias, mask=inside)


@triton.jit
def layer_norm_sum_parts(
    dgain_parts, dbias_parts, dgain, dbias, programs, N, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr
):
    """One program a block of columns: the parts (programs, N) are added up from above."""
    at = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    part = tl.arange(0, BLOCK_P)
    sum_gain = tl.zeros([BLOCK_P, BLOCK_N], tl.float32)
    sum_bias = tl.zeros([BLOCK_P, BLOCK_N], tl.float32)
    for start in range(0, programs, BLOCK_P):
        inside = ((start + part) < programs)[:, None] & (at < N)[None, :]
        offset = (start + part)[:, None] * N + at[None, :]  # (BLOCK_P, BLOCK_N)
        sum_gain += tl.load(dgain_parts + offset, mask=inside, other=0.0)
        sum_bias += tl.load(dbias_parts + offset, mask=inside, other=0.0)
    tl.store(dgain + at, tl.sum(sum_gain, axis=0), mask=at < N)
    tl.store(dbias + at, tl.sum(sum_bias, axis=0), mask=at < N)
