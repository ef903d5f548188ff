"""Attention's conditions of a device alone, on the strict stand-in: more shared memory than is free, unchecked lengths.

Lengths on a device are not checked by the launchers, which would wait for it: the kernels clamp them to the keys that
there are. Two bugs are planted here that no run on NumPy arrays can see.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest

from minilm import ops
from minilm.kernels.cuda import launch
from minilm.kernels.cuda.attention import attention, attention_backward
from minilm.kernels.cuda.decode import attention_decode
from minilm.selection import reference
from tests.kernels.planting import assert_right, planted
from tests.strict_cupy import strict
from tests.strict_cupy.device_kernels import StrictKernel, device_kernels

pytestmark = pytest.mark.usefixtures("host_run", "device")

PLAIN = 48 * 1024
UNCHECKED = [2**31 - 1, 90, -5]  # of 70 keys


@pytest.fixture
def device(monkeypatch):
    """The stand-in with a RawModule, on a device of compute capability 8.0."""
    monkeypatch.setitem(sys.modules, "cupy", strict)
    with device_kernels():
        yield


@pytest.fixture
def asked(monkeypatch):
    """The dynamic shared memory of each launch, by kernel."""
    bytes_of, call = {}, StrictKernel.__call__

    def recorded(self, grid, block, args, *, shared_mem=0, **options):
        bytes_of[self.name] = max(shared_mem, bytes_of.get(self.name, 0))
        return call(self, grid, block, args, shared_mem=shared_mem, **options)

    monkeypatch.setattr(StrictKernel, "__call__", recorded)
    return bytes_of


def drawn(dtype, *shapes):
    rng = np.random.default_rng(9)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def forward_and_backward(dtype, Tq, Tk, D, lengths=None):
    """The pairs of planting.py: what the kernels make of device arrays, and the definition with clamped lengths."""
    B, clamped = (1, None) if lengths is None else (len(lengths), np.clip(lengths, 0, Tk))
    q, k, v, do = drawn(dtype, (B, 2, Tq, D), (B, 2, Tk, D), (B, 2, Tk, D), (B, 2, Tq, D))
    on_device = [strict.asarray(x) for x in (q, k, v, do)]
    y, cache = attention(*on_device[:3], key_lengths=None if lengths is None else strict.asarray(np.array(lengths)))
    gradients = attention_backward(on_device[3], cache)[:3]
    exact = [x.astype(np.float64) for x in (q, k, v, do)]
    with reference():
        exact_y, exact_cache = ops.attention(*exact[:3], key_lengths=clamped)
        wanted = (exact_y, *ops.attention_backward(exact[3], exact_cache)[:3])
    return [(found.get(), want) for found, want in zip((y, *gradients), wanted, strict=True)]


# ---- shared memory above 48 KiB


def test_shared_memory_beyond_what_is_free(asked):
    assert_right(forward_and_backward("float16", 40, 70, 128))
    assert {name for name, most in asked.items() if most > PLAIN} == {
        "attention_forward",
        "attention_backward_dkdv",
        "attention_backward_dq",
    }


def test_a_launcher_that_does_not_ask_for_it_is_caught(monkeypatch):
    monkeypatch.setattr(launch, "PLAIN_SHARED", 2**31)
    with pytest.raises(RuntimeError, match="set max_dynamic_shared_size_bytes"):
        forward_and_backward("float16", 40, 70, 128)


# ---- lengths beyond the keys


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_lengths_beyond_the_keys(dtype):
    assert_right(forward_and_backward(dtype, 33, 70, 40, UNCHECKED))


def decoded(lengths):
    B = len(lengths)
    q, k, v = drawn("float32", (B, 4, 40), (B, 2, 70, 40), (B, 2, 70, 40))
    on_device = [strict.asarray(x) for x in (q, k, v)]
    y = attention_decode(*on_device, key_lengths=strict.asarray(np.array(lengths, np.int32)), splits=3)
    exact, _ = ops.attention(
        *(x.astype(np.float64) for x in (q[:, :, None], k, v)), key_lengths=np.clip(lengths, 0, 70)
    )
    return [(y.get(), exact[:, :, 0])]


def test_lengths_beyond_the_capacity_of_a_cache():
    assert_right(decoded(UNCHECKED))


EXACT = ("attention.cu", "keys = max(0, min(o.Tk, o.key_lengths[b]));", "keys = o.key_lengths[b];")
FORWARD = ("attention_tensor_core.cu", "max(0, min(TK, key_lengths[b])) : TK", "key_lengths[b] : TK")
BACKWARD = (
    "attention_tensor_core_backward.cu",
    "keys = max(0, min(keys, o.key_lengths[(DKDV ? column_head : row_head) / o.heads]));",
    "keys = o.key_lengths[(DKDV ? column_head : row_head) / o.heads];",
)
DECODE = ("attention_decode.cu", "max(0, min(key_lengths[b], capacity)) : capacity", "key_lengths[b] : capacity")


@pytest.mark.parametrize(
    ("bug", "dtype"),
    [(EXACT, "float32"), (FORWARD, "float16"), (BACKWARD, "float16"), (DECODE, None)],
    ids=["exact", "forward", "backward", "decode"],
)
def test_lengths_that_are_not_clamped_are_caught(bug, dtype):
    file, *replacement = bug
    lengths = [90, 80]
    with planted(file, [replacement]), pytest.raises(AssertionError):
        assert_right(decoded(lengths) if dtype is None else forward_and_backward(dtype, 33, 70, 40, lengths))
