"""conv1d: its definition, its gradient for every padding, stride and dilation, its edges."""

from __future__ import annotations

import re

import numpy as np
import pytest

from minilm import gradcheck
from minilm.ops.conv1d import conv1d, conv1d_backward

# (T, K, stride, dilation): a kernel of one; even kernels, whose padding is uneven; strides that don't divide T;
# a stride larger than the kernel, which skips steps; a field larger than T
GEOMETRIES = [
    (5, 1, 1, 1),
    (7, 3, 1, 1),
    (6, 4, 1, 1),
    (7, 2, 2, 1),
    (9, 3, 2, 2),
    (8, 2, 1, 3),
    (7, 2, 4, 1),
    (3, 3, 1, 4),
]
CASES = [
    (padding, *geometry)
    for padding in ("same", "valid", "causal")
    for geometry in GEOMETRIES
    if padding != "valid" or geometry[0] >= geometry[3] * (geometry[1] - 1) + 1
]


def conv_in_a_loop(x, weight, bias, padding, stride, dilation):
    """The definition, one output at a time, with the padding rules written out a second time."""
    B, T, _ = x.shape
    Cout, _, K = weight.shape
    span = dilation * (K - 1)
    if padding == "valid":
        left, starts = 0, range(0, T - span, stride)
    elif padding == "causal":
        left, starts = span, range(0, T, stride)
    else:
        starts = range(0, T, stride)
        needed = (starts[-1] + span + 1 - T) if len(starts) else 0  # beyond the end, if nothing stood on the left
        left = max(needed, 0) // 2
    y = np.zeros((B, len(starts), Cout))
    for t, start in enumerate(starts):
        for tap in range(K):
            s = start + dilation * tap - left
            if 0 <= s < T:
                y[:, t] += x[:, s] @ weight[:, :, tap].T
    return y if bias is None else y + bias


def arrays(rng, T, K, B=2, Cin=3, Cout=4):
    return rng.normal(size=(B, T, Cin)), rng.normal(size=(Cout, Cin, K)), rng.normal(size=Cout)


