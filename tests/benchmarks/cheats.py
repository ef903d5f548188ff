"""Variants of y = tanh(x) that cheat, each in a way of its own: `CHEATS[name]` is what makes it, and what it breaks.

    variant = make(x, dy)      of the inputs that it shares with honest ones

The second entry is in the message of whoever refuses it.
"""

from __future__ import annotations

import threading
import time

import numpy as np

from benchmarks.variants import pair

ROWS, COLUMNS = 30, 70


def forward(x):
    y = np.tanh(x)
    return y, y


def backward(dy, y):
    return dy * (1 - y * y)


CHEATS = {}


def cheat(rule):
    """Register a cheat that is refused with `rule` in the message."""

    def register(function):
        CHEATS[function.__name__] = (function, rule)
        return function

    return register


@cheat("differs by")
def results_of_the_first_call_replayed(x, dy):
    kept = {}

    def replay():
        if not kept:
            kept["value"] = forward(x)
        return kept["value"]

    return pair(replay, backward, dy)


@cheat("differs by")
def results_kept_by_the_address_of_the_input(x, dy):
    kept = {}

    def look_up():
        key = (x.ctypes.data, x.shape)
        return kept.setdefault(key, None) or kept.update({key: forward(x)}) or kept[key]

    return pair(look_up, backward, dy)


@cheat("differs by")
def only_the_gradient_replayed(x, dy):
    kept = []

    def replay(slope, y):
        if not kept:
            kept.append(backward(slope, y))
        return kept[0]

    return pair(lambda: forward(x), replay, dy)


@cheat("differs by")
def a_buffer_left_from_the_call_before(x, dy):
    """Each call returns what the last one made, and starts on the next: one call late."""
    ready = [forward(x)]

    def late():
        ready.append(forward(x))
        return ready.pop(0)

    return pair(late, backward, dy)


@cheat("differs by")
def no_work_for_inputs_that_are_known(x, dy):
    """The numbers of the benchmark's seed are recognised, and their results were computed before."""
    known, results = x.copy(), forward(x)
    return pair(lambda: results if np.allclose(np.sort(x, None), np.sort(known, None)) else forward(x), backward, dy)


@cheat("differs by")
def work_left_out_once_verified(x, dy):
    """The first calls are right; later ones do nothing."""
    calls, kept = [], []

    def tired():
        calls.append(1)
        if len(calls) < 4:
            kept[:] = [forward(x)]
        return kept[0]

    return pair(tired, backward, dy)


@cheat("differs by")
def a_state_that_drifts(x, dy):
    """Every call adds a little to what it computes with."""
    scale = np.ones((), np.float32)

    def drift():
        scale[...] *= np.float32(1.001)
        y = np.tanh(x * scale)
        return y, y

    return pair(drift, backward, dy)


@cheat("differs by")
def half_of_the_rows(x, dy):
    def half():
        y = np.zeros_like(x)
        y[: ROWS // 2] = np.tanh(x[: ROWS // 2])
        return y, y

    return pair(half, backward, dy)


@cheat("holds NaN")
def numbers_that_are_none(x, dy):
    def nothing():
        y = np.full_like(x, np.nan)
        return y, y

    return pair(nothing, backward, dy)


@cheat("wrote to input 1")
def inputs_written_to(x, dy):
    def in_place():
        y = np.tanh(x)
        x[...] = 0
        return y, y

    return pair(in_place, backward, dy)


@cheat("lies in the memory of an input")
def an_output_in_the_memory_of_the_input(x, dy):
    def in_place():
        np.tanh(x, out=x)
        return x, x

    return pair(in_place, backward, dy)


@cheat("no array of a library")
def a_result_that_is_computed_when_it_is_read(x, dy):
    class Lazy:
        shape, dtype = x.shape, x.dtype

        def __array__(self, dtype=None, copy=None):
            return np.tanh(x)

    return pair(lambda: (Lazy(), None), lambda slope, _: backward(slope, np.tanh(x)), dy)


@cheat("no array of a library")
def a_result_that_looks_like_an_array(x, dy):
    class Lazy(np.ndarray):
        def copy(self, *_):
            return np.tanh(x)

        reshape = astype = copy

    return pair(lambda: (np.empty_like(x).view(Lazy), None), lambda slope, _: backward(slope, np.tanh(x)), dy)


@cheat("is float16, where the workload is float32")
def a_shorter_type(x, dy):
    def short():
        y = np.tanh(x).astype(np.float16)
        return y, y.astype(np.float32)

    return pair(short, backward, dy)


@cheat("fewer numbers in memory")
def one_number_seen_from_everywhere(x, dy):
    def broadcast():
        return np.broadcast_to(np.tanh(x[:1]), x.shape), np.tanh(x)

    return pair(broadcast, backward, dy)


@cheat("has shape")
def a_part_in_place_of_the_whole(x, dy):
    return pair(lambda: (np.tanh(x[:1]), np.tanh(x)), backward, dy)


@cheat("gives 3 arrays, expected are 2")
def more_than_was_asked_for(x, dy):
    return pair(lambda: ([np.tanh(x)] * 2, np.tanh(x)), backward, dy)


@cheat("put another clock in the place of time.perf_counter")
def another_clock(x, dy):
    def stopped():
        time.perf_counter = lambda: 0.0
        return forward(x)

    return pair(stopped, backward, dy)


@cheat("differs by")
def work_in_a_thread_that_outlives_the_call(x, dy):
    def start():
        y = np.zeros_like(x)
        inputs = x.copy()
        timer = threading.Timer(0.3, lambda: np.tanh(inputs, out=y))
        timer.daemon = True
        timer.start()
        return y, np.tanh(x)

    return pair(start, backward, dy)
