"""RNN, LSTM and GRU against PyTorch's modules with the same weights; variable lengths against packed sequences."""

from __future__ import annotations

import numpy as np
import pytest

from minilm.layers.recurrent import GRU, LSTM, RNN

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

KINDS = {RNN: torch.nn.RNN, LSTM: torch.nn.LSTM, GRU: torch.nn.GRU}
B, T, I, H = 5, 7, 4, 6


def parts_of(state):
    return state if isinstance(state, tuple) else (state,)


def run_torch(layer, theirs, x, state, lengths, dy, dstate):
    """y, final state, dx, gradient of the state and of every parameter, as PyTorch computes them."""
    module = theirs(
        I, H, layer.num_layers, bias="bias_ih_l0" in layer.params, batch_first=True, bidirectional=layer.bidirectional
    ).to(torch.float64 if x.dtype == np.float64 else torch.float32)
    module.load_state_dict({name: torch.tensor(array) for name, array in layer.parameters().items()})
    xt = torch.tensor(x, requires_grad=True)
    initial = None if state is None else [torch.tensor(s, requires_grad=True) for s in parts_of(state)]
    given = None if initial is None else tuple(initial) if len(initial) > 1 else initial[0]
    if lengths is None:
        y, final = module(xt, given)
    else:
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            xt, torch.tensor(lengths), batch_first=True, enforce_sorted=False
        )
        packed, final = module(packed, given)
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(packed, batch_first=True, total_length=x.shape[1])
    outputs = [y, *parts_of(final)]
    torch.autograd.backward(outputs, [torch.tensor(d) for d in (dy, *parts_of(dstate))])
    gradients = {name: parameter.grad.numpy() for name, parameter in module.named_parameters()}
    inputs = [xt.grad.numpy(), *(s.grad.numpy() for s in initial or ())]
    return [o.detach().numpy() for o in outputs], inputs, gradients


def compare(kind, rng, dtype, atol, *, lengths, with_state, **options):
    layer = kind(I, H, rng=rng, dtype=dtype, **options)
    shape = layer.num_layers * len(layer.directions), B, H

    def draw(*shape):
        return rng.normal(size=shape).astype(dtype)

    def draw_state():
        parts = tuple(draw(*shape) for _ in layer.state_names)
        return parts if len(parts) > 1 else parts[0]

    x, state = draw(B, T, I), draw_state() if with_state else None
    dy, dstate = draw(B, T, H * len(layer.directions)), draw_state()
    (y, final), cache = layer.forward(x, state, lengths=lengths)
    (dx, dinitial), grads = layer.backward((dy, dstate), cache)
    outputs, inputs, gradients = run_torch(layer, KINDS[kind], x, state, lengths, dy, dstate)
    got = [y, *parts_of(final), dx, *(parts_of(dinitial) if with_state else ())]
    for g, w in zip(got, [*outputs, *inputs], strict=True):
        assert g.dtype == np.dtype(dtype)
        np.testing.assert_allclose(g, w, rtol=0, atol=atol * max(1, np.abs(w).max()))
    assert grads.keys() == gradients.keys()
    for name, gradient in grads.items():
        np.testing.assert_allclose(
            gradient, gradients[name], rtol=0, atol=atol * max(1, np.abs(gradients[name]).max()), err_msg=name
        )


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"num_layers": 2, "bias": False}])
@pytest.mark.parametrize("kind", KINDS)
def test_same_results_and_gradients(kind, options, with_state, rng):
    compare(kind, rng, "float64", 1e-12, lengths=None, with_state=with_state, **options)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_same_as_packed_sequences(kind, with_state, seed):
    """Two layers in both directions over random lengths; PyTorch does not pack empty sequences, so they are >= 1."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, T + 1, B).tolist()
    compare(kind, rng, "float64", 1e-12, lengths=lengths, with_state=with_state, num_layers=2, bidirectional=True)


@pytest.mark.parametrize("lengths", [None, [7, 3, 1, 5, 5]])
@pytest.mark.parametrize("kind", KINDS)
def test_same_in_float32(kind, lengths, rng):
    compare(kind, rng, "float32", 1e-5, lengths=lengths, with_state=True, num_layers=2, bidirectional=True)
