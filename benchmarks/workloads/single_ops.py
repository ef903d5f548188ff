"""One op at a time: its definition, its tuned version, the frameworks' own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.variants import (
    LeftOut,
    Setting,
    Variant,
    Workload,
    call,
    definition,
    op_variants,
    reference_of,
    with_tuned,
)
from minilm import ops
from minilm.kernels.cuda import attention_decode

MOST_SCORES = 1 << 30  # bytes: attention's definition is left out where one array of its scores is larger


def _torch_pair(setting: Setting, function: Callable[..., Any], inputs: Sequence[Any], dy: Any) -> Variant:
    """PyTorch's forward, and its backward by autograd, on the same numbers."""
    torch = setting.torch()
    leaves = [setting.tensor(torch, x).requires_grad_() for x in inputs]
    gradient = setting.tensor(torch, dy) if dy is not None else None

    def forward() -> Any:
        return function(*leaves)

    def backward(y: Any) -> Any:
        return torch.autograd.grad(y, leaves, gradient)

    return Variant(forward, backward, lambda y: y)


def softmax(setting: Setting, rows: int = 4096, columns: int = 1024) -> Workload:
    x, dy = setting.draw(rows, columns), setting.draw(rows, columns, scale=0.5)
    variants = op_variants("softmax", lambda: ops.softmax(x), ops.softmax_backward, dy, x)
    if torch := setting.torch():
        variants["torch"] = _torch_pair(setting, lambda a: torch.softmax(a, -1), [x], dy)
    if jax := setting.jax():
        from benchmarks.peers import jax_functions

        variants["jax"] = jax_functions.variant(setting, jax.nn.softmax, [x], dy)
    if setting.triton():
        from benchmarks.peers import triton_functions

        if columns <= triton_functions.LONGEST_ROW:
            variants["triton"] = triton_functions.softmax(setting, x, dy)
    size, reference = f"{rows} x {columns}", reference_of(setting, ops.softmax, ops.softmax_backward, dy, [x])
    return Workload(
        "softmax", size, variants, 2 * x.nbytes, 4 * x.size, setting.tolerance, 4 * x.nbytes, 7 * x.size, reference
    )


def layer_norm(setting: Setting, rows: int = 4096, columns: int = 512) -> Workload:
    x, gain, bias = setting.draw(rows, columns), setting.draw(columns), setting.draw(columns)
    dy = setting.draw(rows, columns, scale=0.5)
    args = (x, gain, bias)
    variants = op_variants("layer_norm", lambda: ops.layer_norm(*args), ops.layer_norm_backward, dy, *args)
    if torch := setting.torch():
        norm = torch.nn.functional.layer_norm
        variants["torch"] = _torch_pair(setting, lambda a, g, b: norm(a, (columns,), g, b), args, dy)
    if jax := setting.jax():
        from benchmarks.peers import jax_functions

        variants["jax"] = jax_functions.variant(setting, jax_functions.layer_norm(jax), args, dy)
    if setting.triton():
        from benchmarks.peers import triton_functions

        if columns <= triton_functions.LONGEST_ROW:
            variants["triton"] = triton_functions.layer_norm(setting, *args, dy)
    size, reference = f"{rows} x {columns}", reference_of(setting, ops.layer_norm, ops.layer_norm_backward, dy, args)
    return Workload(
        "layer_norm", size, variants, 2 * x.nbytes, 8 * x.size, setting.tolerance, 4 * x.nbytes, 20 * x.size, reference
    )


def gelu(setting: Setting, rows: int = 2048, columns: int = 2048, approximate: str = "none") -> Workload:
    x, dy = setting.draw(rows, columns), setting.draw(rows, columns, scale=0.5)
    variants = op_variants("gelu", lambda: ops.gelu(x, approximate), ops.gelu_backward, dy, x, approximate)
    if torch := setting.torch():
        function = torch.nn.functional.gelu
        variants["torch"] = _torch_pair(setting, lambda a: function(a, approximate=approximate), [x], dy)
    if jax := setting.jax():
        from benchmarks.peers import jax_functions

        variants["jax"] = jax_functions.variant(
            setting, lambda a: jax.nn.gelu(a, approximate=approximate == "tanh"), [x], dy
        )
    name, size = "gelu" if approximate == "none" else "gelu-tanh", f"{rows} x {columns}"
    reference = reference_of(setting, ops.gelu, ops.gelu_backward, dy, (x, approximate))
    return Workload(
        name, size, variants, 2 * x.nbytes, 10 * x.size, setting.tolerance, 4 * x.nbytes, 20 * x.size, reference
    )


def gelu_tanh(setting: Setting, rows: int = 2048, columns: int = 2048) -> Workload:
    return gelu(setting, rows, columns, "tanh")


def cross_entropy(setting: Setting, rows: int = 1024, columns: int = 10000) -> Workload:
    logits, targets = setting.draw(rows, columns), setting.integers(columns, rows)
    args = (logits, targets)
    variants = op_variants("cross_entropy", lambda: ops.cross_entropy(*args), ops.cross_entropy_backward, 1.0, *args)
    if torch := setting.torch():
        labels, function = setting.tensor(torch, targets), torch.nn.functional.cross_entropy
        variants["torch"] = _torch_pair(setting, lambda a: function(a, labels), [logits], None)
    if jax := setting.jax():
        from benchmarks.peers import jax_functions

        variants["jax"] = jax_functions.variant(setting, jax_functions.cross_entropy(jax), [logits], None, [targets])
    if setting.triton():
        from benchmarks.peers import triton_functions

        variants["triton"] = triton_functions.cross_entropy(setting, *args)
    size, moved, numbers = f"{rows} x {columns}", logits.nbytes, logits.size
    reference = reference_of(setting, ops.cross_entropy, ops.cross_entropy_backward, 1.0, args)
    return Workload(
        "cross_entropy", size, variants, moved, 5 * numbers, setting.tolerance, 2 * moved, 7 * numbers, reference
    )


