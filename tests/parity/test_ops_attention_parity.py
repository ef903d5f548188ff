"""attention, embedding and conv1d against PyTorch: values and gradients, in both precisions."""

from __future__ import annotations

import numpy as np
import pytest

from minilm.ops.attention import attention, attention_backward
from minilm.ops.conv1d import conv1d, conv1d_backward
from minilm.ops.embedding import embedding, embedding_backward
from minilm.ops.rotary import rotary, rotary_backward

torch = pytest.importorskip("torch")
F = torch.nn.functional
pytestmark = pytest.mark.parity

TOLERANCE = {np.float32: 2e-6, np.float64: 1e-14}  # relative to the largest number; PyTorch rounds in another order


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


def leaves(*arrays):
    return [torch.tensor(a, requires_grad=True) for a in arrays]


def assert_same(ours, theirs, dtype):
    """Arrays against tensors, values and dtype."""
    for number, (got, tensor) in enumerate(zip(ours, theirs, strict=True)):
        want = tensor.detach().numpy()
        assert got.shape == want.shape
        assert got.dtype == want.dtype == dtype
        error = np.abs(got - want).max() / np.abs(want).max()
        assert error < TOLERANCE[dtype] * 4, f"result {number}: {error:.1e}"


# ---- attention: every option of scaled_dot_product_attention

B, H, T, S, D, DV = 2, 4, 7, 9, 16, 10  # S keys


def check_attention(rng, dtype, *, Hkv=H, Tq=T, Tk=S, Dv=DV, bias_shape=None, ours=None, theirs=None):
    """y, dq, dk, dv and dbias. `theirs` are options of PyTorch's function beside the bias."""
    shapes = [(B, H, Tq, D), (B, Hkv, Tk, D), (B, Hkv, Tk, Dv)] + ([bias_shape] if bias_shape else [])
    args = [rng.normal(size=shape).astype(dtype) for shape in shapes]
    dy = rng.normal(size=(B, H, Tq, Dv)).astype(dtype)
    y, cache = attention(*args[:3], bias=args[3] if bias_shape else None, **(ours or {}))
    tensors = leaves(*args)
    options = {"attn_mask": tensors[3]} if bias_shape else {}
    want = F.scaled_dot_product_attention(*tensors[:3], **options, **(theirs or {}))
    want.backward(torch.tensor(dy))
    gradients = attention_backward(dy, cache)
    assert_same((y, *gradients[: len(args)]), (want, *(t.grad for t in tensors)), dtype)


def test_attention(rng, dtype):
    check_attention(rng, dtype)


def test_attention_value_heads_of_another_size(rng, dtype):
    check_attention(rng, dtype, Dv=D + 3)


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_attention_scale(rng, dtype, scale):
    check_attention(rng, dtype, ours={"scale": scale}, theirs={"scale": scale})


def test_attention_causal(rng, dtype):
    check_attention(rng, dtype, Tk=T, ours={"causal": True}, theirs={"is_causal": True})


def test_attention_causal_is_aligned_at_the_end(rng, dtype):
    """PyTorch's is_causal is aligned at the start; its `causal_lower_right` is what a longer past needs."""
    lower_right = torch.ones(T, S, dtype=torch.bool).tril(S - T)
    check_attention(rng, dtype, ours={"causal": True}, theirs={"attn_mask": lower_right})


@pytest.mark.parametrize("shape", [(T, S), (B, 1, 1, S), (B, H, T, S), (H, 1, S)])
def test_attention_boolean_mask(rng, dtype, shape):
    mask = rng.random(shape) < 0.7
    mask[..., 0] = True  # rows without a key are not PyTorch's to define: tests/ops has them
    check_attention(rng, dtype, ours={"mask": mask}, theirs={"attn_mask": torch.tensor(mask)})


@pytest.mark.parametrize("shape", [(T, S), (B, 1, 1, S), (B, H, T, S), (H, 1, S)])
def test_attention_additive_mask(rng, dtype, shape):
    check_attention(rng, dtype, bias_shape=shape)


def test_attention_key_lengths(rng, dtype):
    lengths = np.array([9, 4])
    mask = torch.tensor(np.arange(S) < lengths[:, None, None, None])
    check_attention(rng, dtype, ours={"key_lengths": lengths}, theirs={"attn_mask": mask})


@pytest.mark.parametrize("Hkv", [1, 2])
def test_attention_grouped_queries(rng, dtype, Hkv):
    check_attention(rng, dtype, Hkv=Hkv, Tk=T, ours={"causal": True}, theirs={"is_causal": True, "enable_gqa": True})


