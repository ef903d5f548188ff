"""Guards of honest figures: results are compared before, between and after times are taken, on inputs that change.

Nothing here knows a trick by name. The rules, each of which a variant breaks only by not doing the work in the time:

    right         within the tolerance of the reference, for the inputs at hand, other ones in each round; numbers only;
                  whenever it is called, the last time as the first
    arrays        of a known library, where the workload runs, of its precision, each number in a place of its own,
                  apart from the inputs
    inputs        hold after the call what they held before
    there         what is returned has been computed when the call ends, and is no promise
    on the clock  the time is what another clock sees: on a GPU, what the host waits for from an idle device to an idle
                  one is little more than what the events tell and queueing takes (`DeviceClock.doubt`)
    possible      no more bytes or operations per second than the machine has (`impossible`)

The first broken rule raises `Refused`, which names variant and rule; nothing of that workload is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks.inputs import Inputs
from benchmarks.timing import Ceilings, cache_bytes, replaced_clock
from benchmarks.variants import Reference, Setting, Variant, Workload, arrays_in
from minilm.kernels import roofline
from minilm.kernels.cuda.autotune import device_name

MANY = 64
CHUNK = 1 << 24  # numbers that are compared at a time
ALLOWED_GPU = 1.1  # times the triad or product of this run: they are not the best that there is
ALLOWED_CPU = 3.0  # a copy counts no line that is read to be written, and other programs slow it
LEAST_OPERATIONS = 1e9  # below, a rate says nothing


class Refused(ValueError):
    """A variant that is not timed, or whose time does not count, and why."""


class Watch:
    """Compares what the variants of one workload give, in whatever way they are called."""

    def __init__(self, workload: Workload, setting: Setting) -> None:
        self.workload, self.setting = workload, setting
        self.inputs = setting.inputs or Inputs()
        self.random = np.random.default_rng()  # nobody knows which inputs come next
        self.compared = {name: v for name, v in workload.variants.items() if v.comparable}
        self.last: tuple[list[int], Reference] | None = None  # how far inputs were shifted, and what followed

    def next_inputs(self) -> None:
        """Other inputs than before, for all variants."""
        sizes = {shared.array.size for shared in self.inputs.shared}
        steps = int(self.random.integers(1, 1 << 30))
        while any(size > 1 and steps % size == 0 for size in sizes):  # once around would change nothing
            steps += 1
        self.inputs.shift(steps)

    def reference(self) -> Reference:
        """The right results for the inputs at hand; of the first variant, where the workload states nothing else."""
        if self.workload.reference:
            return self.workload.reference(self.random)
        if not self.compared:
            return Reference((), [], [])
        name, variant = next(iter(self.compared.items()))
        value = variant.value()
        outputs = self._taken(name, variant.outputs(value), ())
        gradients = self._taken(name, variant.backward(value), ()) if variant.backward else []
        found = Reference((), [array.copy() for array in outputs], [array.copy() for array in gradients])
        places = self._places()
        if self.last is not None and places != self.last[0] and _same(found, self.last[1]):
            raise Refused(f"{self.workload.name}: {name} gives the same results for other inputs")
        self.last = places, found
        return found

    def _places(self) -> list[int]:
        """How far those inputs are shifted that look the same in no two places: of many numbers, none like another."""
        large = [each for each in self.inputs.shared if each.array.dtype.kind != "i" and each.array.size >= MANY]
        return [each.steps % each.array.size for each in large]

    def verify(self) -> None:
        """Compare outputs and gradients of all variants, called as they come."""
        expected = self.reference()
        for name, variant in self.compared.items():
            value = variant.value()
            found, wanted = self._taken(name, variant.outputs(value), expected.index), expected.outputs
            if variant.backward:
                found = found + self._taken(name, variant.backward(value), expected.index)
                wanted = wanted + expected.gradients
            self._compare(name, found, wanted)
            self._left_alone(name)

    def check(self, prepared: Mapping[str, Callable[[], Callable[[], Any]]], phase: str, clock: Any) -> None:
        """Call each variant through the clock on new inputs, and compare what that call gave."""
        self.next_inputs()
        expected = self.reference()
        wanted = expected.gradients if phase in ("backward", "both") else expected.outputs
        for name in prepared:
            variant = self.workload.variants[name]
            if variant.comparable:
                value = self._timed(prepared[name], variant, clock)
                found = value if phase in ("backward", "both") else variant.outputs(value)
                self._compare(name, self._taken(name, found, expected.index), wanted)
                self._left_alone(name)

    def _timed(self, prepare: Callable[[], Callable[[], Any]], variant: Variant, clock: Any) -> Any:
        """The value of a call that the clock sees, as it sees those that count.

        A clock may call more than once, until it can tell; calls that go on from a state begin again then.
        """
        values: list[Any] = []
        while len(values) != 1:
            values.clear()
            if variant.reset:
                variant.reset()
            for _ in range(variant.calls - 1):
                prepare()()
            run = prepare()
            clock.seconds(lambda run=run: values.append(run()))
            if not variant.reset:
                break
        return values[-1]

    def _taken(self, name: str, value: Any, index: tuple[slice, ...]) -> list[Any]:
        """The arrays in a value, as the setting's library has them, once each has been looked at."""
        taken = []
        for number, array in enumerate(arrays_in(value)):
            problem = problem_of(array, self.setting, self.inputs.arrays())
            if problem:
                raise Refused(f"{self.workload.name}: result {number} of {name} {problem}")
            array = self.setting.adopt(array)
            taken.append(array[index] if index else array)
        return taken

    def _compare(self, name: str, found: list[Any], wanted: list[Any]) -> None:
        if len(found) != len(wanted):
            raise Refused(f"{self.workload.name}: {name} gives {len(found)} arrays, expected are {len(wanted)}")
        for number, (got, want) in enumerate(zip(found, wanted, strict=True)):
            result = f"{self.workload.name}: result {number} of {name}"
            if got.shape != want.shape:
                raise Refused(f"{result} has shape {got.shape}, expected is {want.shape}")
            error = difference(self.setting.xp, got, want)
            if not error <= self.workload.tolerance:
                limit = self.workload.tolerance
                means = f"differs by {error:.1e} of its largest number from the right result, tolerated are {limit:.0e}"
                means = "holds NaN or infinity" if np.isnan(error) else means
                raise Refused(f"{result} {means}; nothing is recorded")

    def _left_alone(self, name: str) -> None:
        """Refused for a variant that changed what is not its own: an input, or the clock."""
        if replaced_clock():
            raise Refused(f"{self.workload.name}: {name} put another clock in the place of time.perf_counter")
        written = self.inputs.written(self.setting.adopt)
        if written:
            raise Refused(f"{self.workload.name}: {name} wrote to {written}")