@pytest.mark.parametrize(("padding", "T", "K", "stride", "dilation"), CASES)
def test_definition(padding, T, K, stride, dilation, xp, rng):
    args = arrays(rng, T, K)
    y, _ = conv1d(*xp.asarrays(args), padding=padding, stride=stride, dilation=dilation)
    want = conv_in_a_loop(*args, padding, stride, dilation)
    assert y.shape == want.shape
    assert np.allclose(xp.to_numpy(y), want, rtol=1e-13, atol=1e-13)
    if padding != "valid":
        assert y.shape[1] == -(-T // stride)


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(("padding", "T", "K", "stride", "dilation"), CASES)
def test_gradient(padding, T, K, stride, dilation, has_bias, xp, rng):
    def forward(x, weight, bias=None):
        return conv1d(x, weight, bias, padding=padding, stride=stride, dilation=dilation)

    args = xp.asarrays(arrays(rng, T, K))[: 3 if has_bias else 2]
    report = gradcheck.gradcheck(forward, conv1d_backward, args, method="complex-step")
    assert report.max_rel_error <= 1e-11, report


def test_gradient_of_every_element(xp, rng):
    args = xp.asarrays(arrays(rng, 5, 3, Cin=2, Cout=2))
    report = gradcheck.gradcheck(conv1d, conv1d_backward, args, method="complex-step", mode="full")
    assert report.max_rel_error <= 1e-11, report


def test_laws(xp, rng):
    gradcheck.check_laws(conv1d, conv1d_backward, xp.asarrays(arrays(rng, 5, 3)))
    gradcheck.check_laws(
        lambda x, w, b: conv1d(x, w, b, padding="valid"), conv1d_backward, xp.asarrays(arrays(rng, 5, 1))
    )  # no padding: x itself is in the cache


def test_only_what_is_wanted(xp, rng):
    y, cache = conv1d(*xp.asarrays(arrays(rng, 5, 3)))
    everything = conv1d_backward(y, cache)
    for number, name in enumerate(("x", "weight", "bias")):
        only = conv1d_backward(y, cache, wrt=(name,))
        assert [g is not None for g in only] == [number == i for i in range(3)]
        assert np.array_equal(xp.to_numpy(only[number]), xp.to_numpy(everything[number]))


def test_causal_does_not_see_the_future(xp, rng):
    x, weight, bias = arrays(rng, 8, 3)
    changed = x.copy()
    changed[:, 5:] = rng.normal(size=changed[:, 5:].shape)
    before, _ = conv1d(*xp.asarrays((x, weight, bias)), padding="causal", dilation=2)
    after, _ = conv1d(*xp.asarrays((changed, weight, bias)), padding="causal", dilation=2)
    before, after = xp.to_numpy(before), xp.to_numpy(after)
    assert np.array_equal(before[:, :5], after[:, :5])
    assert not np.allclose(before[:, 5:], after[:, 5:])


def test_kernel_of_one_is_a_linear_map(xp, rng):
    x, weight, bias = arrays(rng, 6, 1)
    y, _ = conv1d(*xp.asarrays((x, weight, bias)))
    assert np.allclose(xp.to_numpy(y), x @ weight[:, :, 0].T + bias)


@pytest.mark.parametrize("padding", ["same", "causal"])
@pytest.mark.parametrize(("B", "T", "stride"), [(0, 5, 1), (2, 0, 1), (2, 0, 2), (1, 1, 3)])
def test_empty_and_single(B, T, stride, padding, xp, rng):
    args = xp.asarrays(arrays(rng, T, 3, B=B))
    y, cache = conv1d(*args, padding=padding, stride=stride)
    assert y.shape == (B, -(-T // stride), 4)
    gradients = conv1d_backward(y, cache)
    assert [g.shape for g in gradients] == [a.shape for a in args]
    if B == 0 or T == 0:
        assert all(not xp.to_numpy(g).any() for g in gradients)


def test_float32(xp, rng):
    """n roundings of a sum are off by at most n·2⁻²⁴·Σ|terms|; no sum here has more than 100 terms."""
    args = arrays(rng, 33, 5, Cin=16, Cout=8)
    single = [a.astype(np.float32) for a in args]
    dy = rng.normal(size=(2, 33, 8)).astype(np.float32)

    def run(arrays):
        y, cache = conv1d(*arrays[:3])
        return (y, *conv1d_backward(arrays[3], cache))

    got = run(xp.asarrays((*single, dy)))
    want = run([a.astype(np.float64) for a in (*single, dy)])
    sizes = run([np.abs(a.astype(np.float64)) for a in (*single, dy)])
    for ours, exact, size in zip(got, want, sizes, strict=True):
        assert ours.dtype == np.float32
        assert (np.abs(xp.to_numpy(ours) - exact) <= 100 * 2.0**-24 * size).all()


def test_non_contiguous(xp, rng):
    x, weight, bias = arrays(rng, 6, 3)
    turned = xp.asarray(np.ascontiguousarray(x.transpose(2, 1, 0))).transpose(2, 1, 0)
    flipped = xp.asarray(np.ascontiguousarray(weight[..., ::-1]))[..., ::-1]
    y, cache = conv1d(turned, flipped, xp.asarray(bias))
    want, plain = conv1d(x, weight, bias)
    assert np.allclose(xp.to_numpy(y), want)
    for ours, exact in zip(conv1d_backward(y, cache), conv1d_backward(want, plain), strict=True):
        assert np.allclose(xp.to_numpy(ours), exact)


def test_wrong_input(xp, rng):
    x, weight, bias = xp.asarrays(arrays(rng, 4, 3))
    with pytest.raises(ValueError, match=r"x has 4 steps and the receptive field is 5"):
        conv1d(x, weight, bias, padding="valid", dilation=2)
    with pytest.raises(ValueError, match="padding 'full' is unknown"):
        conv1d(x, weight, bias, padding="full")
    with pytest.raises(ValueError, match="stride is 0 and dilation is 1"):
        conv1d(x, weight, bias, stride=0)
    with pytest.raises(ValueError, match="stride is 1 and dilation is -1"):
        conv1d(x, weight, bias, dilation=-1)
    with pytest.raises(ValueError, match=re.escape("x (2, 4, 3) does not fit weight (4, 2, 3)")):
        conv1d(x, weight[:, :2], bias)
    with pytest.raises(ValueError, match=re.escape("bias has shape (3,), expected (4,)")):
        conv1d(x, weight, bias[:3])
    with pytest.raises(TypeError, match="different precision"):
        conv1d(x.astype("float32"), weight, bias)
