"""Stacks of recurrent layers: RNN, LSTM, GRU. One class for all three; they differ in their op, gates and states.

    y_0 = x        y_{l+1} = op(dropout(y_l))        bidirectional: [op forward ; op in reverse] side by side

Parameters have PyTorch's names and layouts: weight_ih_l0 (gates·H, I), weight_hh_l0 (gates·H, H), bias_ih_l0 and
bias_hh_l0 (gates·H,), then ..._l0_reverse, ..._l1, and so on; from the second layer on, I is directions · H.

    (y, state), cache = lstm.forward(x, lengths=lengths)
    y, state = lstm.extend(x[:, t:t+1], state)                     one position at a time, same y
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from minilm.backend import Array, array_namespace
from minilm.checks import one_of, whole
from minilm.layers.base import Gradients, Layer
from minilm.layers.dropout import Dropout
from minilm.layers.initialization import orthogonal, uniform, xavier_uniform
from minilm.ops.gru import gru
from minilm.ops.lstm import lstm
from minilm.ops.recurrent import check_lengths
from minilm.ops.rnn import rnn

INITIALIZATIONS = ("pytorch", "orthogonal")
OWN = {"w_ih": "weight_ih", "w_hh": "weight_hh", "b_ih": "bias_ih", "b_hh": "bias_hh"}  # the op's name: the layer's


class RecurrentCache(NamedTuple):
    """The caches of every op, and of the dropout before each layer (None before the first)."""

    runs: list[Any]  # layer by layer, the directions of a layer beside each other
    dropped: list[Any]  # one a layer
    batch: int
    has_state: bool


class Recurrent(Layer):
    """What RNN, LSTM and GRU have in common; use one of these.

    `initialization` "pytorch": all from U(−1/√H, 1/√H). "orthogonal": gate by gate, Xavier uniform input weights and
    orthogonal recurrent ones, biases 0, but 1 for an LSTM's forget gate (in bias_ih alone, as the two are added).
    `dropout` is between the layers, while training.
    """

    op: ClassVar[Callable[..., Any]]
    gates: ClassVar[int]
    state_names: ClassVar[tuple[str, ...]] = ("h0",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        bias: bool = True,
        *,
        initialization: str = "pytorch",
        rng: np.random.Generator,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        kind = type(self).__name__
        for name, size in {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}.items():
            whole(f"{kind}: {name}", size, 1)
        one_of(f"{kind}: initialization", initialization, INITIALIZATIONS)
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bidirectional = bidirectional
        self.directions = ("", "_reverse") if bidirectional else ("",)
        self.children["dropout"] = Dropout(dropout)
        for layer in range(num_layers):
            width = input_size if layer == 0 else hidden_size * len(self.directions)
            for suffix in self._suffixes(layer):
                drawn = self._draw(width, initialization, rng, dtype)
                self.params |= {OWN[name] + suffix: drawn[name] for name in OWN if bias or name.startswith("w")}

    def _draw(self, I: int, initialization: str, rng: np.random.Generator, dtype: str) -> dict[str, np.ndarray]:
        """The parameters of one layer in one direction, by their names in the op."""
        H, rows = self.hidden_size, self.gates * self.hidden_size
        if initialization == "pytorch":
            shapes = {"w_ih": (rows, I), "w_hh": (rows, H), "b_ih": (rows,), "b_hh": (rows,)}
            return {name: uniform(rng, shape, H**-0.5, dtype) for name, shape in shapes.items()}
        b_ih = np.zeros(rows, dtype)
        if self.op is lstm:
            b_ih[H : 2 * H] = 1  # an open forget gate lets gradients through from the first step on
        return {
            "w_ih": np.concatenate([xavier_uniform(rng, (H, I), dtype) for _ in range(self.gates)]),
            "w_hh": np.concatenate([orthogonal(rng, (H, H), dtype) for _ in range(self.gates)]),
            "b_ih": b_ih,
            "b_hh": np.zeros(rows, dtype),
        }

    def _suffixes(self, layer: int) -> list[str]:
        return [f"_l{layer}{direction}" for direction in self.directions]

    def forward(
        self,
        x: Array,
        state: Any = None,
        *,
        lengths: Array | Sequence[int] | None = None,
        train: bool = True,
        cache: bool = True,
        rng: Any = None,
    ) -> tuple[tuple[Array, Any], RecurrentCache | None]:
        """x (B, T, I) -> y (B, T, directions · H) and the state after each sequence's end, of the form of `state`.

        `state` is h (layers · directions, B, H), for an LSTM (h, c); zeros where None. Each entry is one op's, in the
        order l0, l0_reverse, l1, ... `lengths` (B,) end the sequences: y is 0 after the end.
        """
        xp = array_namespace(x)
        if x.ndim != 3 or x.shape[2] != self.input_size:
            raise ValueError(f"{type(self).__name__}: x has shape {x.shape}, expected (B, T, {self.input_size})")
        lengths = check_lengths(lengths, x)
        initial = self._states(state, x.shape[0])
        runs, dropped, finals = [], [], []
        for layer in range(self.num_layers):
            drop_cache = None
            if layer:
                x, drop_cache = self.children["dropout"].forward(x, train=train, cache=cache, rng=rng)
            dropped.append(drop_cache)
            outputs = []
            for suffix in self._suffixes(layer):
                arrays = {name: self.params.get(own + suffix) for name, own in OWN.items()}
                arrays |= {name: None if s is None else s[len(runs)] for name, s in initial.items()}
                reverse = suffix.endswith("_reverse")
                (y, *final), run = self.op(x, **arrays, lengths=lengths, reverse=reverse, cache=cache)
                outputs.append(y)
                finals.append(final)
                runs.append(run)
            x = outputs[0] if len(outputs) == 1 else xp.concatenate(outputs, axis=-1)  # (B, T, directions · H)
        stacked = tuple(xp.stack(states) for states in zip(*finals, strict=True))  # (layers · directions, B, H) each
        final_state = stacked if len(self.state_names) > 1 else stacked[0]
        return (x, final_state), RecurrentCache(runs, dropped, x.shape[0], state is not None) if cache else None

    def backward(
        self, dy: tuple[Array | None, Any], cache: RecurrentCache, *, need_dx: bool = True
    ) -> tuple[tuple[Array | None, Any], Gradients]:
        """From (dy, dstate), of which any part may be None: (dx, gradient of the initial state), gradients.

        dx is None where it is not needed, the gradient of the initial state where no state was given.
        """
        dhidden, dstate = dy
        xp = array_namespace(self.params["weight_hh_l0"])
        dfinals = self._states(dstate, cache.batch)
        dinitial: list[tuple[Array, ...]] = [()] * len(cache.runs)
        grads: Gradients = {}
        trained = self.params.keys() - self.frozen
        layers = [n for n in range(self.num_layers) if any(name.endswith((*self._suffixes(n),)) for name in trained)]
        lowest = 0 if need_dx or cache.has_state else min(layers, default=self.num_layers)
        for layer in reversed(range(lowest, self.num_layers)):
            below = need_dx or layer > lowest
            dx = None
            for direction, suffix in enumerate(self._suffixes(layer)):
                run = layer * len(self.directions) + direction
                wrt = {name for name, own in OWN.items() if own + suffix in trained}
                wrt |= {"x"} if below else set()
                wrt |= set(self.state_names) if cache.has_state else set()
                if not wrt:
                    continue
                columns = slice(direction * self.hidden_size, (direction + 1) * self.hidden_size)
                dfinal = (None if d is None else d[run] for d in dfinals.values())
                upstream = (None if dhidden is None else dhidden[..., columns], *dfinal)
                dx_part, *dweights = self.op.backward(upstream, cache.runs[run], wrt=wrt)
                dinitial[run] = tuple(dweights[4:])
                named = dict(zip(OWN.values(), dweights[:4], strict=True))
                grads |= self.grads(**{own + suffix: gradient for own, gradient in named.items()})
                dx = dx_part if dx is None else dx + dx_part
            dhidden = dx
            if below and layer:
                dhidden, _ = self.children["dropout"].backward(dhidden, cache.dropped[layer])
        dstate0 = None
        if cache.has_state:
            by_name = zip(*dinitial, strict=True)
            stacked = tuple(None if states[0] is None else xp.stack(states) for states in by_name)
            dstate0 = stacked if len(self.state_names) > 1 else stacked[0]
        return (dhidden if need_dx else None, dstate0), grads

    def extend(self, x: Array, state: Any = None) -> tuple[Array, Any]:
        if self.bidirectional:
            raise ValueError(
                f"{type(self).__name__}: one direction needs later inputs; build it with bidirectional=False"
            )
        (y, state), _ = self.forward(x, state, train=False, cache=False)
        return y, state

    def _states(self, state: Any, B: int) -> dict[str, Array | None]:
        """A state (or its gradient) by the op's names. Raises ValueError where it has not the form of this stack's."""
        names, kind = self.state_names, type(self).__name__
        if state is None:
            return dict.fromkeys(names)
        parts = state if isinstance(state, tuple | list) else (state,)
        shape = (self.num_layers * len(self.directions), B, self.hidden_size)
        if len(parts) != len(names) or any(part is not None and part.shape != shape for part in parts):
            given = ", ".join(str(getattr(part, "shape", part)) for part in parts)
            raise ValueError(f"{kind}: the state has shape {given}; expected {', '.join([str(shape)] * len(names))}")
        return dict(zip(names, parts, strict=True))


class RNN(Recurrent):
    """h_t = tanh(W_ih x_t + b_ih + W_hh h_{t−1} + b_hh): see `ops.rnn`."""

    op, gates = staticmethod(rnn), 1


class LSTM(Recurrent):
    """The long short-term memory: see `ops.lstm`. Its state is (h, c)."""

    op, gates = staticmethod(lstm), 4
    state_names = ("h0", "c0")


class GRU(Recurrent):
    """The gated recurrent unit: see `ops.gru`."""

    op, gates = staticmethod(gru), 3
