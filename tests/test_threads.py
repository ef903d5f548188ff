"""Work in parts: every index once, results in order, exceptions told, nothing spread twice."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, strategies as st

from minilm import reference, threads
from minilm.selection import which


@given(st.integers(0, 200), st.integers(1, 9), st.integers(1, 17))
def test_parts_cover_everything_once(n, number, align):
    pieces = threads.parts(n, number, align)
    assert [i for start, stop in pieces for i in range(start, stop)] == list(range(n))
    assert len(pieces) <= number and all(start % align == 0 for start, _ in pieces)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_results_come_in_the_order_of_the_parts(number):
    seen = np.zeros(10, int)

    def work(start, stop):
        seen[start:stop] += 1
        return start, stop, threading.current_thread().name

    with threads.limit(number):
        results = threads.spread(work, 10)
    assert (seen == 1).all()
    assert [r[:2] for r in results] == threads.parts(10, number)
    assert results[0][2] == threading.current_thread().name
    assert len(results) == 1 or results[1][2] != results[0][2]


def test_nothing_to_do_is_one_empty_part():
    with threads.limit(2):
        assert threads.spread(lambda start, stop: (start, stop), 0) == [(0, 0)]


def test_no_spreading_within_a_part():
    with threads.limit(2):
        assert threads.count() == 2
        assert threads.spread(lambda start, stop: threads.count(), 2) == [1, 1]
        assert threads.count() == 2


@pytest.mark.parametrize("guilty", [0, 1])
def test_an_exception_is_raised_after_all_parts_have_ended(guilty):
    ended = []

    def work(start, stop):
        if start == guilty:
            raise RuntimeError("told")
        ended.append(start)

    with threads.limit(2), pytest.raises(RuntimeError, match="told"):
        threads.spread(work, 2)
    assert ended == [1 - guilty]
    assert threads.count() >= 1
    with threads.limit(2):
        assert threads.count() == 2


def test_parts_see_the_context_of_the_caller():
    x = np.ones((256, 256), np.float32)

    def work(start, stop):
        with np.errstate():
            return which("softmax", x).splitlines()[0], np.geterr()["divide"]

    with threads.limit(2), reference(), np.errstate(divide="ignore"):
        found = threads.spread(work, 2)
    assert all("definition" in line for line, _ in found)


def test_blas_has_one_thread_within_parts_and_its_own_number_afterwards():
    blas = threads._blas()
    if not blas.info():
        pytest.skip("BLAS's threads can't be counted here")
    with blas.limit(limits=2), threads.limit(2):
        before = [library["num_threads"] for library in blas.info()]
        inside = threads.spread(lambda start, stop: [library["num_threads"] for library in blas.info()], 2)
        assert inside == [[1] * len(before)] * 2
        assert [library["num_threads"] for library in blas.info()] == before


def test_the_number_comes_from_the_environment():
    code = "from minilm import threads; print(threads.count())"

    def run(**variables):
        clean = {k: v for k, v in os.environ.items() if k not in threads.VARIABLES}
        return subprocess.run([sys.executable, "-c", code], env=clean | variables, capture_output=True, text=True)

    assert run(OPENBLAS_NUM_THREADS="3").stdout.strip() == "3"
    assert run(OPENBLAS_NUM_THREADS="3", MINILM_NUM_THREADS="2").stdout.strip() == "2"
    assert int(run().stdout) >= 1
    assert "MINILM_NUM_THREADS='none'" in run(MINILM_NUM_THREADS="none").stderr


def test_a_limit_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1"), threads.limit(0):
        pass
