"""RNN, LSTM and GRU stacks: what the layers add to the ops, which have tests of their own."""

from __future__ import annotations

import numpy as np
import pytest

from minilm import gradcheck
from minilm.layers.recurrent import GRU, LSTM, RNN
from minilm.ops.gru import gru
from minilm.ops.lstm import lstm
from minilm.ops.rnn import rnn

KINDS = {RNN: (rnn, 1), LSTM: (lstm, 4), GRU: (gru, 3)}
B, T, I, H = 3, 4, 2, 3


def build(kind, xp, rng, *, dtype="float64", **options):
    return kind(I, H, rng=rng, dtype=dtype, **options).to(xp.module)


def state_for(layer, xp, rng, batch=B):
    shape = layer.num_layers * len(layer.directions), batch, H
    parts = tuple(xp.asarray(rng.normal(size=shape)) for _ in layer.state_names)
    return parts if len(parts) > 1 else parts[0]


def parts_of(state):
    return state if isinstance(state, tuple) else (state,)


def close(got, want, xp, atol=1e-13):
    np.testing.assert_allclose(xp.to_numpy(got), xp.to_numpy(want), rtol=0, atol=atol)


@pytest.mark.parametrize("lengths", [None, [4, 2, 0]])
@pytest.mark.parametrize("kind", KINDS)
def test_a_stack_is_its_ops(kind, lengths, xp, rng):
    """Two layers, both directions, written out."""
    op, _ = KINDS[kind]
    layer = build(kind, xp, rng, num_layers=2, bidirectional=True)
    x, state = xp.asarray(rng.normal(size=(B, T, I))), state_for(layer, xp, rng)
    (y, final), _ = layer.forward(x, state, lengths=lengths)
    finals = []
    for depth in range(2):
        both = []
        for suffix in (f"l{depth}", f"l{depth}_reverse"):
            weights = [layer.params[f"{name}_{suffix}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            initial = [part[len(finals)] for part in parts_of(state)]
            (one, *end), _ = op(x, *weights, *initial, lengths=lengths, reverse="reverse" in suffix)
            both.append(one)
            finals.append(end)
        x = xp.module.concatenate(both, axis=2)
    close(y, x, xp, atol=0)
    for part, ends in zip(parts_of(final), zip(*finals, strict=True), strict=True):
        close(part, xp.module.stack(list(ends)), xp, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_shapes_are_those_of_pytorch(kind, rng):
    gates = KINDS[kind][1]
    layer = kind(I, H, 2, True, rng=rng)
    expected = {}
    for depth, width in enumerate((I, 2 * H)):
        for direction in ("", "_reverse"):
            for name, shape in [("weight_ih", (gates * H, width)), ("weight_hh", (gates * H, H))]:
                expected[f"{name}_l{depth}{direction}"] = shape
            for name in ("bias_ih", "bias_hh"):
                expected[f"{name}_l{depth}{direction}"] = (gates * H,)
    assert {name: array.shape for name, array in layer.parameters().items()} == expected
    assert list(layer.parameters()) == list(expected)
    assert all(array.dtype == np.float32 for array in layer.parameters().values())
    assert list(kind(I, H, bias=False, rng=rng).parameters()) == ["weight_ih_l0", "weight_hh_l0"]


@pytest.mark.parametrize("kind", KINDS)
def test_pytorch_initialization(kind, rng):
    for name, array in kind(50, 40, rng=rng).parameters().items():
        assert np.abs(array).max() <= 40**-0.5, name
        assert abs(array.std() * np.sqrt(3 * 40) - 1) < 0.25, name


@pytest.mark.parametrize("kind", KINDS)
def test_orthogonal_initialization(kind, rng):
    gates = KINDS[kind][1]
    layer = kind(7, 5, 2, initialization="orthogonal", rng=rng, dtype="float64")
    for gate in range(gates):
        rows = slice(5 * gate, 5 * gate + 5)
        square = layer.weight_hh_l1[rows]
        np.testing.assert_allclose(square @ square.T, np.eye(5), atol=1e-12)
        assert 0 < np.abs(layer.weight_ih_l0[rows]).max() <= (6 / 12) ** 0.5
        forget = kind is LSTM and gate == 1
        np.testing.assert_array_equal(layer.bias_ih_l0[rows], np.full(5, float(forget)))
        np.testing.assert_array_equal(layer.bias_hh_l0[rows], np.zeros(5))


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"num_layers": 3, "bias": False}])
@pytest.mark.parametrize("lengths", [None, [4, 2, 0]])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient(kind, lengths, options, xp, rng):
    """Of x, of the initial state and of every parameter, by complex step."""
    layer = build(kind, xp, rng, **options)
    names = list(layer.params)

    def forward(x, *arrays):
        count = len(layer.state_names)
        state = arrays[:count] if count > 1 else arrays[0]
        layered = layer.with_params(**dict(zip(names, arrays[count:], strict=True)))
        return layered.forward(x, state, lengths=lengths)

    def backward(dy, cache):
        (dx, dstate), grads = layer.backward(dy, cache)
        return dx, *parts_of(dstate), *(grads[name] for name in names)

    args = xp.asarray(rng.normal(size=(B, T, I))), *parts_of(state_for(layer, xp, rng)), *layer.params.values()
    report = gradcheck.gradcheck(forward, backward, args, method="complex-step")
    assert report.max_rel_error <= 1e-11, report
    gradcheck.check_laws(forward, backward, args)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_through_dropout(kind, xp, rng):
    """The same seed draws the same mask, so the stack is a smooth function of x."""
    layer = build(kind, xp, rng, num_layers=2, dropout=0.5)

    def forward(x):
        return layer.forward(x, rng=np.random.default_rng(5))

    def backward(dy, cache):
        return layer.backward(dy, cache)[0][0]

    report = gradcheck.gradcheck(forward, backward, (xp.asarray(rng.normal(size=(B, T, I))),), method="complex-step")
    assert report.max_rel_error <= 1e-11, report


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_is_between_the_layers_while_training(kind, xp, rng):
    layer = build(kind, xp, rng, num_layers=2, dropout=0.5)
    x = xp.asarray(rng.normal(size=(B, T, I)))
    (inference, _), cache = layer.forward(x, train=False, cache=False)
    assert cache is None
    (trained, _), _ = layer.forward(x, rng=np.random.default_rng(1))
    (again, _), _ = layer.forward(x, rng=np.random.default_rng(1))
    close(trained, again, xp, atol=0)
    assert np.abs(xp.to_numpy(trained) - xp.to_numpy(inference)).max() > 1e-3
    with pytest.raises(ValueError, match="rng"):
        layer.forward(x)
    single = build(kind, xp, rng, dropout=0.5)  # no layer follows the only one: nothing is dropped, nothing drawn
    close(single.forward(x)[0][0], single.forward(x, train=False, cache=False)[0][0], xp, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_one_position_at_a_time(kind, xp, rng):
    """Incremental inference: each call takes one position and the state of the call before."""
    layer = build(kind, xp, rng, num_layers=2)
    x, state = xp.asarray(rng.normal(size=(B, T, I))), None
    (y, final), _ = layer.forward(x)
    for t in range(T):
        part, state = layer.extend(x[:, t : t + 1], state)
        close(part, y[:, t : t + 1], xp)
    for got, want in zip(parts_of(state), parts_of(final), strict=True):
        close(got, want, xp)


@pytest.mark.parametrize("kind", KINDS)
def test_two_directions_cannot_be_continued(kind, xp, rng):
    with pytest.raises(ValueError, match="bidirectional=False"):
        build(kind, xp, rng, bidirectional=True).extend(xp.asarray(rng.normal(size=(B, 1, I))))


@pytest.mark.parametrize("kind", KINDS)
def test_backward_computes_what_is_asked_for(kind, xp, rng):
    layer = build(kind, xp, rng, num_layers=2, bidirectional=True)
    (y, final), cache = layer.forward(xp.asarray(rng.normal(size=(B, T, I))))
    dy = xp.asarray(rng.normal(size=y.shape))
    (dx, dstate), grads = layer.backward((dy, None), cache)
    assert dx.shape == (B, T, I) and dstate is None and grads.keys() == layer.params.keys()

    (nothing, _), without_dx = layer.backward((dy, None), cache, need_dx=False)
    assert nothing is None
    for name, gradient in grads.items():
        close(without_dx[name], gradient, xp, atol=0)

    (from_state, _), _ = layer.backward((None, final), cache)
    zeros = xp.asarray(np.zeros(dy.shape))
    close(from_state, layer.backward((zeros, final), cache)[0][0], xp, atol=1e-15)


@pytest.mark.parametrize(
    "frozen, ran",
    [
        (["*_l0*"], [3, 2]),  # with no dx wanted, the backward ends above the first layer
        (["*_l1*"], [3, 2, 1, 0]),  # the gradient passes through
        (["*"], []),
        (["*_l0_reverse", "*_l0"], [3, 2]),
        (["weight_*"], [3, 2, 1, 0]),
        (["*_l0"], [3, 2, 1]),  # of the first layer, only the reverse direction
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_no_work_for_frozen_parameters(kind, frozen, ran, rng, monkeypatch):
    layer = kind(I, H, 2, True, rng=rng, dtype="float64")
    (y, _), cache = layer.forward(rng.normal(size=(B, T, I)))
    dy = rng.normal(size=y.shape)
    _, everything = layer.backward((dy, None), cache)
    layer.freeze(*frozen)

    calls = []
    backward = layer.op.backward

    def counted(dy, run, wrt):
        number = next(n for n, c in enumerate(cache.runs) if c is run)
        calls.append(number)
        return backward(dy, run, wrt=wrt)

    monkeypatch.setattr(layer.op, "backward", counted)
    (dx, _), grads = layer.backward((dy, None), cache, need_dx=False)
    assert dx is None and grads.keys() == layer.trainable().keys()
    for name, gradient in grads.items():
        np.testing.assert_array_equal(gradient, everything[name])
    assert sorted(calls) == sorted(ran)


@pytest.mark.parametrize("kind", KINDS)
def test_the_initial_state_has_a_gradient_below_frozen_layers(kind, rng):
    """It is not the gradient of x, and flows on into an encoder, say, when x needs none."""
    layer = kind(I, H, 2, rng=rng, dtype="float64")
    state = tuple(rng.normal(size=(2, B, H)) for _ in layer.state_names)
    (y, _), cache = layer.forward(rng.normal(size=(B, T, I)), state if kind is LSTM else state[0])
    dy = rng.normal(size=y.shape)
    (_, want), _ = layer.backward((dy, None), cache)
    layer.freeze("*")
    (dx, got), grads = layer.backward((dy, None), cache, need_dx=False)
    assert dx is None and grads == {}
    for g, w in zip(parts_of(got), parts_of(want), strict=True):
        np.testing.assert_array_equal(g, w)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_and_empty_batches(kind, xp, rng):
    layer = build(kind, xp, rng, dtype="float32", num_layers=2, bidirectional=True)
    for batch, time in [(B, T), (0, T), (B, 0), (1, 1)]:
        x = xp.asarray(rng.normal(size=(batch, time, I)).astype(np.float32))
        (y, final), cache = layer.forward(x, lengths=[time] * batch)
        (dx, _), grads = layer.backward((y, final), cache)
        assert y.shape == (batch, time, 2 * H) and dx.shape == x.shape
        assert all(a.dtype == np.float32 for a in (y, dx, *parts_of(final), *grads.values()))
        assert all(part.shape == (4, batch, H) for part in parts_of(final))


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_arguments(kind, rng):
    for options, message in [
        ({"num_layers": 0}, "num_layers is 0"),
        ({"initialization": "magic"}, "choose pytorch, orthogonal"),
        ({"dropout": 1.5}, "1.5"),
    ]:
        with pytest.raises(ValueError, match=message):
            kind(I, H, rng=rng, **options)
    layer = kind(I, H, rng=rng)
    with pytest.raises(ValueError, match="expected \\(B, T, 2\\)"):
        layer.forward(np.zeros((B, T, 5), np.float32))
    wrong = np.zeros((2, B, H), np.float32)
    with pytest.raises(ValueError, match="expected \\(1, 3, 3\\)"):
        layer.forward(np.zeros((B, T, I), np.float32), (wrong, wrong) if kind is LSTM else wrong)
    other_form = wrong[:1] if kind is LSTM else (wrong[:1], wrong[:1])
    with pytest.raises(ValueError, match="the state has shape"):
        layer.forward(np.zeros((B, T, I), np.float32), other_form)
    with pytest.raises(ValueError, match=r"got 9 for sequence 2, expected 0\.\.4"):
        layer.forward(np.zeros((B, T, I), np.float32), lengths=[1, 2, 9])
