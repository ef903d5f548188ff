"""The CUDA versions by the way that they take on a GPU: CuPy arrays in, RawModule, CuPy arrays out.

The arrays are the strict stand-in's, and its RawModule runs the sources on the CPU (`device_kernels`): launchers, the
door and the choice in `ops` are held to CuPy's rules, and nothing may wait for the device. The tests that are given a
`device` run on CuPy itself in `test_gpu_lane`.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from minilm import ops
from minilm.gradcheck import check_laws, gradcheck
from minilm.kernels.check.cases import cases
from minilm.kernels.cuda import autotune, launch
from minilm.kernels.cuda.attention_options import FusedAttentionCache
from minilm.kernels.cuda.cross_entropy import FusedCrossEntropyCache
from minilm.kernels.cuda.decode import attention_decode
from minilm.kernels.cuda.softmax import FusedSoftmaxCache
from minilm.optim import AdamW
from minilm.presets import build
from minilm.selection import reference, which
from minilm.text.batching import LanguageBatch
from tests.kernels.cases import Device, check
from tests.strict_cupy import quick_timing, strict
from tests.strict_cupy.device_kernels import StrictKernel, device_kernels

FUSED = "cuda.fused"


@pytest.fixture
def plain(monkeypatch):
    """The stand-in as the module cupy, which compiles nothing."""
    monkeypatch.setitem(sys.modules, "cupy", strict)
    return Device("strict", strict)


@pytest.fixture
def device(plain, host_run):
    """The stand-in with a RawModule, on a device of compute capability 8.0."""
    with device_kernels():
        yield plain


def single(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# ---- the launchers


@pytest.mark.parametrize("case", cases(quick=True), ids=str)
def test_launcher(case, device):
    check(case, device)


@pytest.mark.full
@pytest.mark.parametrize("case", cases(), ids=str)
def test_launcher_in_full(case, device, record_property):
    """The whole table that a GPU goes through: some 500 libraries to compile, by hand with `pytest -m full`."""
    check(case, device, record_property)


def test_shared_memory_above_48_kb_is_asked_for(device, monkeypatch):
    """Tensor cores at head size 128: three kernels need it, and the door asks for them before it launches."""
    limits, launched = [], []
    limit, call = StrictKernel.max_dynamic_shared_size_bytes, StrictKernel.__call__

    def asking(self, size):
        limits.append((self.name, size))
        limit.fset(self, size)

    def launching(self, *arguments, shared_mem=0):
        launched.append((self.name, shared_mem))
        call(self, *arguments, shared_mem=shared_mem)

    monkeypatch.setattr(StrictKernel, "max_dynamic_shared_size_bytes", limit.setter(asking))
    monkeypatch.setattr(StrictKernel, "__call__", launching)
    (case,) = (case for case in cases(quick=True) if str(case) == "attention-float16-head-size-128")
    check(case, device)
    large = {(name, size) for name, size in launched if size > launch.PLAIN_SHARED}
    assert len(large) == 3 and sorted(limits) == sorted(large)  # each once, though every kernel ran twice


def test_autotuned_choice(device, tmp_path, monkeypatch):
    """Candidates are timed once, the choice is kept in a file, and the result stays what it was."""
    for setting in quick_timing.settings():
        monkeypatch.setattr(*setting)
    monkeypatch.setattr(autotune, "REPEATS", 2)
    q, k, v = (device.asarray(single(1, heads, T, 16)) for heads, T in ((2, 1), (1, 600), (1, 600)))
    want = device.to_numpy(attention_decode(q, k, v))
    with autotune.autotuning(path=tmp_path / "choices.json"):
        got = [device.to_numpy(attention_decode(q, k, v)) for _ in range(2)]
    assert np.array_equal(*got)
    np.testing.assert_allclose(got[0], want, rtol=1e-5, atol=1e-6)
    (choice,) = json.loads((tmp_path / "choices.json").read_text()).values()
    assert len(choice["milliseconds"]) == len(choice["candidates"]) > 1


# ---- the choice


def softmax_arguments(xp):
    return ("softmax", xp.asarray(single(3, 33))), {}


def cross_entropy_arguments(xp):
    return ("cross_entropy", xp.asarray(single(3, 33)), xp.asarray(np.array([1, -100, 32]))), {}


def attention_arguments(xp):
    heads = xp.asarray(single(2, 9, 6, 16)).transpose(0, 2, 1, 3)  # (B, ΣH, T, D)  views, as in layers
    return ("attention", heads[:, :4], heads[:, 4:5], heads[:, 5:]), {"causal": True}


CALLS = {"softmax": softmax_arguments, "cross_entropy": cross_entropy_arguments, "attention": attention_arguments}
CACHES = {
    "softmax": FusedSoftmaxCache,
    "cross_entropy": FusedCrossEntropyCache,
    "attention": FusedAttentionCache,
}


@pytest.mark.parametrize("op", CALLS)
def test_without_a_compiler_in_the_library_the_definition_runs(op, plain):
    arguments, options = CALLS[op](strict)
    assert f"{op}: definition" in which(*arguments, **options)
    assert f"not {FUSED}: the arrays' library compiles no kernels" in which(*arguments, **options)


@pytest.mark.parametrize("op", CALLS)
def test_numpy_arrays_are_not_served(op):
    arguments, options = CALLS[op](np)
    assert f"not {FUSED}: serves CuPy arrays" in which(*arguments, **options)


@pytest.mark.parametrize("op", CALLS)
def test_op_runs_the_kernel(op, device):
    """The choice, the cache's type, and the numbers, forward and backward; strided arguments are made contiguous."""
    (_, *arrays), options = CALLS[op](device.module)
    forward, backward = getattr(ops, op), getattr(ops, f"{op}_backward")
    with device.quiet():
        assert which(op, *arrays, **options).startswith(f"{op}: {FUSED}")
        y, cache = forward(*arrays, **options)
        inference, none = forward(*arrays, **options, cache=False)
        dy = 1.0 if op == "cross_entropy" else device.asarray(single(*y.shape, seed=1))[..., ::-1]
        got = backward(dy, cache)
    assert type(cache) is CACHES[op] and none is None
    assert np.array_equal(device.to_numpy(inference), device.to_numpy(y))

    with reference():
        want_y, want_cache = forward(*arrays, **options)
    assert type(want_cache) is not CACHES[op]
    np.testing.assert_allclose(device.to_numpy(y), device.to_numpy(want_y), rtol=1e-5, atol=1e-6)
    want = backward(dy, want_cache)
    for g, w in zip(*(x if isinstance(x, tuple) else (x,) for x in (got, want)), strict=True):
        assert (g is None) == (w is None)
        if g is not None:
            np.testing.assert_allclose(device.to_numpy(g), device.to_numpy(w), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", CALLS)
def test_gradients_and_laws(op, device):
    """What the definition is held to, in float64: gradients by differences; linear in dy, and nothing is written to."""
    (_, *arrays), options = CALLS[op](device.module)
    arrays = tuple(a.astype("float64") if a.dtype.kind == "f" else a for a in arrays)

    def forward(*arrays, cache=True):
        return getattr(ops, op)(*arrays, **options, cache=cache)

    backward = getattr(ops, f"{op}_backward")
    assert type(forward(*arrays)[1]) is CACHES[op]
    report = gradcheck(forward, backward, arrays)
    assert report.passed and report.max_rel_error < 1e-7, report
    check_laws(forward, backward, arrays)


@pytest.mark.parametrize("op", CALLS)
def test_reference_forces_the_definition(op, device):
    arguments, options = CALLS[op](device.module)
    with reference():
        assert "definition (inside minilm.reference())" in which(*arguments, **options)
        assert type(getattr(ops, op)(*arguments[1:], **options)[1]) is not CACHES[op]


def test_backward_computes_what_is_asked_for(device):
    (_, *arrays), options = attention_arguments(device.module)
    y, cache = ops.attention(*arrays, **options)
    dq, dk, dv, dbias = ops.attention_backward(y, cache, wrt=("k",))
    assert dq is None and dv is None and dbias is None and dk.shape == arrays[1].shape


def test_one_query_without_a_cache_runs_the_decode_kernel(device):
    q, k, v = (device.asarray(single(2, heads, T, 16)) for heads, T in ((4, 1), (2, 33), (2, 33)))
    with device.quiet():
        got, none = ops.attention(q, k, v, causal=True, cache=False)
    with reference():
        want, _ = ops.attention(q, k, v, causal=True)
    assert none is None and got.shape == want.shape
    np.testing.assert_allclose(device.to_numpy(got), device.to_numpy(want), rtol=1e-5, atol=1e-6)


def test_dropout_is_drawn_from_the_generator(device):
    """Equal seeds drop equally, forward and backward; the share dropped is the probability."""
    q, k = (device.asarray(np.zeros((2, 2, T, 16), np.float32)) for T in (64, 128))
    v, dy = (device.asarray(np.ones((2, 2, T, 16), np.float32)) for T in (128, 64))
    runs = [ops.attention(q, k, v, dropout=0.25, rng=np.random.default_rng(seed)) for seed in (3, 3, 4)]
    first, same, other = (device.to_numpy(y) for y, _ in runs)
    assert np.array_equal(first, same) and not np.array_equal(first, other)
    kept = first[..., 0] * 0.75  # of 128 equal weights, each row's share of those kept
    assert abs(kept.mean() - 0.75) < 0.01  # 32,768 weights: 4 standard deviations
    dv = device.to_numpy(ops.attention_backward(dy, runs[0][1], wrt=("v",))[2])
    np.testing.assert_allclose(dv[..., 0].sum(axis=-1), first[..., 0].sum(axis=-1), rtol=1e-5)


# ---- refusals, each with its reason; nothing is compiled for them


@pytest.fixture
def refusing(plain):
    with device_kernels():
        yield


def array(*shape, dtype="f4"):
    return strict.zeros(shape, dtype)


Q = (2, 4, 5, 16)
REFUSED = {
    "softmax over another axis": (lambda: ("softmax", array(3, 4), 0), {}, "serves the last axis, not axis 0 of 2"),
    "softmax of nothing": (lambda: ("softmax", array(0, 4)), {}, "the array is empty"),
    "complex softmax": (lambda: ("softmax", array(3, dtype="F")), {}, "not complex64"),
    "attention, head size 20": (
        lambda: ("attention", *(array(1, 1, 2, 20) for _ in "qkv")), {}, "head size 20 is not served for float32",
    ),
    "attention, values of another size": (
        lambda: ("attention", array(*Q), array(*Q), array(2, 4, 5, 24)), {}, "serves values of the keys' head size 16",
    ),
    "attention, device generator": (
        lambda: ("attention", *(array(*Q) for _ in "qkv")),
        {"dropout": 0.1, "rng": strict.random.default_rng(0)},
        "the seed would have to be read back",
    ),
    "attention, everything dropped": (
        lambda: ("attention", *(array(*Q) for _ in "qkv")), {"dropout": 1.0, "rng": np.random.default_rng(0)},
        "not 1.0",
    ),
    "attention, no keys": (lambda: ("attention", array(*Q), array(2, 4, 0, 16), array(2, 4, 0, 16)), {}, "no keys"),
    "attention, wrong shapes": (
        lambda: ("attention", array(*Q), array(2, 3, 5, 16), array(2, 3, 5, 16)), {}, "4 query heads over 3",
    ),
    "attention, mask of integers": (
        lambda: ("attention", *(array(*Q) for _ in "qkv")), {"mask": np.ones(5, int)}, "mask has dtype int64",
    ),
    "attention, lengths on the host": (
        lambda: ("attention", *(array(*Q) for _ in "qkv")), {"key_lengths": np.array([1, 2])}, "arrays are mixed",
    ),
    "attention, lengths too long": (
        lambda: ("attention", *(array(*Q) for _ in "qkv")), {"key_lengths": [1, 6]}, "got 6 for sequence 1",
    ),
    "cross-entropy, host targets": (
        lambda: ("cross_entropy", array(3, 4), np.zeros(3, int)), {}, "arrays are mixed",
    ),
    "cross-entropy, unknown reduction": (
        lambda: ("cross_entropy", array(3, 4), array(3, dtype="i8")), {"reduction": "max"}, "'max' is unknown",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, refusing):
    make, options, reason = REFUSED[case]
    explained = which(*make(), **options)
    assert f"{make()[0]}: definition" in explained
    (line,) = (line for line in explained.splitlines() if FUSED in line)
    assert reason in line


@pytest.mark.parametrize("dtype, served", [("float16", False), ("float32", True)])
def test_old_devices_have_no_tensor_cores(dtype, served, plain):
    with device_kernels(75):
        q = array(*Q, dtype=dtype)
        assert which("softmax", q).startswith(f"softmax: {FUSED}")
        explained = which("attention", q, q, q)
    assert explained.startswith(f"attention: {FUSED}") == served
    assert served or "float16 needs compute capability 8.0, the device has 7.5" in explained


# ---- a model


def test_training_runs_through_the_kernels(device):
    """A small GPT of float32 trains without a wait for the device, and follows the definition on NumPy arrays."""
    ids = np.random.default_rng(0).integers(0, 31, (2, 34))

    def losses(library, kernels):
        model = build("gpt", vocab_size=31, layers=1, heads=2, width=32, context=33, dropout=0.0, seed=1)
        model.to(library)
        optimizer = AdamW(model, lr=1e-2)
        batch = LanguageBatch(*(x if library is np else library.asarray(x) for x in (ids[:, :-1], ids[:, 1:])))
        found = []
        for _ in range(3):
            loss, cache = model.loss(batch, rng=np.random.default_rng(0))
            kinds = kinds_in(cache)
            assert ({FusedCrossEntropyCache, FusedAttentionCache} <= kinds) == kernels
            optimizer.accumulate(model.loss_backward(1.0, cache))
            optimizer.step()
            found.append(loss)
        return found

    with reference():
        want = [float(loss) for loss in losses(np, False)]
    with device.quiet():
        got = losses(device.module, True)
    np.testing.assert_allclose([float(device.to_numpy(loss)) for loss in got], want, rtol=1e-4)
    assert want[-1] < want[0] - 0.1


def kinds_in(cache):
    """The types of all caches inside a cache."""
    inner = cache if isinstance(cache, tuple | list) else cache.values() if isinstance(cache, dict) else ()
    return {type(cache)}.union(*map(kinds_in, inner))
