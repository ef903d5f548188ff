"""Choose a kernel's configuration by timing the candidates on the GPU at hand. Off unless asked for.

    with autotuning(): ...                              in this thread; or MINILM_AUTOTUNE=1 in the environment
    splits = choose("attention_decode", key, candidates, run, like=y)

`candidates` begins with the default, which is what `choose` returns while tuning is off, and always on NumPy arrays:
the run on the CPU says nothing about a GPU's time. Else each candidate is run once untimed and then REPEATS times
by `timing.DeviceTimer`, with a cold L2 cache and without Python's own time; the lowest median wins, and the default
wins ties.

The choice and all the medians are kept in a JSON file, by kernel, device and key (`cache_file`). An earlier choice
holds as long as its candidates: where they changed, they are timed again.

A choice may change the order in which numbers are added: results are equal, bit for bit, between runs with the same
choice, and only nearly equal between different ones.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import numpy as np

from minilm.backend import Array, array_namespace
from minilm.kernels.cuda.timing import DeviceTimer
from minilm.kernels.host.builder import cache_directory

Candidate = TypeVar("Candidate")
Timer = Callable[[Callable[[], None]], float]  # runs a function, returns milliseconds

REPEATS = 15


class Settings(NamedTuple):
    """How to tune: what `autotuning` was told."""

    timer: Timer | None
    path: Path


_settings: ContextVar[Settings | None] = ContextVar("minilm_autotune", default=None)
_known: dict[Path, dict[str, Any]] = {}  # files that were read
_lock = threading.Lock()


@contextmanager
def autotuning(*, timer: Timer | None = None, path: str | os.PathLike[str] | None = None) -> Iterator[None]:
    """Tune the kernels that are called inside.

    timer  called with a function, returns the milliseconds it took. By default `gpu_timer` on the arrays' device; a
           timer of one's own is also used for NumPy arrays
    path   the file of choices; by default `cache_file()`
    """
    token = _settings.set(Settings(timer, cache_file() if path is None else Path(path)))
    try:
        yield
    finally:
        _settings.reset(token)


def active(like: Array) -> bool:
    """Whether `choose` would look for more than the default, for arrays like this one."""
    return _settings_for(like) is not None


def choose(
    kernel_name: str,
    key: Mapping[str, Any],
    candidates: Sequence[Candidate],
    run: Callable[[Candidate], Any],
    *,
    like: Array,
) -> Candidate:
    """The fastest of `candidates`, or the first of them where nothing is tuned.

    key         what the best choice depends on besides the device: dtype and sizes, the latter in buckets (`bucket`)
    candidates  numbers, strings or tuples of them, the default first
    run         launches the kernel as a candidate says; called several times, so it must not change its inputs
    like        an array of the call: its library and device are those that are timed

    Raises ValueError for a file of choices that can't be read. An error of `run` is the caller's to see.
    """
    if not candidates:
        raise ValueError(f"{kernel_name}: no candidates to choose from; pass the default at least")
    settings = _settings_for(like)
    if settings is None or len(candidates) == 1:
        return candidates[0]
    entry = json.dumps({"kernel": kernel_name, "device": device_name(like), **key}, sort_keys=True)
    listed = json.loads(json.dumps(list(candidates)))  # as they read back: lists for tuples
    with _lock:
        known = _read(settings.path).get(entry)
        if known is None or known["candidates"] != listed:
            timer = settings.timer or gpu_timer(array_namespace(like))
            times = [timer(functools.partial(run, candidate)) for candidate in candidates]
            known = {"candidates": listed, "milliseconds": times, "choice": times.index(min(times))}
            _add(settings.path, entry, known)
    return candidates[known["choice"]]


def bucket(n: int) -> int:
    """The power of two at or above n: sizes that share a choice."""
    return 1 << max(0, int(n) - 1).bit_length()


def gpu_timer(cupy: ModuleType) -> Timer:
    """Takes the median of REPEATS runs in milliseconds, on the current stream, each with a cold L2 cache."""
    timer = DeviceTimer(cupy)

    def milliseconds(run: Callable[[], None]) -> float:
        run()  # compiles, and fills the memory pool
        return 1e3 * statistics.median(timer.seconds(run) for _ in range(REPEATS))

    return milliseconds


def device_name(like: Array) -> str:
    """Such as "NVIDIA H100 80GB HBM3"; "host" for a NumPy array."""
    return "host" if isinstance(like, np.ndarray) else _gpu_name(array_namespace(like), like.device.id)


@functools.cache  # the driver takes a while to tell all properties
def _gpu_name(cupy: ModuleType, number: int) -> str:
    name = cupy.cuda.runtime.getDeviceProperties(number)["name"]
    return name.decode() if isinstance(name, bytes) else name


def cache_file() -> Path:
    """autotune.json in the folder that host builds are kept in: $MINILM_CACHE, or the user's cache directory."""
    return cache_directory() / "autotune.json"


def _settings_for(like: Array) -> Settings | None:
    settings = _settings.get()
    if settings is None and os.environ.get("MINILM_AUTOTUNE") == "1":
        settings = Settings(None, cache_file())
    if settings is not None and settings.timer is None and array_namespace(like) is np:
        return None
    return settings


# ---- the file of choices


def _read(path: Path) -> dict[str, Any]:
    """From memory where the file was read before: a choice is looked up at every launch."""
    if path not in _known:
        _known[path] = _load(path)
    return _known[path]


def _load(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    try:
        choices = json.loads(text)
        for known in choices.values():
            assert len(known["candidates"]) == len(known["milliseconds"]) > known["choice"] >= 0
    except (ValueError, AttributeError, TypeError, KeyError, AssertionError):
        raise ValueError(
            f"{path} is no file of autotuned choices; delete it, the choices will be timed again"
        ) from None
    return choices


def _add(path: Path, entry: str, known: dict[str, Any]) -> None:
    """Read again what other processes added meanwhile, then replace the file as a whole: a reader sees old or new."""
    choices = {**_load(path), entry: known}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", encoding="utf-8", delete=False) as file:
        json.dump(choices, file, indent=1, sort_keys=True)
    os.replace(file.name, path)
    _known[path] = choices
