"""Linear map, activations, dropout, softmax, normalizations and losses against PyTorch: values and gradients."""

from __future__ import annotations

import numpy as np
import pytest

from minilm import ops
from minilm.ops.batch_norm import batch_norm, batch_norm_backward
from minilm.ops.dropout import dropout, dropout_backward
from minilm.ops.layer_norm import layer_norm, layer_norm_backward
from minilm.ops.linear import linear, linear_backward
from minilm.ops.log_softmax import log_softmax, log_softmax_backward
from minilm.ops.rms_norm import rms_norm, rms_norm_backward
from minilm.ops.softmax import softmax, softmax_backward

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity
F = torch.nn.functional

INF = np.inf
DTYPES = ["float64", "float32"]
TOLERANCE = {"float64": {"rtol": 1e-12, "atol": 1e-13}, "float32": {"rtol": 1e-5, "atol": 5e-6}}
REDUCTIONS = ("mean", "sum", "none")


def torch_gradients(function, arrays, dy=None):
    """Their y, and the gradients of `arrays` for this dy (ones if None)."""
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    y = function(*tensors)
    y.backward(torch.ones_like(y) if dy is None else torch.tensor(dy))
    return y.detach().numpy(), [t.grad.numpy() for t in tensors]


def assert_same(ours, theirs, dtype="float64"):
    assert ours.dtype == theirs.dtype == dtype
    np.testing.assert_allclose(ours, theirs, **TOLERANCE[dtype])


def compare(op, backward, theirs, arrays, dtype, rng):
    arrays = [a.astype(dtype) for a in arrays]
    y, cache = op(*arrays)
    dy = rng.normal(size=y.shape).astype(dtype)
    want, want_grads = torch_gradients(theirs, arrays, dy)
    assert_same(y, want, dtype)
    grads = backward(dy, cache)
    grads = grads if isinstance(grads, tuple) else (grads,)
    for ours, wanted in zip(grads, want_grads, strict=True):
        assert_same(ours, wanted, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4, 3, 7), (5, 7), (0, 7)])
def test_linear(shape, dtype, rng):
    arrays = rng.normal(size=shape), rng.normal(size=(6, 7)), rng.normal(size=6)
    compare(linear, linear_backward, F.linear, arrays, dtype, rng)
    compare(linear, lambda dy, c: linear_backward(dy, c)[:2], F.linear, arrays[:2], dtype, rng)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["relu", "gelu", "silu", "sigmoid", "tanh"])
def test_activation(name, dtype, rng):
    theirs = getattr(F, name) if hasattr(F, name) else getattr(torch, name)
    x = np.concatenate([np.linspace(-12, 12, 2001), [0.0, -100.0, 100.0, -1000.0, 1000.0]])
    compare(getattr(ops, name), getattr(ops, f"{name}_backward"), theirs, (x,), dtype, rng)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_tanh(dtype, rng):
    def ours(x):
        return ops.gelu(x, approximate="tanh")

    x = np.concatenate([np.linspace(-12, 12, 2001), [-1000.0, 1000.0]])
    compare(ours, ops.gelu_backward, lambda x: F.gelu(x, approximate="tanh"), (x,), dtype, rng)


def test_relu_of_nan_and_at_its_kink():
    x = np.array([np.nan, 0.0, -0.0, INF, -INF])
    y, cache = ops.relu(x)
    want, (dx,) = torch_gradients(F.relu, (x,))
    np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(ops.relu_backward(np.ones(5), cache), dx)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout_scale(dtype, rng):
    """The draws differ; what is kept has the same scale, and what flows back the same mask."""
    x = rng.normal(size=(50, 40)).astype(dtype)
    y, cache = dropout(x, 0.3, rng)
    theirs = F.dropout(torch.tensor(x), 0.3).numpy()
    both = (y != 0) & (theirs != 0)
    assert both.sum() > 500
    assert_same(y[both], theirs[both], dtype)
    np.testing.assert_array_equal(dropout_backward(np.ones_like(x), cache) != 0, y != 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axis"), [((4, 9), -1), ((2, 5, 3), 1), ((7,), 0), ((0, 5), -1)])
def test_softmax(shape, axis, dtype, rng):
    x = (5 * rng.normal(size=shape),)
    compare(lambda x: softmax(x, axis), softmax_backward, lambda x: F.softmax(x, axis), x, dtype, rng)
    compare(lambda x: log_softmax(x, axis), log_softmax_backward, lambda x: F.log_softmax(x, axis), x, dtype, rng)


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_with_infinities(dtype, rng):
    """As theirs, but for a row of all −inf, where theirs is NaN."""
    x = (np.array([[-INF, 1.0, 2.0], [-INF, -INF, 3.0], [INF, 1.0, 0.0], [np.nan, 0.0, 1.0]]),)
    compare(softmax, softmax_backward, lambda x: F.softmax(x, -1), x, dtype, rng)
    compare(log_softmax, log_softmax_backward, lambda x: F.log_softmax(x, -1), x, dtype, rng)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4, 9), (2, 5, 33), (6,), (3, 2), (0, 5)])
