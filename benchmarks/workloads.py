"""What is compared: for each workload its inputs, and the variants that compute it.

A variant is a pair of functions over the same inputs: `forward() -> state`, `backward(state) -> gradients`. Before
anything is timed, outputs and gradients of every variant are compared with those of the first one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import peers
from minilm import ops, reference
from minilm.backend import to_numpy
from minilm.kernels import explain
from minilm.kernels.cuda import attention_decode
from minilm.models import build
from minilm.optim import AdamW
from minilm.text.batching import ClassificationBatch, LanguageBatch


class Variant(NamedTuple):
    """One way to compute a workload."""

    forward: Callable[[], Any]  # the state that backward needs
    backward: Callable[[Any], Any] | None  # None where there is nothing to differentiate
    results: Callable[[], Sequence[Any]]  # outputs and gradients, as host arrays, for the comparison


class Workload(NamedTuple):
    """Variants on one set of inputs, and what they move and compute at least."""

    name: str
    size: str  # the shapes, as text
    variants: dict[str, Variant]
    bytes_forward: float  # inputs read once and outputs written once
    flops_forward: float
    tolerance: float


class Setting(NamedTuple):
    """Where and how."""

    xp: Any
    dtype: str
    peers: tuple[str, ...]
    seed: int = 0

    @property
    def tolerance(self) -> float:
        """What results may differ by, relative to the largest number: by the precision of the arrays."""
        return {"float64": 1e-9, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}[self.dtype]

    def draw(self, *shape: int, scale: float = 1.0) -> Any:
        rng = np.random.default_rng((self.seed, *shape))
        if self.dtype == "bfloat16":
            import ml_dtypes  # noqa: F401  NumPy knows the name from here on
        return self.xp.asarray((scale * rng.standard_normal(shape)).astype(self.dtype))

    def torch(self) -> Any:
        """PyTorch, or None where it is not asked for or not installed."""
        if "torch" not in self.peers:
            return None
        try:
            import torch
        except ImportError:
            return None
        return torch


def _host(value: Any) -> list[np.ndarray]:
    """All arrays in a nested result, on the host."""
    if value is None:
        return []
    if isinstance(value, tuple | list):
        return [array for item in value for array in _host(item)]
    if hasattr(value, "detach"):
        return [value.detach().cpu().numpy()]
    return [to_numpy(np.asarray(value) if np.isscalar(value) else value)]


def _pair(forward: Callable[[], tuple[Any, Any]], backward: Callable[[Any, Any], Any], dy: Any) -> Variant:
    """A variant from an op pair: forward() -> (y, cache), backward(dy, cache)."""

    def results() -> list[np.ndarray]:
        y, cache = forward()
        return _host(y) + _host(backward(dy, cache))

    return Variant(lambda: forward()[1], lambda cache: backward(dy, cache), results)


def _definition(variant: Variant) -> Variant:
    """The same calls, forced to run the definitions."""

    def forced(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            with reference():
                return function(*args)

        return run

    return Variant(*(None if function is None else forced(function) for function in variant))


def _op_variants(
    op: str, forward: Callable[[], Any], backward: Callable[..., Any], dy: Any, *args: Any, **options: Any
):
    """The definition, and the tuned version where one serves these arguments."""
    pair = _pair(forward, backward, dy)
    chosen = explain(op, *args, **options).splitlines()[0].partition(": ")[2]
    variants = {"definition": _definition(pair)}
    return variants if chosen.startswith("definition") else {**variants, chosen: pair}


def _torch_pair(torch: Any, function: Callable[..., Any], inputs: Sequence[Any], dy: Any) -> Variant:
    """PyTorch's forward, and its backward by autograd, on the same numbers."""
    leaves = [torch.tensor(to_numpy(x)).requires_grad_() for x in inputs]
    gradient = torch.tensor(np.asarray(to_numpy(dy))) if dy is not None else None

    def forward() -> Any:
        return function(*leaves)

    def backward(y: Any) -> Any:
        return torch.autograd.grad(y, leaves, gradient)

    def results() -> list[np.ndarray]:
        y = forward()
        return _host(y) + _host(backward(y))

    return Variant(forward, backward, results)


# ---- ops


def softmax(setting: Setting, rows: int = 4096, columns: int = 1024) -> Workload:
    x, dy = setting.draw(rows, columns), setting.draw(rows, columns, scale=0.5)
    variants = _op_variants("softmax", lambda: ops.softmax(x), ops.softmax_backward, dy, x)
    if torch := setting.torch():
        variants["torch"] = _torch_pair(torch, lambda a: torch.softmax(a, -1), [x], dy)
    return Workload("softmax", f"{rows} x {columns}", variants, 2 * x.nbytes, 4 * x.size, setting.tolerance)


def layer_norm(setting: Setting, rows: int = 4096, columns: int = 512) -> Workload:
    x, gain, bias = setting.draw(rows, columns), setting.draw(columns), setting.draw(columns)
    dy = setting.draw(rows, columns, scale=0.5)
    args = (x, gain, bias)
    variants = _op_variants("layer_norm", lambda: ops.layer_norm(*args), ops.layer_norm_backward, dy, *args)
    if torch := setting.torch():
        norm = torch.nn.functional.layer_norm
        variants["torch"] = _torch_pair(torch, lambda a, g, b: norm(a, (columns,), g, b), args, dy)
    return Workload("layer_norm", f"{rows} x {columns}", variants, 2 * x.nbytes, 8 * x.size, setting.tolerance)


