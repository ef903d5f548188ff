"""The tuned recurrences pass every test of the definitions."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from minilm import gradcheck, ops, reference, threads
from minilm.kernels.cpu import recurrent, rnn as rnn_version
from minilm.selection import which
from tests.conftest import Library
from tests.ops import test_gru, test_lstm, test_rnn

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def xp():
    """NumPy only: other libraries' arrays go to the definition, whose own tests use them."""
    return Library("numpy", np)


@pytest.fixture(autouse=True)
def any_hidden_size(monkeypatch):
    monkeypatch.setattr(rnn_version, "MINIMUM_HIDDEN", 1)


@pytest.fixture
def any_size(monkeypatch):
    """Serve the small arrays of tests too, in blocks of a few steps."""
    for name in ("MINIMUM_SIZE", "MINIMUM_POSITIONS"):
        monkeypatch.setattr(recurrent, name, 1)
    monkeypatch.setattr(recurrent, "BLOCK_BYTES", 1500)


@pytest.fixture(params=[1, 2])
def thread_count(request, monkeypatch):
    """One thread takes the way of large products, which BLAS shares out; two that of small ones."""
    if request.param == 1:
        monkeypatch.setattr(recurrent, "SMALL_PRODUCT", 0)
    with threads.limit(request.param):
        yield request.param


class Tuned:
    """All tests of the op's own suite, on the tuned version; complex numbers still go to the definition."""

    @pytest.fixture(autouse=True)
    def _serve(self, any_size, thread_count):
        pass

    @property
    def name(self):
        return self.op.__name__

    @pytest.mark.parametrize("reverse", [False, True])
    @pytest.mark.parametrize("lengths", [None, [4, 2, 3], [1, 4, 0], [4, 4, 4]])
    @pytest.mark.parametrize("bias, initial", [(True, True), (False, False)])
    def test_gradient_of_the_tuned_version(self, lengths, reverse, bias, initial, rng):
        """The gradient test of the suite steps into the complex plane, where the definition runs."""
        args = self.arguments(rng, bias=bias, initial=initial)
        op = functools.partial(self.op, lengths=lengths, reverse=reverse)
        assert which(self.name, *args).startswith(f"{self.name}: cpu.feature_major")
        report = gradcheck.gradcheck(op, self.backward, args, method="central-difference")
        assert report.max_rel_error <= 1e-8, report

    @pytest.mark.parametrize("lengths", [None, [4, 2, 0]])
    def test_agrees_with_the_definition(self, lengths, rng):
        """In float32, with every gradient, to the accuracy that the definition has itself."""
        args = self.arguments(rng, T=4, I=5, H=7)
        single = tuple(None if a is None else a.astype(np.float32) for a in args)
        dy = tuple(rng.normal(size=(3, 4, 7)[:: 1 if n == 0 else 2]) for n in range(1 + self.states))
        single_dy = tuple(d.astype(np.float32) for d in dy)

        def run(arrays, dy):
            results, cache = self.op(*arrays, lengths=lengths)
            return (*results, *self.backward(dy, cache)), type(cache)

        tuned, tuned_cache = run(single, single_dy)
        with reference():
            plain, plain_cache = run(single, single_dy)
            best, _ = run(args, dy)
        assert tuned_cache is not plain_cache
        for ours, theirs, exact in zip(tuned, plain, best, strict=True):
            assert ours.dtype == theirs.dtype == np.float32
            assert ours.shape == theirs.shape
            scale = np.abs(exact).max()
            assert np.abs(ours - exact).max() / scale <= 2 * np.abs(theirs - exact).max() / scale + 1e-6

    def test_results_share_no_memory_with_the_cache(self, rng):
        results, cache = self.op(*self.arguments(rng, 1, 1, 1, 1))
        kept = [cache.run.inputs, cache.run.gates, cache.run.states]
        assert not any(np.shares_memory(result, array) for result in results for array in kept)

    def test_float32_cache_takes_a_float64_gradient(self, rng):
        single = tuple(None if a is None else a.astype(np.float32) for a in self.arguments(rng))
        results, cache = self.op(*single)
        dy = tuple(rng.normal(size=result.shape) for result in results)
        got = self.backward(dy, cache)
        with reference():
            want = self.backward(dy, self.op(*single)[1])
        assert [g.dtype for g in got] == [w.dtype for w in want]
        for g, w in zip(got, want, strict=True):
            np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-5)


class TestTunedRNN(Tuned, test_rnn.TestRNN):
    pass


class TestTunedGRU(Tuned, test_gru.TestGRU):
    pass


class TestTunedLSTM(Tuned, test_lstm.TestLSTM):
    pass


def sizes(gates, B=20, T=60, I=16, H=32):
    return (B, T, I), (gates * H, I), (gates * H, H), (gates * H,), (gates * H,)


def draw(rng, *shapes):
    return [(0.1 * rng.standard_normal(shape)).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("name, gates", [("rnn", 1), ("gru", 3), ("lstm", 4)])
def test_the_same_bits_at_every_run(name, gates, thread_count, rng):
    """Blocks of several lengths, the last one shorter, and sequences that end everywhere, an empty one included."""
    args = draw(rng, *sizes(gates))
    forward, backward = getattr(ops, name), getattr(ops, f"{name}_backward")

    def run():
        results, cache = forward(*args, lengths=[60, 0, *range(3, 21)])
        return [*results, *(g for g in backward((results[0], *(None for _ in results[1:])), cache) if g is not None)]

    with reference():
        want = run()
    for got, again, expected in zip(run(), run(), want, strict=True):
        np.testing.assert_array_equal(got, again)
        np.testing.assert_allclose(got, expected, rtol=0, atol=5e-6 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("name, gates", [("rnn", 1), ("gru", 3), ("lstm", 4)])
def test_nan_stays_in_its_sequence(name, gates, rng):
    x, *weights = draw(rng, *sizes(gates))
    x[3, 5] = np.nan
    (y, *_), _ = getattr(ops, name)(x, *weights)
    assert np.isnan(y[3, 5:]).all()
    assert np.isfinite(y[3, :5]).all()
    assert np.isfinite(np.delete(y, 3, axis=0)).all()


@pytest.mark.parametrize("name, gates", [("rnn", 1), ("gru", 3), ("lstm", 4)])
def test_what_is_not_served_goes_to_the_definition(name, gates, rng):
    args = draw(rng, *sizes(gates))
    assert which(name, *args).startswith(f"{name}: cpu.feature_major")
    for reason, changed in {
        "fewer than": [args[0][:, :3], *args[1:]],
        "float32 and float64": [a.astype(np.complex128) for a in args],
        "the same for all": [args[0].astype(np.float64), *args[1:]],
        "empty": [args[0][:0], *args[1:]],
    }.items():
        shown = which(name, *changed)
        assert shown.startswith(f"{name}: definition")
        assert reason in shown


def test_a_small_rnn_goes_to_the_definition(rng, monkeypatch):
    monkeypatch.undo()
    assert "hidden size" in which("rnn", *draw(rng, *sizes(1)))