def _same(one: Reference, other: Reference) -> bool:
    """Whether all numbers are equal, of results that hold different numbers at all."""
    pairs = list(zip(one.outputs + one.gradients, other.outputs + other.gradients, strict=True))
    varied = [(a, b) for a, b in pairs if a.size > 1 and bool((a != a.reshape(-1)[0]).any())]
    return bool(varied) and all(bool((a == b).all()) for a, b in varied)


def difference(xp: Any, got: Any, want: Any) -> float:
    """The largest difference, of the largest number; NaN where either holds a number that is none."""
    double = xp is np or "float64" in (got.dtype.name, want.dtype.name)
    worst = largest = 0.0
    got, want = got.reshape(-1), want.reshape(-1)
    for start in range(0, got.size, CHUNK):
        a, b = (x[start : start + CHUNK].astype("float64" if double else "float32") for x in (got, want))
        parts = float(xp.abs(a - b).max()), float(xp.abs(b).max())
        if not np.isfinite(parts).all():
            return float("nan")
        worst, largest = max(worst, parts[0]), max(largest, parts[1])
    return worst / max(largest, 1e-30)


# ---- what a result is


def library_of(array: Any, xp: Any) -> str | None:
    """numpy, cupy, torch or jax, by the very type; None for anything else, which may compute when it is read."""
    kind = type(array)
    if kind is np.ndarray or isinstance(array, np.generic) or kind is float:
        return "numpy"
    if kind is xp.ndarray:
        return "cupy"
    if kind.__module__.partition(".")[0] == "torch" and kind.__name__ in ("Tensor", "Parameter"):
        return "torch"
    return "jax" if kind.__module__.partition(".")[0] in ("jax", "jaxlib") else None


