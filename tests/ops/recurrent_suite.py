"""The tests that every recurrent op passes: subclassed, with the op and its definition, in test_rnn.py and its like."""

from __future__ import annotations

import functools
import sys

import numpy as np
import pytest

from minilm import gradcheck
from tests import strict_cupy

LENGTHS = [
    None,
    [4, 2, 3],
    [1, 4, 0],  # an empty sequence: its state is the initial one
    [4, 4, 4],  # nothing to stop
]


class RecurrentOpSuite:
    """`op`, `backward`; `gates` rows of H in each weight; `states` of them: 2 for h and c.

    `step(x, states, w_ih, w_hh, b_ih, b_hh)` is the definition for one vector x: it returns the new states, h first.
    """

    B, T, I, H = 3, 4, 2, 3

    def arguments(self, rng, B=B, T=T, I=I, H=H, *, bias=True, initial=True):
        draw = [(B, T, I), (self.gates * H, I), (self.gates * H, H)]
        draw += [(self.gates * H,), (self.gates * H,)] if bias else [None, None]
        draw += [(B, H) if initial else None] * self.states
        return tuple(None if shape is None else rng.normal(size=shape) for shape in draw)

    def define(self, x, w_ih, w_hh, b_ih=None, b_hh=None, *initial, lengths=None, reverse=False):
        """y, h_n and the rest, one sequence and one step at a time."""
        (B, T, _), H = x.shape, w_hh.shape[1]
        b_ih, b_hh = (np.zeros(len(w_ih)) if b is None else b for b in (b_ih, b_hh))
        initial = [np.zeros((B, H)) if s is None else s for s in initial or (None,) * self.states]
        y, finals = np.zeros((B, T, H)), [np.zeros((B, H)) for _ in initial]
        for b in range(B):
            length = T if lengths is None else lengths[b]
            states = [s[b] for s in initial]
            for t in reversed(range(length)) if reverse else range(length):
                states = self.step(x[b, t], states, w_ih, w_hh, b_ih, b_hh)
                y[b, t] = states[0]
            for final, state in zip(finals, states, strict=True):
                final[b] = state
        return y, *finals

    def upstream(self, rng, results, xp):
        return tuple(xp.asarray(rng.normal(size=result.shape).astype(result.dtype)) for result in results)

    def close(self, got, want, xp, atol=1e-12):
        assert len(got) == len(want)
        for g, w in zip(got, want, strict=True):
            if w is None:
                assert g is None
            else:
                np.testing.assert_allclose(xp.to_numpy(g), xp.to_numpy(w), rtol=0, atol=atol)

    # ---- values

    @pytest.mark.parametrize("reverse", [False, True])
    @pytest.mark.parametrize("lengths", LENGTHS)
    @pytest.mark.parametrize("bias, initial", [(True, True), (False, False), (True, False)])
    def test_definition(self, lengths, reverse, bias, initial, xp, rng):
        args = self.arguments(rng, bias=bias, initial=initial)
        got, _ = self.op(*xp.asarrays(args), lengths=lengths, reverse=reverse)
        self.close(got, self.define(*args, lengths=lengths, reverse=reverse), xp)

    @pytest.mark.parametrize("present", [3, 4])
    def test_one_bias_is_enough(self, present, xp, rng):
        args = [a if n in (0, 1, 2, present) else None for n, a in enumerate(self.arguments(rng))]
        got, cache = self.op(*xp.asarrays(args))
        self.close(got, self.define(*args), xp)
        gradients = self.backward(self.upstream(rng, got, xp), cache)
        assert [g is not None for g in gradients] == [a is not None for a in args]

    def test_state_carries_on(self, xp, rng):
        """The parts of a sequence, each begun with the state of the one before, are the sequence; steps of one too."""
        x, *rest = xp.asarrays(self.arguments(rng))
        weights, states = rest[:4], rest[4:]
        (y, *final), _ = self.op(x, *weights, *states)
        for begin, end in [(0, 1), (1, 2), (2, 4)]:
            (part, *states), _ = self.op(x[:, begin:end], *weights, *states, cache=False)
            self.close([part], [y[:, begin:end]], xp)
        self.close(states, final, xp)

    @pytest.mark.parametrize("reverse", [False, True])
    @pytest.mark.parametrize("lengths", [None, [4, 0, 2]])
    @pytest.mark.parametrize("T", [0, 1, 4])
    def test_without_a_cache(self, T, lengths, reverse, xp, rng):
        args = xp.asarrays(self.arguments(rng, T=T))
        lengths = lengths and [min(length, T) for length in lengths]
        want, _ = self.op(*args, lengths=lengths, reverse=reverse)
        got, cache = self.op(*args, lengths=lengths, reverse=reverse, cache=False)
        assert cache is None
        self.close(got, want, xp, atol=0)

    def test_float32_stays_float32(self, xp, rng):
        args = tuple(0.25 * a for a in self.arguments(rng, T=20, I=8, H=16))  # larger weights: chaos, not rounding
        want, cache = self.op(*args, lengths=[20, 7, 0])
        dy = tuple(rng.normal(size=result.shape) for result in want)
        dwant = self.backward(dy, cache)
        single = xp.asarrays(tuple(a.astype(np.float32) for a in args))
        got, cache = self.op(*single, lengths=[20, 7, 0])
        dgot = self.backward(xp.asarrays(tuple(d.astype(np.float32) for d in dy)), cache)
        for g, w in zip((*got, *dgot), (*want, *dwant), strict=True):
            assert g.dtype == np.float32
            assert np.abs(xp.to_numpy(g) - w).max() < 1e-5 * max(1.0, np.abs(w).max())

    @pytest.mark.parametrize("size", [1e2, 1e30])
    def test_saturated_gates_do_not_overflow(self, size, xp, rng):
        """exp(−x) would: a warning is an error here."""
        args = tuple(a.astype(np.float32) for a in self.arguments(rng))
        x = (size * np.sign(args[0])).astype(np.float32)
        results, cache = self.op(*xp.asarrays((x, *args[1:])))
        gradients = self.backward(self.upstream(rng, results, xp), cache, wrt=("x", "w_hh", "h0"))
        assert all(np.isfinite(xp.to_numpy(a)).all() for a in (*results, *(g for g in gradients if g is not None)))

    # ---- gradients

    @pytest.mark.parametrize("reverse", [False, True])
    @pytest.mark.parametrize("lengths", LENGTHS)
    @pytest.mark.parametrize("bias, initial", [(True, True), (False, False)])
    def test_gradient(self, lengths, reverse, bias, initial, xp, rng):
        op = functools.partial(self.op, lengths=lengths, reverse=reverse)
        args = xp.asarrays(self.arguments(rng, bias=bias, initial=initial))
        report = gradcheck.gradcheck(op, self.backward, args, method="complex-step")
        assert report.max_rel_error <= 1e-11, report

    @pytest.mark.parametrize("lengths", [None, [3, 1]])
    def test_every_element_of_the_gradient(self, lengths, rng):
        op = functools.partial(self.op, lengths=lengths, reverse=lengths is not None)
        args = self.arguments(rng, 2, 3, 2, 2)
        report = gradcheck.gradcheck(op, self.backward, args, method="complex-step", mode="full")
        assert report.max_rel_error <= 1e-11, report

    @pytest.mark.parametrize("lengths", [None, [4, 0, 2]])
    def test_laws(self, lengths, xp, rng):
        args = xp.asarrays(self.arguments(rng))
        gradcheck.check_laws(functools.partial(self.op, lengths=lengths), self.backward, args)

    @pytest.mark.parametrize("lengths", [None, [4, 0, 2]])
    def test_none_is_no_gradient(self, lengths, xp, rng):
        """dy of None, entry by entry, is as good as zeros."""
        results, cache = self.op(*xp.asarrays(self.arguments(rng)), lengths=lengths)
        dy = self.upstream(rng, results, xp)
        for absent in [{0}, {1}, {self.states}, {0, self.states}, set(range(len(dy)))]:
            want = self.backward(tuple(0 * d if n in absent else d for n, d in enumerate(dy)), cache)
            got = self.backward(tuple(None if n in absent else d for n, d in enumerate(dy)), cache)
            self.close(got, want, xp, atol=1e-15)

    def test_only_what_is_asked_for(self, xp, rng):
        names = ("x", "w_ih", "w_hh", "b_ih", "b_hh", "h0", "c0")[: 5 + self.states]
        results, cache = self.op(*xp.asarrays(self.arguments(rng)))
        dy = self.upstream(rng, results, xp)
        everything = self.backward(dy, cache)
        for n, name in enumerate(names):
            got = self.backward(dy, cache, wrt=(name,))
            self.close(got, [g if m == n else None for m, g in enumerate(everything)], xp, atol=0)

    # ---- padding

    @pytest.mark.parametrize("on_device", [False, True])
    @pytest.mark.parametrize("reverse", [False, True])
    def test_padding_is_never_read(self, reverse, on_device, xp, rng):
        """NaN in x and in dy behind the end reaches no result and no gradient."""
        args, lengths = self.arguments(rng), np.array([2, 4, 0])
        padding = np.arange(self.T) >= lengths[:, None]
        x, clean = args[0].copy(), args[0].copy()
        x[padding], clean[padding] = np.nan, 0
        dy = rng.normal(size=(self.B, self.T, self.H))
        dnan, dclean = dy.copy(), dy.copy()
        dnan[padding], dclean[padding] = np.nan, 0
        dfinals = xp.asarrays(tuple(rng.normal(size=(self.B, self.H)) for _ in range(self.states)))
        device_lengths = xp.asarray(lengths.astype(np.uint64))  # with a signed time, this type makes float64
        option = {"lengths": device_lengths if on_device else lengths, "reverse": reverse}
        got, cache = self.op(*xp.asarrays((x, *args[1:])), **option)
        dgot = self.backward((xp.asarray(dnan), *dfinals), cache)
        want, cache = self.op(*xp.asarrays((clean, *args[1:])), **option)
        dwant = self.backward((xp.asarray(dclean), *dfinals), cache)
        self.close((*got, *dgot), (*want, *dwant), xp, atol=0)
        assert not xp.to_numpy(got[0])[padding].any() and not xp.to_numpy(dgot[0])[padding].any()

    def check_each_alone(self, seed, lengths, T, reverse):
        """A batch with lengths is its sequences one by one: results, gradients of inputs, sums of those of weights."""
        rng = np.random.default_rng(seed)
        args = self.arguments(rng, B=len(lengths), T=T)
        results, cache = self.op(*args, lengths=lengths, reverse=reverse)
        dy = tuple(rng.normal(size=result.shape) for result in results)
        gradients = self.backward(dy, cache)
        dweights = [np.zeros_like(w) for w in args[1:5]]
        for b, length in enumerate(lengths):
            one = slice(b, b + 1)
            states = [s[one] for s in args[5:]]
            (y, *finals), cache = self.op(args[0][one, :length], *args[1:5], *states, reverse=reverse)
            alone = self.backward((dy[0][one, :length], *(d[one] for d in dy[1:])), cache)
            np.testing.assert_allclose(results[0][one, :length], y, rtol=0, atol=1e-13)
            for batch, single in zip((*results[1:], *gradients[5:]), (*finals, *alone[5:]), strict=True):
                np.testing.assert_allclose(batch[one], single, rtol=0, atol=1e-12)
            np.testing.assert_allclose(gradients[0][one, :length], alone[0], rtol=0, atol=1e-12)
            for total, part in zip(dweights, alone[1:5], strict=True):
                total += part
        for batch, total in zip(gradients[1:5], dweights, strict=True):
            np.testing.assert_allclose(batch, total, rtol=1e-12, atol=1e-12)

    # ---- layouts, sizes, devices

    def test_layout_does_not_matter(self, xp, rng):
        """Transposed, strided and reversed views give what copies of them give."""
        args = self.arguments(rng)
        wide = np.repeat(args[0], 2, axis=2)[:, :, ::2]
        views = (wide, *(a.T.copy().T if a.ndim == 2 else np.repeat(a, 2)[::2] for a in args[1:]))
        assert not any(v.flags.c_contiguous for v in views)
        want, cache = self.op(*xp.asarrays(args))
        dy = self.upstream(rng, want, xp)
        dwant = self.backward(dy, cache)
        got, cache = self.op(*(xp.asarray(v) for v in views))
        dgot = self.backward(tuple(d[::-1][::-1] for d in dy), cache)
        self.close((*got, *dgot), (*want, *dwant), xp)

    @pytest.mark.parametrize(
        "sizes", [(0, 4, 2, 3), (3, 0, 2, 3), (0, 0, 2, 3), (1, 1, 1, 1), (2, 5, 1, 1), (1, 3, 2, 17)]
    )
    @pytest.mark.parametrize("reverse", [False, True])
    @pytest.mark.parametrize("with_lengths", [False, True])
    def test_smallest_sizes(self, sizes, reverse, with_lengths, xp, rng):
        """No sequence, no position, one of each: shapes hold, and gradients have those of the arguments."""
        args = self.arguments(rng, *sizes)
        lengths = [max(sizes[1] - 1 - b, 0) for b in range(sizes[0])] if with_lengths else None
        got, cache = self.op(*xp.asarrays(args), lengths=lengths, reverse=reverse)
        self.close(got, self.define(*args, lengths=lengths, reverse=reverse), xp)
        gradients = self.backward(self.upstream(rng, got, xp), cache)
        assert [g.shape for g in gradients] == [a.shape for a in args]

    def test_results_share_no_memory_with_the_cache(self, rng):
        results, cache = self.op(*self.arguments(rng, 1, 1, 1, 1))
        kept = [array for array in cache if isinstance(array, np.ndarray)]
        assert not any(np.shares_memory(result, array) for result in results for array in kept)

    def test_no_synchronisation_and_no_upload(self, rng, monkeypatch):
        """On a GPU, a step with lengths on the device neither waits for it nor sends it anything."""
        xp = strict_cupy.strict
        args = [xp.asarray(a) for a in self.arguments(rng)]
        lengths = xp.asarray(np.array([4, 0, 2]))
        dy = [xp.asarray(rng.normal(size=(self.B, self.T, self.H)))]
        dy += [xp.asarray(rng.normal(size=(self.B, self.H))) for _ in range(self.states)]
        monkeypatch.setitem(sys.modules, "cupy", xp)
        with strict_cupy.no_sync(("sync", "upload")):
            for reverse in (False, True):
                results, cache = self.op(*args, lengths=lengths, reverse=reverse)
                gradients = self.backward(tuple(dy), cache)
        assert all(a.dtype == np.float64 for a in (*results, *gradients))

    # ---- wrong input

    @pytest.mark.parametrize(
        "position, shape, message",
        [
            (0, (4, 2), "expected \\(B, T, I\\)"),
            (0, (3, 4, 5), "w_ih has shape"),
            (1, (7, 2), "w_ih has shape \\(7, 2\\)"),
            (2, (7, 3), "w_hh has shape \\(7, 3\\)"),
            (3, (2,), "b_ih has shape \\(2,\\)"),
            (4, (1, 3), "b_hh has shape"),
            (5, (2, 3), "h0 has shape \\(2, 3\\), expected \\(3, 3\\)"),
        ],
    )
    def test_wrong_shape(self, position, shape, message, xp, rng):
        args = list(self.arguments(rng))
        args[position] = np.zeros(shape)
        with pytest.raises(ValueError, match=message):
            self.op(*xp.asarrays(args))

    @pytest.mark.parametrize(
        "lengths, error, message",
        [
            ([1, 2, 5], ValueError, "got 5 for sequence 2, expected 0..4"),
            ([1, -1, 2], ValueError, "got -1 for sequence 1"),
            ([1, 2], ValueError, "shape \\(2,\\), expected \\(3,\\)"),
            ([1.0, 2.0, 3.0], TypeError, "expected integers"),
        ],
    )
    def test_wrong_lengths(self, lengths, error, message, xp, rng):
        with pytest.raises(error, match=message):
            self.op(*xp.asarrays(self.arguments(rng)), lengths=lengths)

    def test_wrong_dtype(self, xp, rng):
        args = xp.asarrays(self.arguments(rng))
        with pytest.raises(TypeError, match="expected a floating dtype"):
            self.op(args[0].astype(np.int64), *args[1:])
        with pytest.raises(TypeError, match="different precision"):
            self.op(args[0].astype(np.float32), *args[1:])
