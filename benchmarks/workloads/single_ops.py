"""One op at a time: its definition, its tuned version, the frameworks' own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.peers import jax_functions
from benchmarks.variants import (
    LeftOut,
    Part,
    Setting,
    Variant,
    Workload,
    call,
    definition,
    pair,
    reference_of,
    with_tuned,
)
from minilm import ops
from minilm.kernels.cuda import attention_decode

MOST_SCORES = 1 << 30  # bytes: attention's definition is left out where one array of its scores is larger

Peer = Callable[..., Any]  # (library, floating arrays, arrays of integers) -> y


def _workload(
    setting: Setting,
    op: str,
    size: str,
    args: Sequence[Any],
    dy: Any,
    amounts: tuple[float, float, float, float],  # bytes and operations of the forward, and of forward and backward
    torch: Peer,
    jax: Peer,
    name: str | None = None,
    part: Part | None = None,
    notes: tuple[str, ...] = (),
    **options: Any,
) -> Workload:
    """op(*args, **options) and its backward, beside the peers. With `part` the definition computes a part only."""
    forward, backward = getattr(ops, op), getattr(ops, f"{op}_backward")
    variants = with_tuned(pair(lambda: forward(*args, **options), backward, dy), op, *args, **options)
    if part:
        variants.pop("definition", None)
    arrays = [array for array in args if hasattr(array, "dtype")]
    inputs, fixed = ([x for x in arrays if (x.dtype.kind == "i") is integer] for integer in (False, True))
    if library := setting.torch():
        leaves = [setting.tensor(library, x).requires_grad_() for x in inputs]
        constants = [setting.tensor(library, x) for x in fixed]
        gradient = setting.tensor(library, dy) if hasattr(dy, "shape") else None
        variants["torch"] = Variant(
            lambda: torch(library, *leaves, *constants),
            lambda y: library.autograd.grad(y, leaves, gradient),
            lambda y: y,
        )
    if compiler := setting.on_the_cpu("jax"):
        variants["jax"] = jax_functions.variant(setting, partial(jax, compiler), inputs, dy, fixed)
    if (triton := setting.triton()) and op in triton.OPS:
        served = triton.OPS[op](setting, *args, dy, **options)
        variants |= {"triton": served} if served else {}
    if not variants:
        raise LeftOut(f"{notes[0]}, and no other version serves it")
    reference = reference_of(setting, forward, backward, dy, args, part, **options)
    rates = (*amounts[:2], setting.tolerance, *amounts[2:])
    return Workload(name or op, size, variants, *rates, reference, notes=notes)


def softmax(setting: Setting, rows: int = 4096, columns: int = 1024) -> Workload:
    x, dy = setting.draw(rows, columns), setting.draw(rows, columns, scale=0.5)
    amounts = 2 * x.nbytes, 4 * x.size, 4 * x.nbytes, 7 * x.size
    peers = (lambda torch, a: torch.softmax(a, -1)), (lambda jax, a: jax.nn.softmax(a))
    return _workload(setting, "softmax", f"{rows} x {columns}", (x,), dy, amounts, *peers)


def layer_norm(setting: Setting, rows: int = 4096, columns: int = 512) -> Workload:
    x, gain, bias = setting.draw(rows, columns), setting.draw(columns), setting.draw(columns)
    dy = setting.draw(rows, columns, scale=0.5)
    peers = (lambda torch, a, g, b: torch.nn.functional.layer_norm(a, (columns,), g, b)), jax_functions.layer_norm
    amounts, size = (2 * x.nbytes, 8 * x.size, 4 * x.nbytes, 20 * x.size), f"{rows} x {columns}"
    return _workload(setting, "layer_norm", size, (x, gain, bias), dy, amounts, *peers)


def gelu(setting: Setting, rows: int = 2048, columns: int = 2048, approximate: str = "none") -> Workload:
    x, dy = setting.draw(rows, columns), setting.draw(rows, columns, scale=0.5)
    amounts, size = (2 * x.nbytes, 10 * x.size, 4 * x.nbytes, 20 * x.size), f"{rows} x {columns}"
    peers = (
        lambda torch, a: torch.nn.functional.gelu(a, approximate=approximate),
        lambda jax, a: jax.nn.gelu(a, approximate=approximate == "tanh"),
    )
    name = "gelu" if approximate == "none" else "gelu-tanh"
    return _workload(setting, "gelu", size, (x, approximate), dy, amounts, *peers, name)


def cross_entropy(setting: Setting, rows: int = 1024, columns: int = 10000) -> Workload:
    logits, targets = setting.draw(rows, columns), setting.integers(columns, rows)
    amounts = logits.nbytes, 5 * logits.size, 2 * logits.nbytes, 7 * logits.size
    peers = (lambda torch, a, classes: torch.nn.functional.cross_entropy(a, classes)), jax_functions.cross_entropy
    return _workload(setting, "cross_entropy", f"{rows} x {columns}", (logits, targets), 1.0, amounts, *peers)


def embedding(setting: Setting, vocabulary: int = 10000, columns: int = 256, count: int = 4096) -> Workload:
    weight, dy = setting.draw(vocabulary, columns), setting.draw(count, columns)
    ids = setting.integers(vocabulary, count)
    amounts = 2 * dy.nbytes, 0, 3 * dy.nbytes + weight.nbytes, dy.size  # the gradient is dense
    peers = (lambda torch, w, ids: torch.nn.functional.embedding(ids, w)), (lambda _, w, ids: w[ids])
    size = f"{count} ids of {vocabulary} x {columns}"
    return _workload(setting, "embedding", size, (ids, weight), dy, amounts, *peers)


def attention(setting: Setting, B: int = 8, H: int = 6, T: int = 256, D: int = 64, causal: bool = True) -> Workload:
    q, k, v, dy = (setting.draw(B, H, T, D, scale=scale) for scale in (1.0, 0.9, 0.8, 0.7))
    notes, part = (), None
    scores = 4 * B * H * T * T  # bytes of one array of scores in float32; forward and backward hold several
    if scores > MOST_SCORES:
        scores_gb = f"whose scores are arrays of {scores / 1e9:.1f} GB"
        compared = "each check compares one head, drawn anew, with it"
        notes = (f"attention B{B} H{H} T{T}: no definition, {scores_gb}; {compared}",)

        def part(random: np.random.Generator) -> tuple[slice, ...]:
            b, h = int(random.integers(B)), int(random.integers(H))
            return slice(b, b + 1), slice(h, h + 1)

    def torch_attention(torch: Any, a: Any, b: Any, c: Any) -> Any:
        return torch.nn.functional.scaled_dot_product_attention(a, b, c, is_causal=causal)

    flops = 4 * B * H * T * T * D  # two products; their gradients are four more
    flops = flops // 2 if causal else flops  # over half of all pairs
    amounts, size = (4 * q.nbytes, flops, 8 * q.nbytes, 3 * flops), f"B{B} H{H} T{T} D{D}"
    peers = (torch_attention, partial(jax_functions.attention, causal=causal))
    name, size = ("attention", f"{size} causal") if causal else ("attention-full", f"{size} full")
    return _workload(setting, "attention", size, (q, k, v), dy, amounts, *peers, name, part, notes, causal=causal)


def decode(setting: Setting, B: int = 8, H: int = 8, Hkv: int = 2, T: int = 2048, D: int = 64) -> Workload:
    """One query per sequence against a cache of keys and values, as in generation: forward only, bound by bandwidth."""
    q, k, v = (setting.draw(B, heads, length, D) for heads, length in ((H, 1), (Hkv, T), (Hkv, T)))
    plain = call(lambda: ops.attention(q, k, v, cache=False)[0])
    if setting.xp is np:
        variants = with_tuned(plain, "attention", q, k, v)
    else:
        variants = {} if setting.sixteen_bits else {"definition": definition(plain)}
        variants["cuda.decode"] = call(lambda: attention_decode(q, k, v))
    if torch := setting.torch():
        function = torch.nn.functional.scaled_dot_product_attention
        arrays = [setting.tensor(torch, x) for x in (q, k, v)]
        variants["torch"] = call(lambda: function(*arrays, enable_gqa=True))
    size, moved, flops = f"B{B} H{H}/{Hkv} T{T} D{D}", k.nbytes + v.nbytes, 4 * B * H * T * D
    reference = reference_of(setting, ops.attention, None, None, (q, k, v))
    return Workload("decode", size, variants, moved, flops, setting.tolerance, reference=reference)


def conv1d(setting: Setting, B: int = 32, T: int = 100, C: int = 64, K: int = 3) -> Workload:
    x, weight, bias = setting.draw(B, T, C), setting.draw(C, C, K, scale=0.1), setting.draw(C)
    dy = setting.draw(B, T, C, scale=0.5)

    def torch_conv1d(torch: Any, a: Any, w: Any, b: Any) -> Any:
        return torch.nn.functional.conv1d(a.transpose(1, 2), w, b, padding="same").transpose(1, 2)

    flops = 2 * B * T * C * C * K
    amounts, size = (2 * x.nbytes, flops, 4 * x.nbytes, 3 * flops), f"B{B} T{T} C{C} K{K}"
    args = (x, weight, bias)
    return _workload(setting, "conv1d", size, args, dy, amounts, torch_conv1d, jax_functions.conv1d)


def recurrent(
    setting: Setting, B: int = 32, T: int = 100, inputs: int = 256, H: int = 512, op: str = "rnn"
) -> Workload:
    gates = {"rnn": 1, "lstm": 4, "gru": 3}[op]
    x, bias = setting.draw(B, T, inputs), setting.draw(gates * H, scale=0.05)
    w_ih, w_hh = setting.draw(gates * H, inputs, scale=0.05), setting.draw(gates * H, H, scale=0.05)
    dy, args = setting.draw(B, T, H, scale=0.5), (x, w_ih, w_hh, bias, bias)
    forward, backward = getattr(ops, op), getattr(ops, f"{op}_backward")
    missing = (None,) * (2 if op == "lstm" else 1)  # nothing comes back from the last states

    def differentiate(dy: Any, cache: Any) -> Any:
        return backward((dy, *missing), cache)[:5]

    def run() -> Any:
        results, cache = forward(*args)
        return results[0], cache

    variants = with_tuned(pair(run, differentiate, dy), op, *args)
    if torch := setting.torch():
        layer = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[op](inputs, H, batch_first=True)
        layer = layer.to(setting.torch_device, getattr(torch, setting.dtype))
        with torch.no_grad():
            for parameter, value in zip(layer.parameters(), args[1:], strict=True):
                parameter.copy_(setting.tensor(torch, value))
                if setting.inputs:
                    setting.inputs.follow_torch(torch, value, parameter)
        leaf, gradient = setting.tensor(torch, x).requires_grad_(), setting.tensor(torch, dy)
        leaves = [leaf, *layer.parameters()]
        variants["torch"] = Variant(
            lambda: layer(leaf)[0], lambda y: torch.autograd.grad(y, leaves, gradient), lambda y: y
        )
    flops = 2 * B * T * gates * H * (inputs + H)
    least, weights = x.nbytes + dy.nbytes, w_ih.nbytes + w_hh.nbytes
    size = f"B{B} T{T} {inputs} -> {H}"
    return Workload(
        op, size, variants, least + weights, flops, setting.tolerance, 2 * (least + weights), 3 * flops, on_host=True
    )