def test_layer_norm(shape, dtype, rng):
    C = shape[-1:]
    arrays = rng.normal(2.0, 3.0, shape), rng.normal(size=C), rng.normal(size=C)
    compare(layer_norm, layer_norm_backward, lambda x, g, b: F.layer_norm(x, C, g, b), arrays, dtype, rng)
    compare(rms_norm, rms_norm_backward, lambda x, g: F.rms_norm(x, C, g, 1e-6), arrays[:2], dtype, rng)


def channels_second(x):
    return x.reshape(-1, x.shape[-1]) if x.ndim != 3 else x.transpose(1, 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("shape", [(16, 4), (3, 7, 5), (2, 1)])
def test_batch_norm(shape, train, dtype, rng):
    C = shape[-1]
    mean, var = rng.normal(size=C).astype(dtype), rng.uniform(0.5, 2, C).astype(dtype)
    their_mean, their_var = torch.tensor(mean), torch.tensor(var)
    kept = {}

    def ours(x, gain, bias):
        y, kept["cache"] = batch_norm(x, gain, bias, mean, var, train, momentum=0.3, eps=1e-3)
        return y, kept["cache"]

    def theirs(x, gain, bias):
        y = F.batch_norm(channels_second(x), their_mean, their_var, gain, bias, train, 0.3, 1e-3)
        return channels_second(y) if x.ndim == 3 else y

    arrays = rng.normal(2.0, 3.0, shape), rng.normal(size=C), rng.normal(size=C)
    compare(ours, batch_norm_backward, theirs, arrays, dtype, rng)
    assert_same(kept["cache"].running_mean, their_mean.numpy(), dtype)
    assert_same(kept["cache"].running_var, their_var.numpy(), dtype)


def test_batch_norm_of_one_value_per_channel():
    arrays = np.ones((1, 3)), np.ones(3), np.zeros(3), np.zeros(3), np.ones(3)
    with pytest.raises(ValueError, match="1 value"):
        batch_norm(*arrays)
    x, gain, bias, mean, var = map(torch.tensor, arrays)
    with pytest.raises(ValueError, match="more than 1 value"):
        F.batch_norm(x, mean, var, gain, bias, True)


TARGETS = {
    "all classes": np.array([[0, 1, 2, 3], [3, 2, 1, 0]]),
    "some ignored": np.array([[0, -100, 2, -100], [-100, 2, 1, 1]]),
    "all ignored": np.full((2, 4), -100),
}
WEIGHTS = {
    "no weights": None,
    "weights": np.array([0.5, 2.0, 1.0, 0.1, 3.0]),
    "a zero": np.array([0.0, 1.0, 2.0, 1.0, 1.0]),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("targets", TARGETS)
def test_cross_entropy(targets, weights, smoothing, reduction, dtype, rng):
    """NaN for the mean over nothing and zero gradients there, as theirs."""
    targets, weights = TARGETS[targets], WEIGHTS[weights]
    weights = None if weights is None else weights.astype(dtype)
    x = (3 * rng.normal(size=(2, 4, 5))).astype(dtype)
    options = {"label_smoothing": smoothing, "reduction": reduction}

    def theirs(x):
        w = None if weights is None else torch.tensor(weights)
        return F.cross_entropy(x.permute(0, 2, 1), torch.tensor(targets), weight=w, **options)

    value, cache = ops.cross_entropy(x, targets, class_weights=weights, **options)
    dy = np.asarray(rng.normal(size=value.shape)).astype(dtype)
    want, (dx,) = torch_gradients(theirs, (x,), dy)
    assert_same(value, want, dtype)
    assert_same(ops.cross_entropy_backward(dy, cache), dx, dtype)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", ["no weights", "weights"])
@pytest.mark.parametrize("row", [[-INF, 0, 1, -INF, 2], [-INF] * 5, [INF, 0, 1, 2, 3], [np.nan, 0, 1, 2, 3]])
def test_cross_entropy_with_infinities(row, weights, smoothing, reduction, rng):
    """−inf on the target, off the target, in an ignored row, in a whole row; +inf; NaN."""
    weights = WEIGHTS[weights]
    x = np.array([row, row, row, [1.0, 2, 3, 4, 5]])
    targets = np.array([0, 1, -100, 2])
    options = {"label_smoothing": smoothing, "reduction": reduction}
    value, cache = ops.cross_entropy(x, targets, class_weights=weights, **options)

    def theirs(x):
        w = None if weights is None else torch.tensor(weights)
        return F.cross_entropy(x, torch.tensor(targets), weight=w, **options)

    want, (dx,) = torch_gradients(theirs, (x,))
    assert_same(value, want)
    assert_same(ops.cross_entropy_backward(1.0, cache), dx)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_where_no_target_has_weight(smoothing):
    """0/0, in the mean and in its gradients."""
    x, targets, weights = np.array([[1.0, 2.0], [0.0, 1.0]]), np.array([0, 0]), np.array([0.0, 1.0])
    value, cache = ops.cross_entropy(x, targets, class_weights=weights, label_smoothing=smoothing)
    want, (dx,) = torch_gradients(
        lambda x: F.cross_entropy(x, torch.tensor(targets), weight=torch.tensor(weights), label_smoothing=smoothing),
        (x,),
    )
    assert_same(value, want)
    assert_same(ops.cross_entropy_backward(1.0, cache), dx)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_empty_batch(reduction):
    x, classes = np.zeros((0, 3)), np.zeros(0, dtype=np.int64)
    value, _ = ops.cross_entropy(x, classes, reduction=reduction)
    assert_same(value, F.cross_entropy(torch.tensor(x), torch.tensor(classes), reduction=reduction).numpy())
    value, _ = ops.binary_cross_entropy_with_logits(x, x, reduction=reduction)
    want = F.binary_cross_entropy_with_logits(torch.tensor(x), torch.tensor(x), reduction=reduction)
    assert_same(value, want.numpy())


def test_cross_entropy_of_one_position(rng):
    x, target = rng.normal(size=5), np.array(2)
    value, cache = ops.cross_entropy(x, target)
    want, (dx,) = torch_gradients(lambda x: F.cross_entropy(x, torch.tensor(2)), (x,))
    assert_same(value, want)
    assert_same(ops.cross_entropy_backward(1.0, cache), dx)


@pytest.mark.parametrize("ignore_index", [0, -1, 7])
def test_another_ignore_index(ignore_index, rng):
    x, targets = rng.normal(size=(6, 4)), np.array([0, 1, 2, ignore_index, 3, 0])
    value, cache = ops.cross_entropy(x, targets, ignore_index=ignore_index)
    want, (dx,) = torch_gradients(lambda x: F.cross_entropy(x, torch.tensor(targets), ignore_index=ignore_index), (x,))
    assert_same(value, want)
    assert_same(ops.cross_entropy_backward(1.0, cache), dx)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("pos_weight", [None, "one", "per class"])
def test_binary_cross_entropy(pos_weight, soft, reduction, dtype, rng):
    x = np.concatenate([4 * rng.normal(size=(6, 5)), np.full((1, 5), 1000.0), np.full((1, 5), -1000.0)]).astype(dtype)
    targets = (rng.random(x.shape) if soft else rng.integers(0, 2, x.shape)).astype(dtype)
    weight = {None: None, "one": np.array(2.5), "per class": rng.uniform(0.5, 3, 5)}[pos_weight]
    weight = None if weight is None else weight.astype(dtype)

    def theirs(x):
        w = None if weight is None else torch.tensor(weight)
        return F.binary_cross_entropy_with_logits(x, torch.tensor(targets), pos_weight=w, reduction=reduction)

    value, cache = ops.binary_cross_entropy_with_logits(x, targets, pos_weight=weight, reduction=reduction)
    dy = np.asarray(rng.normal(size=value.shape)).astype(dtype)
    want, (dx,) = torch_gradients(theirs, (x,), dy)
    assert_same(value, want, dtype)
    assert_same(ops.binary_cross_entropy_with_logits_backward(dy, cache), dx, dtype)