def test_attention_dropout(rng, dtype):
    """PyTorch draws other numbers: with every value 1, y is the sum of a row's weights after dropout, 1 on average."""
    q, k = (rng.normal(size=(B, H, 64, D)).astype(dtype) for _ in range(2))
    v = np.ones((B, H, 64, 1), dtype=dtype)
    y, _ = attention(q, k, v, dropout=0.3, rng=rng)
    torch.manual_seed(0)
    want = F.scaled_dot_product_attention(*map(torch.tensor, (q, k, v)), dropout_p=0.3).numpy()
    assert abs(y.mean() - 1) < 0.05
    assert abs(want.mean() - 1) < 0.05
    assert abs(y.std() / want.std() - 1) < 0.15


def test_attention_rotated_as_llama_and_roformer_do(rng, dtype):
    """Rotary positions through PyTorch's autograd, written with complex numbers."""
    x, dy = (rng.normal(size=(B, H, T, D)).astype(dtype) for _ in range(2))
    angles = np.arange(T)[:, None] * 10000.0 ** (-np.arange(0, D, 2) / D)
    turn = torch.tensor(np.exp(1j * angles).astype(np.complex64 if dtype is np.float32 else np.complex128))
    for interleaved in (False, True):
        (tensor,) = leaves(x)
        pairs = tensor.unflatten(-1, (D // 2, 2)) if interleaved else tensor.unflatten(-1, (2, D // 2)).mT
        turned = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * turn)
        want = turned.flatten(-2) if interleaved else turned.mT.flatten(-2)
        want.backward(torch.tensor(dy))
        y, cache = rotary(x, range(T), interleaved=interleaved)
        assert_same((y, rotary_backward(dy, cache)), (want, tensor.grad), dtype)


# ---- embedding


@pytest.mark.parametrize("padding_idx", [None, 0, 3, -1])
def test_embedding(rng, dtype, padding_idx):
    ids, weight = rng.integers(0, 11, (6, 40)), rng.normal(size=(11, 8)).astype(dtype)
    dy = rng.normal(size=(6, 40, 8)).astype(dtype)
    y, cache = embedding(ids, weight, padding_idx)
    (tensor,) = leaves(weight)
    want = F.embedding(torch.tensor(ids), tensor, padding_idx=padding_idx)
    want.backward(torch.tensor(dy))
    assert_same((y, embedding_backward(dy, cache)), (want, tensor.grad), dtype)


# ---- conv1d


def check_conv1d(rng, dtype, theirs, *, T=17, K=3, has_bias=True, **ours):
    """`theirs` are options of PyTorch's function, which has channels before time."""
    args = [rng.normal(size=shape).astype(dtype) for shape in ((2, T, 5), (6, 5, K), (6,))][: 3 if has_bias else 2]
    y, cache = conv1d(*args, **ours)
    dy = rng.normal(size=y.shape).astype(dtype)
    tensors = leaves(*args)
    left = theirs.pop("left", 0)
    want = F.conv1d(F.pad(tensors[0].mT, (left, 0)), *tensors[1:], **theirs).mT
    want.backward(torch.tensor(dy))
    gradients = conv1d_backward(dy, cache)[: len(args)]
    assert_same((y, *gradients), (want, *(t.grad for t in tensors)), dtype)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("K", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_conv1d_same(rng, dtype, K, dilation):
    check_conv1d(rng, dtype, {"padding": "same", "dilation": dilation}, K=K, dilation=dilation)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("has_bias", [True, False])
def test_conv1d_valid(rng, dtype, stride, dilation, has_bias):
    options = {"stride": stride, "dilation": dilation}
    check_conv1d(rng, dtype, options | {"padding": "valid"}, has_bias=has_bias, padding="valid", **options)


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("dilation", [1, 4])
def test_conv1d_causal(rng, dtype, stride, dilation):
    options = {"stride": stride, "dilation": dilation}
    check_conv1d(rng, dtype, options | {"left": 2 * dilation}, padding="causal", **options)


@pytest.mark.parametrize(("T", "stride"), [(17, 2), (19, 2), (19, 3)])
def test_conv1d_same_with_a_stride(rng, dtype, T, stride):
    """Where TensorFlow's rule pads both sides alike, PyTorch can be told to do the same."""
    check_conv1d(rng, dtype, {"stride": stride, "padding": 1}, T=T, stride=stride)