def gelu(setting: Setting, rows: int = 2048, columns: int = 2048, approximate: str = "none") -> Workload:
    x, dy = setting.draw(rows, columns), setting.draw(rows, columns, scale=0.5)
    variants = _op_variants("gelu", lambda: ops.gelu(x, approximate), ops.gelu_backward, dy, x, approximate)
    if torch := setting.torch():
        function = torch.nn.functional.gelu
        variants["torch"] = _torch_pair(torch, lambda a: function(a, approximate=approximate), [x], dy)
    name = "gelu" if approximate == "none" else "gelu-tanh"
    return Workload(name, f"{rows} x {columns}", variants, 2 * x.nbytes, 10 * x.size, setting.tolerance)


def gelu_tanh(setting: Setting, rows: int = 2048, columns: int = 2048) -> Workload:
    return gelu(setting, rows, columns, "tanh")


def cross_entropy(setting: Setting, rows: int = 1024, columns: int = 10000) -> Workload:
    logits = setting.draw(rows, columns)
    targets = setting.xp.asarray(np.random.default_rng(1).integers(0, columns, rows))
    args = (logits, targets)
    variants = _op_variants(
        "cross_entropy", lambda: ops.cross_entropy(*args), lambda d, c: ops.cross_entropy_backward(d, c), 1.0, *args
    )
    if torch := setting.torch():
        labels, function = torch.tensor(to_numpy(targets)), torch.nn.functional.cross_entropy
        variants["torch"] = _torch_pair(torch, lambda a: function(a, labels), [logits], None)
    return Workload("cross_entropy", f"{rows} x {columns}", variants, logits.nbytes, 5 * logits.size, setting.tolerance)


def embedding(setting: Setting, vocabulary: int = 10000, columns: int = 256, count: int = 4096) -> Workload:
    weight, dy = setting.draw(vocabulary, columns), setting.draw(count, columns)
    ids = setting.xp.asarray(np.random.default_rng(1).integers(0, vocabulary, count))
    args = (ids, weight)
    variants = _op_variants("embedding", lambda: ops.embedding(*args), ops.embedding_backward, dy, *args)
    if torch := setting.torch():
        index, function = torch.tensor(to_numpy(ids)), torch.nn.functional.embedding
        variants["torch"] = _torch_pair(torch, lambda w: function(index, w), [weight], dy)
    return Workload(
        "embedding", f"{count} ids of {vocabulary} x {columns}", variants, 2 * dy.nbytes, 0, setting.tolerance
    )


def attention(setting: Setting, B: int = 8, H: int = 6, T: int = 256, D: int = 64) -> Workload:
    q, k, v, dy = (setting.draw(B, H, T, D, scale=scale) for scale in (1.0, 0.9, 0.8, 0.7))
    args = (q, k, v)
    variants = _op_variants(
        "attention", lambda: ops.attention(*args, causal=True), ops.attention_backward, dy, *args, causal=True
    )
    if torch := setting.torch():
        function = torch.nn.functional.scaled_dot_product_attention
        variants["torch"] = _torch_pair(torch, lambda a, b, c: function(a, b, c, is_causal=True), args, dy)
    return Workload(
        "attention", f"B{B} H{H} T{T} D{D} causal", variants, 4 * q.nbytes, 2 * B * H * T * T * D, setting.tolerance
    )


def decode(setting: Setting, B: int = 8, H: int = 8, Hkv: int = 2, T: int = 2048, D: int = 64) -> Workload:
    """One query a sequence against a cache of keys and values, as in generation: forward only, bound by bandwidth."""
    q, k, v = (setting.draw(B, heads, length, D) for heads, length in ((H, 1), (Hkv, T), (Hkv, T)))

    def of(function: Callable[[], Any]) -> Variant:
        return Variant(function, None, lambda: _host(function()))

    variants = {"definition": _definition(of(lambda: ops.attention(q, k, v, cache=False)[0]))}
    if setting.xp is not np:
        variants["cuda.decode"] = of(lambda: attention_decode(q, k, v))
    if torch := setting.torch():
        function, arrays = torch.nn.functional.scaled_dot_product_attention, [torch.tensor(x) for x in (q, k, v)]
        variants["torch"] = of(lambda: function(*arrays, enable_gqa=True))
    size = f"B{B} H{H}/{Hkv} T{T} D{D}"
    return Workload("decode", size, variants, k.nbytes + v.nbytes, 4 * B * H * T * D, setting.tolerance)


