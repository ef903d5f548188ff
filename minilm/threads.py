"""A few threads that share out independent work: NumPy releases the interpreter's lock while it computes.

    spread(work, n)        work(0, n/2) here and work(n/2, n) in a thread of the pool, with 2 threads
    count()                how many there are; `with limit(1):` for fewer

While parts run, BLAS has one thread for each, or two products would fight for the same cores. What a part computes, and
the order in which results are added up, depend on the number of threads alone: the same bits at every run.

The number is that of MINILM_NUM_THREADS, or of OPENBLAS_NUM_THREADS or OMP_NUM_THREADS, or of the processors that this
process may use.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar, copy_context
from types import SimpleNamespace
from typing import Any, TypeVar

from minilm.checks import whole

Result = TypeVar("Result")

VARIABLES = ("MINILM_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")

_limit: ContextVar[int | None] = ContextVar("minilm_threads", default=None)
_here = threading.local()  # .part: this thread is working on a part of something


@functools.cache
def _default() -> int:
    for variable in VARIABLES:
        given = os.environ.get(variable, "")
        if given:
            try:
                number = int(given)
            except ValueError:
                number = 0
            if number < 1:
                raise ValueError(f"{variable}={given!r}: expected a whole number of threads, at least 1")
            return number
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count() -> int:
    """How many threads `spread` uses here: 1 within a part, so that work is never spread twice."""
    if getattr(_here, "part", False):
        return 1
    return _limit.get() or _default()


@contextmanager
def limit(threads: int) -> Iterator[None]:
    """Within this block, `threads` threads, for BLAS too. Raises ValueError for fewer than 1."""
    token = _limit.set(whole("threads", threads, at_least=1))
    try:
        with _blas().limit(limits=threads):
            yield
    finally:
        _limit.reset(token)


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """The threads besides the calling one: started at first use, ended with the process."""
    return ThreadPoolExecutor(threads, thread_name_prefix="minilm")


@functools.cache
def _blas() -> Any:
    """BLAS as loaded with NumPy. (Looking for it takes a millisecond.)

    In a source tree without the packages that minilm asks for, BLAS keeps the threads it was started with.
    """
    try:
        from threadpoolctl import ThreadpoolController
    except ModuleNotFoundError:
        return SimpleNamespace(limit=lambda limits: nullcontext())
    return ThreadpoolController().select(user_api="blas")


def one_blas_thread() -> Any:
    """A context manager: products within run on one thread each. Not for use within a part, where they do anyway."""
    return nullcontext() if getattr(_here, "part", False) else _blas().limit(limits=1)


def parts(n: int, number: int, align: int = 1) -> list[tuple[int, int]]:
    """range(n) in at most `number` contiguous (start, stop), about equal, all but the last multiples of `align`."""
    size = max(1, -(-n // (number * align))) * align
    return [(start, min(start + size, n)) for start in range(0, n, size)]


def spread(work: Callable[[int, int], Result], n: int, align: int = 1, most: int | None = None) -> list[Result]:
    """[work(start, stop) for each part of range(n)], the parts side by side, the results in the order of the parts.

    `most` limits the number of parts, for work that isn't worth more: to call a thread takes about 0.1 ms.
    The calling thread takes the first part. A plain call where there is one part only. The first exception is raised
    when all parts have ended, so that none goes on writing behind the caller's back.
    """
    number = count() if most is None else max(1, min(count(), most))
    pieces = parts(n, number, align) if number > 1 else [(0, n)]
    if len(pieces) < 2:
        return [work(*piece) for piece in pieces] if n else [work(0, 0)]
    with one_blas_thread():
        waiting: list[Future] = [
            _pool(number - 1).submit(copy_context().run, _part, work, *piece) for piece in pieces[1:]
        ]
        try:
            first = _part(work, *pieces[0])
        finally:
            for future in waiting:
                future.exception()  # waits
        return [first, *(future.result() for future in waiting)]


def _part(work: Callable[[int, int], Result], start: int, stop: int) -> Result:
    """One part, in the context of the caller: what `minilm.reference()` or NumPy's `errstate` says holds here too."""
    _here.part = True
    try:
        return work(start, stop)
    finally:
        _here.part = False