def problem_of(array: Any, setting: Setting, inputs: list[Any]) -> str | None:
    """The fault of a result as an array, in words; None where there is none."""
    library, on_device = library_of(array, setting.xp), setting.xp is not np
    if library is None:
        return f"is a {type(array).__module__}.{type(array).__qualname__}, no array of a library that is known here"
    where = array.device.type if library == "torch" else "cuda" if library == "cupy" else "cpu"
    if where != ("cuda" if on_device else "cpu"):
        return f"lies on {where}, where the workload runs on {'cuda' if on_device else 'cpu'}"
    if library == "numpy" and not isinstance(array, np.ndarray):
        return None  # a number
    if library == "jax" and not array.is_ready():
        return "was not there yet when the call ended"
    dtype = str(array.dtype).removeprefix("torch.")
    needed = {"float64": 8, "float32": 4}.get(setting.dtype, 2)
    if "float" in dtype and array.dtype.itemsize < needed:
        return f"is {dtype}, where the workload is {setting.dtype}"
    strides = array.stride() if library == "torch" else getattr(array, "strides", ())
    if any(stride == 0 and n > 1 for stride, n in zip(strides, array.shape, strict=False)):
        return f"has fewer numbers in memory than its shape {tuple(array.shape)} says"
    if any(_overlap(library, array, other, setting.xp) for other in inputs):
        return "lies in the memory of an input"
    return None


def _overlap(library: str, array: Any, other: Any, xp: Any) -> bool:
    if library != library_of(other, xp) or library == "jax":  # JAX never writes to an array
        return False
    if library == "torch":
        return array.untyped_storage().data_ptr() == other.untyped_storage().data_ptr() and array.numel() > 0
    return bool(xp.may_share_memory(array, other))


# ---- what a machine can do


class Limits(NamedTuple):
    """The limits of a machine, by which figures are judged. None: not known, nothing is judged."""

    bandwidth: float | None  # bytes per second
    operations: float | None  # a second, in the dtype of the workload
    cache: float | None  # bytes: of less traffic than twice that, part may never have left the cache


def impossible(workload: Workload, phase: str, seconds: Mapping[str, float], limits: Limits) -> str | None:
    """The first variant whose time would need more than the machine has, in words."""
    moved, operations = workload.amounts(phase)
    out_of_cache = limits.cache is not None and moved >= 2 * limits.cache
    judged = []
    if limits.bandwidth and out_of_cache:
        judged.append((moved, limits.bandwidth, "GB/s"))
    if limits.operations and operations >= LEAST_OPERATIONS:
        judged.append((operations, limits.operations, "GFLOP/s"))
    for name, taken in seconds.items():
        for amount, limit, unit in judged:
            if amount / taken > limit:
                return (
                    f"{workload.name}, {phase}: {name} would do {amount / taken / 1e9:.0f} {unit}, where this machine "
                    f"has {limit / 1e9:.0f} at most: not all of the work was done in the time"
                )
    return None


def limits_of(xp: Any, best: Ceilings, dtype: str) -> Limits:
    """The limits for figures: the ceilings of this run with an allowance, on a GPU also the peaks of the card."""
    cache = cache_bytes(xp)
    if xp is np:
        return Limits(1e9 * ALLOWED_CPU * best.copy_gigabytes, 1e9 * ALLOWED_CPU * best.product_gigaflops, cache)
    bandwidth, operations = 1e9 * ALLOWED_GPU * best.copy_gigabytes, 1e9 * ALLOWED_GPU * best.product_gigaflops
    attributes = xp.cuda.Device().attributes
    clock, width = (attributes.get(key, 0) for key in ("MemoryClockRate", "GlobalMemoryBusWidth"))  # kHz, bits
    if clock and width:
        bandwidth = min(bandwidth, 2 * 1e3 * clock * width / 8)  # two transfers a clock
    if card := card_of(device_name(xp.zeros(1))):
        peak = {"float64": card.float64, "float32": card.float32}.get(dtype, card.tensor)
        operations = min(operations, peak)
    return Limits(bandwidth, operations, cache)


def card_of(name: str) -> roofline.Card | None:
    """The card whose peaks are known, by the name that the driver gives: NVIDIA H100 80GB HBM3."""
    return next((card for card in roofline.CARDS if _model(card.name) in name.replace("-", " ").split()), None)


def _model(name: str) -> str:
    """H100 of "H100 SXM", 4090 of "RTX 4090"."""
    return next(word for word in name.split() if any(letter.isdigit() for letter in word))
