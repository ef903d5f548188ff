"""Conv1d: gradients, freezing, and computing step by step."""

import numpy as np
import pytest

from minilm.layers.convolution import Conv1d
from tests.layers.helpers import check_freezing, check_gradients, check_library

OPTIONS = [
    {},
    {"padding": "valid", "bias": False},
    {"padding": "causal", "dilation": 2},
    {"padding": "same", "stride": 2},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradient_and_library(options, rng, xp):
    x = rng.normal(size=(2, 7, 3))
    check_gradients(Conv1d(3, 4, 3, rng=rng, dtype="float64", **options), x)
    check_library(lambda: Conv1d(3, 4, 3, rng=np.random.default_rng(0), **options), x.astype("float32"), xp)


def test_freezing(rng):
    layer = Conv1d(3, 4, 3, rng=rng, dtype="float64")
    x, dy = rng.normal(size=(2, 5, 3)), rng.normal(size=(2, 5, 4))
    check_freezing(layer, lambda: layer.backward(dy, layer.forward(x)[1])[1])


@pytest.mark.parametrize("pieces", [[1] * 7, [3, 4], [7], [1, 6]])
@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (2, 3), (1, 1)])
def test_extend_equals_forward(pieces, kernel, dilation, rng, xp):
    layer = Conv1d(3, 4, kernel, padding="causal", dilation=dilation, rng=rng, dtype="float64").to(xp.module)
    x = xp.asarray(rng.normal(size=(2, 7, 3)))
    want, _ = layer.forward(x, train=False, cache=False)
    past, start, got = None, 0, []
    for size in pieces:
        y, past = layer.extend(x[:, start : start + size], past)
        got.append(xp.to_numpy(y))
        start += size
    np.testing.assert_allclose(np.concatenate(got, axis=1), xp.to_numpy(want), atol=1e-14)


@pytest.mark.parametrize("options", [{"padding": "same"}, {"padding": "causal", "stride": 2}])
def test_extend_refuses_what_sees_later_inputs(options, rng):
    with pytest.raises(ValueError, match="step by step"):
        Conv1d(3, 4, 3, rng=rng, **options).extend(np.ones((1, 1, 3), np.float32))


@pytest.mark.parametrize("arguments", [(0, 4, 3), (3, -1, 3), (3, 4, 0)])
def test_wrong_sizes(arguments, rng):
    with pytest.raises(ValueError, match="at least 1"):
        Conv1d(*arguments, rng=rng)


def test_unknown_padding(rng):
    with pytest.raises(ValueError, match="causal"):
        Conv1d(3, 4, 3, padding="full", rng=rng)