def embedding(setting: Setting, vocabulary: int = 10000, columns: int = 256, count: int = 4096) -> Workload:
    weight, dy = setting.draw(vocabulary, columns), setting.draw(count, columns)
    ids = setting.integers(vocabulary, count)
    args = (ids, weight)
    variants = op_variants("embedding", lambda: ops.embedding(*args), ops.embedding_backward, dy, *args)
    if torch := setting.torch():
        index, function = setting.tensor(torch, ids), torch.nn.functional.embedding
        variants["torch"] = _torch_pair(setting, lambda w: function(index, w), [weight], dy)
    if setting.jax():
        from benchmarks.peers import jax_functions

        variants["jax"] = jax_functions.variant(setting, lambda w, i: w[i], [weight], dy, [ids])
    size = f"{count} ids of {vocabulary} x {columns}"
    both = 3 * dy.nbytes + weight.nbytes  # the gradient is dense
    return Workload("embedding", size, variants, 2 * dy.nbytes, 0, setting.tolerance, both, dy.size)


def attention(setting: Setting, B: int = 8, H: int = 6, T: int = 256, D: int = 64, causal: bool = True) -> Workload:
    q, k, v, dy = (setting.draw(B, H, T, D, scale=scale) for scale in (1.0, 0.9, 0.8, 0.7))
    args = (q, k, v)
    variants = op_variants(
        "attention", lambda: ops.attention(*args, causal=causal), ops.attention_backward, dy, *args, causal=causal
    )
    notes, part = (), None
    scores = 4 * B * H * T * T  # bytes of one array of scores in float32; forward and backward hold several
    if scores > MOST_SCORES:
        variants.pop("definition", None)
        scores_gb = f"whose scores are arrays of {scores / 1e9:.1f} GB"
        compared = "each check compares one head, drawn anew, with it"
        notes = (f"attention B{B} H{H} T{T}: no definition, {scores_gb}; {compared}",)

        def part(random: np.random.Generator) -> tuple[slice, ...]:
            b, h = int(random.integers(B)), int(random.integers(H))
            return slice(b, b + 1), slice(h, h + 1)

    if torch := setting.torch():
        function = torch.nn.functional.scaled_dot_product_attention
        variants["torch"] = _torch_pair(setting, lambda a, b, c: function(a, b, c, is_causal=causal), args, dy)
    if jax := setting.jax():
        from benchmarks.peers import jax_functions

        variants["jax"] = jax_functions.variant(setting, jax_functions.attention(jax, causal), args, dy)
    if setting.triton():
        from benchmarks.peers import triton_functions

        if D in triton_functions.HEAD_SIZES:
            variants["triton"] = triton_functions.attention(setting, *args, dy, causal=causal)
    if not variants:
        raise LeftOut(f"{notes[0]}, and no other version serves it")
    flops = 4 * B * H * T * T * D  # two products; their gradients are four more
    flops = flops // 2 if causal else flops  # over half of all pairs
    name, size = "attention" if causal else "attention-full", f"B{B} H{H} T{T} D{D} {'causal' if causal else 'full'}"
    reference = reference_of(setting, ops.attention, ops.attention_backward, dy, args, part, causal=causal)
    rates = (4 * q.nbytes, flops, setting.tolerance, 8 * q.nbytes, 3 * flops)
    return Workload(name, size, variants, *rates, reference, notes=notes)


def attention_full(setting: Setting, B: int = 8, H: int = 6, T: int = 256, D: int = 64) -> Workload:
    return attention(setting, B, H, T, D, causal=False)


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
    dy, args = setting.draw(B, T, C, scale=0.5), (x, weight, bias)
    variants = op_variants("conv1d", lambda: ops.conv1d(*args), ops.conv1d_backward, dy, *args)
    if torch := setting.torch():
        function = torch.nn.functional.conv1d
        variants["torch"] = _torch_pair(
            setting, lambda a, w, b: function(a.transpose(1, 2), w, b, padding="same").transpose(1, 2), args, dy
        )
    if jax := setting.jax():
        from benchmarks.peers import jax_functions

        variants["jax"] = jax_functions.variant(setting, jax_functions.conv1d(jax), args, dy)
    flops = 2 * B * T * C * C * K
    size = f"B{B} T{T} C{C} K{K}"
    return Workload("conv1d", size, variants, 2 * x.nbytes, flops, setting.tolerance, 4 * x.nbytes, 3 * flops)


def _recurrent(op: str, gates: int, setting: Setting, B: int, T: int, inputs: int, H: int) -> Workload:
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

    variants = op_variants(op, run, differentiate, dy, *args)
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


def rnn(setting: Setting, B: int = 32, T: int = 100, inputs: int = 256, H: int = 512) -> Workload:
    return _recurrent("rnn", 1, setting, B, T, inputs, H)


def lstm(setting: Setting, B: int = 32, T: int = 100, inputs: int = 256, H: int = 512) -> Workload:
    return _recurrent("lstm", 4, setting, B, T, inputs, H)


def gru(setting: Setting, B: int = 32, T: int = 100, inputs: int = 256, H: int = 512) -> Workload:
    return _recurrent("gru", 3, setting, B, T, inputs, H)
