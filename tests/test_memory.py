"""Recycled memory: reused when nobody looks, never before."""

from __future__ import annotations

import contextvars
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, strategies as st

from minilm import memory as pools
from minilm.memory import MemoryPool, add, empty, empty_in, zeros
from tests import strict_cupy

LARGE = (64, 1024)  # float32: 256 KiB


def address(array):
    return array.__array_interface__["data"][0]


def test_a_dead_arrays_memory_is_used_again():
    with MemoryPool() as memory:
        first = empty(LARGE, "float32")
        where = address(first)
        del first
        assert address(empty(LARGE, np.float32)) == where
        assert memory.held == first_size()


def first_size():
    with MemoryPool() as memory:
        empty(LARGE, "float32")
        return memory.held


@pytest.mark.parametrize("view", [lambda a: a[1:], lambda a: a.T, lambda a: a.reshape(-1)[3:5], lambda a: a[2:][1:].T])
def test_what_a_view_still_shows_is_never_handed_out(view):
    with MemoryPool():
        first = zeros(LARGE, "float32")
        kept = view(first)
        del first
        empty(LARGE, "float32").fill(7)
        assert not kept.any()


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 40), st.booleans()), max_size=60))
def test_no_two_living_arrays_share_memory(operations):
    """Allocate and drop in any order; every array still holds what was written into it."""
    living = []
    with MemoryPool():
        for number, (slot, rows, drop) in enumerate(operations):
            if drop and living:
                living.pop(slot % len(living))
            else:
                array = empty((rows, 4096), "float64")
                array.fill(number)
                living.append((number, array[::2]))
            assert all((array == value).all() for value, array in living)


def test_a_steady_sequence_of_sizes_grows_no_more():
    with MemoryPool() as memory:
        for step in range(5):
            a, b = empty(LARGE, "float32"), empty((3, *LARGE), "float32")
            c = add(a, a)
            del a, b, c
            if step == 0:
                held = memory.held
        assert memory.held == held


def test_texts_of_many_lengths_do_not_pile_up():
    with MemoryPool() as memory:
        for rows in range(16, 400):
            empty((rows, 4096), "float32")
        assert memory.held <= pools.SLACK * 1.2 * 400 * 4096 * 4


def test_arrays_are_aligned_contiguous_and_writable():
    with MemoryPool():
        array = empty(LARGE, "float64")
        assert address(array) % pools.ALIGNMENT == 0
        assert array.flags.c_contiguous and array.flags.writeable and array.dtype == np.float64


def test_without_an_arena_and_for_small_arrays_numpy_allocates():
    with MemoryPool() as memory:
        empty((2, 3), "float32")
        assert memory.held == 0
    assert empty(LARGE, "float32").base is None
    assert not zeros(LARGE, "int64").any()


def test_another_thread_gets_memory_of_its_own():
    with MemoryPool() as memory:
        context = contextvars.copy_context()
        found = []
        thread = threading.Thread(target=lambda: found.append(context.run(empty, LARGE, "float32")))
        thread.start()
        thread.join()
        assert found[0].base is None and memory.held == 0


def test_an_arena_can_be_entered_again_and_nested():
    outer, inner = MemoryPool(), MemoryPool()
    with outer:
        with inner:
            empty(LARGE, "float32")
        with outer:
            a = empty(LARGE, "float32")
        b = empty(LARGE, "float32")
        assert not np.shares_memory(a, b)
    assert inner.held == first_size() and outer.held == 2 * first_size()
    assert empty(LARGE, "float32").base is None


def test_other_libraries_keep_their_own(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", strict_cupy.strict)
    x = strict_cupy.strict.asarray(np.ones((3, 4), np.float32))
    with MemoryPool() as memory:
        total, same = add(x, x), empty_in(strict_cupy.strict, (3, 4), "float32")
    assert type(total) is type(same) is type(x) and memory.held == 0
    np.testing.assert_array_equal(total.get(), np.full((3, 4), 2.0))


def test_sums_promote_as_numpy_does():
    assert add(np.ones(3), np.ones(3) * 1j).dtype == np.complex128
