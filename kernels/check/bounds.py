"""The error that arithmetic allows a kernel, for every element of every result, in float64: attention and its decoding.

A rounded operation gives fl(a∘b) = (a∘b)(1 + δ), |δ| ≤ u. A sum of n terms, in whatever order and with or without fused
multiply-adds, is off by at most γₙ Σ|terms|, γₙ = nu / (1 − nu); a value that is off by a relative ε takes part in a
product with that ε. These two rules are carried from the inputs, which are exact, to the results, to first order in u
[Higham 2002, "Accuracy and Stability of Numerical Algorithms", §2.2, §3.1, §3.3]. Nothing is measured, so that neither
another BLAS nor another random draw moves a bound.

Roundings to nearest are as good as independent, and uniform within ±u: n of them add up to more than c√n u, c =
CONFIDENCE = 4, with probability 2 exp(−3c²/2) = 8e-11 (Hoeffding; [Higham and Mary 2019, "A new approach to
probabilistic rounding error analysis"]). So γₙ = c√n u where that is less, from n = 17 on: long sums would else be
allowed many times what they make. With T = |scale| Σ_d |q k|, M the dropout factors, P̃ = P ∘ M:

    scores     |Δz| ≤ γ_{D+2} T                     D products, the factor scale·log₂e and q times it;
                                                    with a bias besides 2u|bias| + u|z|
    weights    ε = |Δz| + u|z − m| + 4u             e = 2^(z − m): the argument's rounding is as large as the argument,
                                                    ex2.approx is right to 2 units of the last place, that is 4u
    sum        λ = Σ_j P ε + γ_n + θ                relative, of l = Σ e over the n keys that the row sees
               θ = changes (5u + [u|m|])            of the running maximum: at most n, or one for each tile of 8 keys,
                                                    the smallest there is; each rescales l and o by an e of its own;
                                                    [..]: tensor cores, where m is rounded before it is subtracted
    y          Σ_j P̃|v| (ε + θ + γ_n) + |y|(λ + 5u)
    LSE        λ + u(3|LSE| + 2|m| + 2|log l|)
    P again    π = |Δz| + ΔLSE + u(|z − LSE| + |z| + |LSE|) + 4u          in backward, relative
    D          Σ_j P̃|dP| (ε + θ) + |D|(λ + 5u) + γ_D Σ_d |dy y|           D = Σ_d dy y = Σ_j P̃ dP, with y's error; its
                                                    own roundings, |dy| γ_n Σ_j P̃|v|, as below: together
    t          M γ_{D+1}(Σ_d |dy v| + |D|) + 2u M|dP| + ΔD + u|t|         t = M dP − D, dP = Σ_d dy v
    dS         P Δt (1 + π) + P|t|(π + u)           dS = P t
    dv         Σ_i P̃|dy| (π + 2u + γ_n)             n: the queries, of all heads of the group, that see the key
    dq         |scale| Σ_j |k| (ΔdS + γ_n|dS|) + 5u|dq|                   dk likewise, with q, over the group's queries
    dbias      Σ ΔdS + γ_n Σ|dS|                    over the axes along which the bias was broadcast

What a kernel for 16-bit numbers rounds to the element type besides, with its unit u_e: P̃ and dS, packed for the tensor
core, and each result. The errors of n packed terms together are at most u_e Σ|terms|, and by the argument above at most
c u_e √Σ terms²; the smaller is allowed. With the first alone a float16 sum in place of a float32 one would pass.

Small numbers: what is stored below the normal numbers is off by `least`; kernels are compiled with -ftz, so that for
float32 and bfloat16 it is the least normal number itself. What nobody sees is exactly 0, and 0 is allowed there.

The tensor core cuts its sums off instead of rounding them [Fasi et al. 2021, "Numerical behavior of NVIDIA tensor
cores"]: an addition there counts 2u, always in the same direction, γₙ = 2nu / (1 − 2nu). The definition's own float64
roundings count with the kernel's: u is larger by 2⁻⁵³. `row_bounds` has softmax and cross-entropy.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minilm.kernels.check.definitions import as_attention, kept_weights, sum_to, visible_pairs

EXPONENTIAL = 4  # units u: 2 units of the last place, of ex2.approx.ftz.f32, exp2f and NumPy's exp
CONFIDENCE = 4.0  # c: sums of independent roundings are larger with probability 8e-11
SMALLEST_TILE = 8  # keys between two changes of a running maximum, at least


class Arithmetic(NamedTuple):
    """How a kernel calculates with an element type."""

    unit: float  # u of an operation on registers
    element: float  # of storing a result; 0 where the registers have its type
    least: float  # how far off a stored number below the normal ones is
    tensor_cores: bool  # products of matrices cut off; P and dS are rounded to the element type

    @property
    def lost(self) -> float:
        """How far off a factor in a product of matrices is that becomes too small for a normal number."""
        return self.least if self.tensor_cores else min(self.least, 2.0**-126)

    def sum(self, n: Any) -> Any:
        """γₙ of a sum of n terms."""
        return np.minimum(n * self.unit / (1 - n * self.unit), CONFIDENCE * np.sqrt(n) * self.unit)

    def product(self, n: Any) -> Any:
        """γₙ of a sum of n terms in a product of matrices."""
        return 2 * n * self.unit / (1 - 2 * n * self.unit) if self.tensor_cores else self.sum(n)


def arithmetic(dtype: str, tensor_cores: bool = False) -> Arithmetic:
    """The arithmetic of a kernel for `dtype`; tensor_cores: of its products of matrices, if the dtype has 16 bits."""
    own = 2.0**-53  # of the definition that a result is compared with
    if dtype == "float64":
        return Arithmetic(2.0**-53 + own, 0.0, 2.0**-1022, False)
    single = 2.0**-24 + own
    if dtype == "float32":
        return Arithmetic(single, 0.0, 2.0**-126, False)
    element, least = {"float16": (2.0**-11, 2.0**-25), "bfloat16": (2.0**-8, 2.0**-126)}[dtype]
    return Arithmetic(single, element, least, tensor_cores)


def stored(error: np.ndarray, value: np.ndarray, how: Arithmetic, seen: Any = True) -> np.ndarray:
    """The error of a result that is off by `error` before it is rounded to the element type; 0 where nothing is seen"""
    return np.where(seen, error + how.element * (np.abs(value) + error) + how.least, 0.0)


def _of_group(x: np.ndarray, groups: int) -> np.ndarray:
    """(B, H, Tk, ...) summed over the query heads that share a key head: (B, Hkv, Tk, ...)."""
    return x.reshape(x.shape[0], x.shape[1] // groups, groups, *x.shape[2:]).sum(axis=2)


def _together(errors: np.ndarray, other: np.ndarray, groups: int = 1) -> np.ndarray:
    """The size of errors @ other, summed over groups, where the errors are independent of each other."""
    one_way = _of_group(np.abs(errors) @ np.abs(other), groups)
    return np.minimum(one_way, CONFIDENCE * np.sqrt(_of_group(errors**2 @ other**2, groups)))


def _row_sum(errors: np.ndarray) -> np.ndarray:
    """The size of the sum along the last axis of errors that are independent of each other."""
    return np.minimum(
        np.abs(errors).sum(axis=-1, keepdims=True), CONFIDENCE * np.sqrt((errors**2).sum(axis=-1, keepdims=True))
    )


def _packed(
    terms: np.ndarray, other: np.ndarray, visible: np.ndarray, largest: float, how: Arithmetic, groups: int = 1
) -> np.ndarray:
    """The error of terms @ other from storing `terms`, summed over groups; a term lost as too small costs `largest`."""
    lost = how.lost * largest * _of_group(visible.astype(np.float64) @ np.abs(other), groups)
    return lost + how.element * _together(terms, other, groups) if how.tensor_cores else lost


class AttentionBounds(NamedTuple):
    """The allowed errors, elementwise; gradients are None where no dy was given, and dbias without a bias."""

    y: np.ndarray  # (B, H, Tq, D)
    lse: np.ndarray  # (B, H, Tq)  in base 2, as kernels keep it
    dq: np.ndarray | None = None  # (B, H, Tq, D)
    dk: np.ndarray | None = None  # (B, Hkv, Tk, D)
    dv: np.ndarray | None = None  # (B, Hkv, Tk, D)
    dbias: np.ndarray | None = None  # of the bias's shape


def attention_bounds(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    dtype: str,
    *,
    visible: np.ndarray,
    scale: float,
    bias: np.ndarray | None = None,
    factors: np.ndarray | None = None,
    dy: np.ndarray | None = None,
    tensor_cores: bool | None = None,
) -> AttentionBounds:
    """Bounds on the errors of attention in `dtype`.

    q, dy (B, H, Tq, D), k, v (B, Hkv, Tk, D), bias: the rounded numbers, in any dtype
    visible       (B, H, Tq, Tk) boolean, bias of −∞ included
    factors       (B, H, Tq, Tk)  M: 0 for a dropped weight, else 1 / (1 − dropout)
    tensor_cores  by default where the dtype has 16 bits; the decode kernel has them on plain cores
    """
    how = arithmetic(dtype, dtype in ("float16", "bfloat16") if tensor_cores is None else tensor_cores)
    u = how.unit
    groups = q.shape[1] // k.shape[1]
    sees, seen = visible.any(axis=3, keepdims=True), visible.any(axis=2)[..., None]
    given = [x.astype(np.float64) for x in (q, k.repeat(groups, axis=1), v.repeat(groups, axis=1))]
    q, k, v = (np.where(rows, x, 0.0) for rows, x in zip((sees, seen, seen), given, strict=True))
    keys, values = (x.swapaxes(-1, -2) for x in (k, v))  # (B, H, D, Tk)
    D = q.shape[3]

    # ---- forward
    z = np.where(visible, scale * (q @ keys), 0.0)  # (B, H, Tq, Tk)
    score_error = how.product(D + 2) * abs(scale) * (np.abs(q) @ np.abs(keys))
    if bias is not None:
        added = np.where(visible, bias.astype(np.float64), 0.0)
        z = z + added
        score_error = score_error + u * (2 * np.abs(added) + np.abs(z))
    m = np.where(visible, z, -np.inf).max(axis=3, keepdims=True, initial=-np.inf)  # (B, H, Tq, 1)
    m = np.where(sees, m, 0.0)
    e = np.where(visible, np.exp(np.where(visible, z - m, 0.0)), 0.0)
    total = np.where(sees, e.sum(axis=3, keepdims=True), 1.0)
    P, log_total = e / total, np.log(total)
    M = visible.astype(np.float64) if factors is None else factors
    dropped, most = P * M, float(M.max(initial=0.0))
    n = visible.sum(axis=3, keepdims=True)  # (B, H, Tq, 1)
    changes = np.minimum(n, -(-visible.shape[3] // SMALLEST_TILE))  # of the running maximum, at most
    rescaled = changes * u * (EXPONENTIAL + 1 + how.tensor_cores * np.abs(m))  # θ
    weight_error = score_error + u * np.abs(z - m) + EXPONENTIAL * u  # ε
    sum_error = (P * weight_error).sum(axis=3, keepdims=True) + how.sum(n) + rescaled  # λ
    y = dropped @ v
    weight_error = dropped * (weight_error + rescaled)  # of P̃ now
    y_own = how.product(n) * (dropped @ np.abs(v))
    y_error = weight_error @ np.abs(v) + np.abs(y) * (sum_error + 5 * u) + _packed(dropped, v, visible, most, how)
    y_error = stored(y_error + y_own, y, how, sees)
    lse = m + log_total
    lse_error = sum_error + u * (3 * np.abs(lse) + 2 * np.abs(m) + 2 * log_total)
    result = AttentionBounds(y_error, np.where(sees, lse_error / np.log(2.0), 0.0)[..., 0])
    if dy is None:
        return result

    # ---- backward
    dy = np.where(sees, dy.astype(np.float64), 0.0)
    again = score_error + lse_error + u * (np.abs(z - lse) + np.abs(z) + np.abs(lse) + EXPONENTIAL)  # π
    dP, delta = dy @ values, (dy * y).sum(axis=3, keepdims=True)
    t = M * dP - delta
    delta_error = (weight_error * np.abs(dP)).sum(axis=3, keepdims=True) + np.abs(delta) * (sum_error + 5 * u)
    delta_error += how.sum(D) * np.abs(dy * y).sum(axis=3, keepdims=True) + _row_sum(dy * stored(y_own, y, how, sees))
    if how.tensor_cores:
        delta_error += how.element * _row_sum(dropped * dP)
    t_error = M * how.product(D + 1) * (np.abs(dy) @ np.abs(values) + np.abs(delta)) + 2 * u * np.abs(M * dP)
    t_error += delta_error + u * np.abs(t)
    dS = P * t
    dS_error = P * t_error * (1 + again) + np.abs(dS) * (again + u)

    def summed(terms, error, other):
        """|error| @ |other| with the roundings of the sum of n terms, and of packing; for keys over their group."""
        terms, error, pairs = (x.swapaxes(-1, -2) for x in (terms, error, visible))
        n = _of_group(pairs.sum(axis=3, keepdims=True), groups)
        off = _of_group(error @ np.abs(other), groups) + _packed(terms, other, pairs, most, how, groups)
        return off + how.product(n) * _of_group(np.abs(terms) @ np.abs(other), groups)

    seen = _of_group(seen, groups) > 0
    dv = _of_group(dropped.swapaxes(-1, -2) @ dy, groups)
    dv_error = stored(summed(dropped, dropped * (again + 2 * u), dy), dv, how, seen)
    dk = scale * _of_group(dS.swapaxes(-1, -2) @ q, groups)
    dk_error = stored(abs(scale) * summed(dS, dS_error, q) + 5 * u * np.abs(dk), dk, how, seen)
    dq = scale * (dS @ k)
    dq_error = dS_error @ np.abs(k) + how.product(n) * (np.abs(dS) @ np.abs(k)) + _packed(dS, k, visible, 1.0, how)
    dq_error = stored(abs(scale) * dq_error + 5 * u * np.abs(dq), dq, how, sees)
    dbias = None
    if bias is not None:
        count, terms = sum_to(visible, bias.shape), sum_to(np.abs(dS), bias.shape)
        dbias = sum_to(dS_error + min(how.least, 2.0**-126) * visible, bias.shape) + how.sum(count) * terms
        dbias = stored(dbias, sum_to(dS, bias.shape), how, count > 0)
    return result._replace(dq=dq_error, dk=dk_error, dv=dv_error, dbias=dbias)


def bounds_of_call(
    op: str, arrays: dict[str, np.ndarray], options: dict[str, Any], dtype: str, dy: np.ndarray | None
) -> AttentionBounds:
    """Those of a call of "attention", or "attention_decode" on plain cores, for a generator of `definitions.SEED`."""
    arrays, options = as_attention(op, arrays, options)
    q, k, bias = arrays["q"], arrays["k"], arrays.get("bias")
    shape = (*q.shape[:3], k.shape[2])
    p, scale = options.get("dropout", 0.0), options.get("scale")
    masks = {name: options[name] for name in ("causal", "key_lengths", "mask") if name in options}
    return attention_bounds(
        *(q, k, arrays["v"]),
        dtype,
        visible=visible_pairs(shape, bias=bias, **masks),
        scale=q.shape[3] ** -0.5 if scale is None else scale,
        bias=bias,
        factors=kept_weights(*shape, p) / (1.0 - p) if p else None,
        dy=dy,
        tensor_cores=False if op == "attention_decode" else None,
    )


def call_bounds(
    op: str, arrays: dict[str, np.ndarray], options: dict[str, Any], dtype: str, dy: np.ndarray | None
) -> list[np.ndarray | None]:
    """y and the gradients of a call of "attention" or "attention_decode", as `definitions.definition` orders them."""
    if op == "attention_decode":
        return [bounds_of_call(op, arrays, options, dtype, None).y[:, :, 0]]
    bounds = bounds_of_call(op, arrays, options, dtype, dy)
    return [bounds.y, bounds.dq, bounds.dk, bounds.dv, bounds.dbias]