def conv1d(setting: Setting, B: int = 32, T: int = 100, C: int = 64, K: int = 3) -> Workload:
    x, weight, bias = setting.draw(B, T, C), setting.draw(C, C, K, scale=0.1), setting.draw(C)
    dy, args = setting.draw(B, T, C, scale=0.5), (x, weight, bias)
    variants = _op_variants("conv1d", lambda: ops.conv1d(*args), ops.conv1d_backward, dy, *args)
    if torch := setting.torch():
        function = torch.nn.functional.conv1d
        variants["torch"] = _torch_pair(
            torch, lambda a, w, b: function(a.transpose(1, 2), w, b, padding="same").transpose(1, 2), args, dy
        )
    return Workload("conv1d", f"B{B} T{T} C{C} K{K}", variants, 2 * x.nbytes, 2 * B * T * C * C * K, setting.tolerance)


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

    variants = _op_variants(op, run, differentiate, dy, *args)
    if torch := setting.torch():
        layer = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[op](inputs, H, batch_first=True)
        layer = layer.to(getattr(torch, setting.dtype))
        with torch.no_grad():
            for parameter, value in zip(layer.parameters(), args[1:], strict=True):
                parameter.copy_(torch.tensor(to_numpy(value)))
        leaf, gradient = torch.tensor(to_numpy(x)).requires_grad_(), torch.tensor(to_numpy(dy))
        leaves = [leaf, *layer.parameters()]

        def results() -> list[np.ndarray]:
            y = layer(leaf)[0]
            return _host(y) + _host(torch.autograd.grad(y, leaves, gradient))

        variants["torch"] = Variant(lambda: layer(leaf)[0], lambda y: torch.autograd.grad(y, leaves, gradient), results)
    flops = 2 * B * T * gates * H * (inputs + H)
    return Workload(op, f"B{B} T{T} {inputs} -> {H}", variants, x.nbytes + dy.nbytes, flops, setting.tolerance)


def rnn(setting: Setting, B: int = 32, T: int = 100, inputs: int = 256, H: int = 512) -> Workload:
    return _recurrent("rnn", 1, setting, B, T, inputs, H)


def lstm(setting: Setting, B: int = 32, T: int = 100, inputs: int = 256, H: int = 512) -> Workload:
    return _recurrent("lstm", 4, setting, B, T, inputs, H)


def gru(setting: Setting, B: int = 32, T: int = 100, inputs: int = 256, H: int = 512) -> Workload:
    return _recurrent("gru", 3, setting, B, T, inputs, H)


# ---- whole steps


def _step(
    name: str, size: str, setting: Setting, model: Any, batch: Any, flops: float, peer: Callable[..., Any]
) -> Workload:
    """Loss, gradients and AdamW update of a model, with tuned versions and without; `peer` makes PyTorch's step."""
    torch = setting.torch()
    framework = peer(torch, model, batch) if torch else None  # before the weights become views of one flat array
    optimizer = AdamW(model.to(setting.xp), lr=0.0, weight_decay=0.0)  # the weights stay: every run is the same
    batch = batch._replace(**{key: setting.xp.asarray(value) for key, value in batch._asdict().items()})

    def step() -> Any:
        loss, cache = model.loss(batch)
        optimizer.accumulate(model.backward(cache))
        optimizer.step()
        return loss

    tuned = Variant(step, None, lambda: _host(step()))
    variants = {"definition": _definition(tuned), "tuned where served": tuned}
    if framework:
        variants["torch"] = Variant(framework, None, lambda: _host(framework()))
    return Workload(name, size, variants, 0.0, flops, setting.tolerance)


def gpt_step(setting: Setting, layers: int = 4, width: int = 128, T: int = 64, B: int = 12) -> Workload:
    model = build("gpt", vocab_size=65, layers=layers, heads=layers, width=width, context=T, dtype=setting.dtype)
    ids = np.random.default_rng(0).integers(0, 65, (B, T + 1))
    parameters = sum(array.size for array in model.parameters().values())
    flops = 6 * parameters * B * T + 12 * layers * width * T * T * B
    size = f"{layers} x {layers} x {width}, T{T}, B{B}"
    batch = LanguageBatch(ids[:, :-1], ids[:, 1:])
    return _step("gpt-step", size, setting, model, batch, flops, lambda *args: peers.gpt_step(*args, layers))


def classifier_step(setting: Setting, B: int = 32, T: int = 100) -> Workload:
    model = build("conv-lstm-classifier", vocab_size=10000, dropout=0.0, dtype=setting.dtype)
    rng = np.random.default_rng(0)
    batch = ClassificationBatch(rng.integers(0, 10000, (B, T)), np.full(B, T), rng.integers(0, 2, B))
    flops = 3 * 2 * B * T * (64 * 64 * 3 + 4 * 64 * 128)
    return _step("classifier-step", f"B{B} T{T}", setting, model, batch, flops, peers.classifier_step)


WORKLOADS: dict[str, Callable[..., Workload]] = {
    "softmax": softmax,
    "layer_norm": layer_norm,
    "gelu": gelu,
    "gelu-tanh": gelu_tanh,
    "cross_entropy": cross_entropy,
    "embedding": embedding,
    "attention": attention,
    "decode": decode,
    "conv1d": conv1d,
    "rnn": rnn,
    "lstm": lstm,
    "gru": gru,
    "gpt-step": gpt_step,
    "classifier-step": classifier_step,
}
