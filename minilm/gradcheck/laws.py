"""`check_laws`: what must hold for every op pair besides its numbers.

arguments kept        forward and backward write to no argument
forward repeatable    two calls give the same bits
kinds                 each gradient has the shape, dtype and library of its argument
dy kept, cache kept   backward writes to neither
backward repeatable   two calls on one cache give the same bits, and the second leaves the first result alone,
                      also after another forward has run
linear                backward(a dy + b dz) = a backward(dy) + b backward(dz), and backward(0) = 0
selection             backward(..., wrt=(name,)) gives that gradient and None for the others (where `wrt` exists)
no cache              forward(..., cache=False) gives the same y and no cache (where `cache` exists)
float32               float32 arguments give a float32 y and float32 gradients
layouts               transposed, strided and reversed inputs give the same results
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minilm.backend import Array, to_numpy
from minilm.gradcheck.arguments import Arguments, Selection, declared_gradients, name_of, parameters_of
from minilm.gradcheck.checker import call_forward, wrong_kind
from minilm.gradcheck.layouts import LAYOUTS
from minilm.gradcheck.numeric import typical
from minilm.gradcheck.report import ReportRow
from minilm.gradcheck.structures import changed, draw_like, fresh, host_copies, leaves, map_leaves, rebuild, snapshot

ROUNDING = 1e-10  # relative to the largest number of an array, where the order of summation may differ
FLOAT32_ROUNDING = 1e-5


class LawViolation(AssertionError):
    """A forward or backward breaks one of the laws; the message names law, op and argument."""


def check_laws(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    args: Sequence[Any],
    *,
    seed: int = 0,
    wrt: Selection = None,
    gradients: Sequence[str] | None = None,
    float32: bool = True,
) -> None:
    """Raise LawViolation if `forward(*args) -> (y, cache)` with `backward(dy, cache)` breaks a law.

    args, wrt and gradients are those of `gradcheck`. `float32=False` leaves the float32 law out, for a forward that
    closes over float64 arrays.
    """
    laws = _Laws(forward, backward, args, seed, wrt, gradients)
    laws.forward_laws()
    laws.kinds()
    laws.backward_writes_nothing()
    laws.linear()
    laws.selection()
    laws.no_cache()
    laws.layouts()
    if float32:
        laws.float32()


def broken_laws(
    forward: Callable[..., Any], backward: Callable[..., Any], args: Sequence[Any], **options: Any
) -> list[ReportRow]:
    """`check_laws` as failed rows of a report: the first law that is broken, or none."""
    try:
        check_laws(forward, backward, args, **options)
    except LawViolation as violation:
        return [ReportRow.broken(name_of(forward), "(all)", str(violation))]
    return []


class _Laws:
    def __init__(
        self, forward: Callable[..., Any], backward: Callable[..., Any], args: Sequence[Any], seed: int,
        wrt: Selection, gradients: Sequence[str] | None,
    ) -> None:  # fmt: skip
        self.op, self.forward, self.backward, self.gradients = name_of(forward), forward, backward, gradients
        self.arguments = Arguments(forward, args, wrt)
        self.seed, self.rng = seed, np.random.default_rng(seed)
        self.y, self.cache = self.run(self.arguments.values)
        self.dy = draw_like(self.y, self.rng)

    def run(self, values: Sequence[Any]) -> tuple[Any, Any]:
        """forward on fresh copies of the arguments."""
        return call_forward(self.forward, [fresh(value) for value in values])

    def grads(self, dy: Any, cache: Any) -> dict[str, Array]:
        """What backward gives for the selected arguments, by name."""
        found = self.arguments.align(self.backward(dy, cache), self.backward, self.gradients)
        return {name: found.get(name) for name in self.arguments.selected}

    def fail(self, law: str, what: str) -> None:
        raise LawViolation(f"{law}: {self.op} {what} (arguments: {self.arguments}; seed {self.seed})")

    def same(self, law: str, what: str, got: Any, want: Any, size: float = 0.0) -> None:
        """Equal shapes, and values equal up to rounding relative to the largest number (at least `size`)."""
        pairs = list(leaves(got)), list(leaves(want))
        if len(pairs[0]) != len(pairs[1]):
            self.fail(law, f"{what} has another structure")
        for (path, a), (_, b) in zip(*pairs, strict=True):
            if tuple(a.shape) != tuple(b.shape):
                self.fail(law, f"{what}{path} has shape {tuple(a.shape)}, expected {tuple(b.shape)}")
            a, b = to_numpy(a), to_numpy(b)
            differs = ~((a == b) | ((a != a) & (b != b)))  # NaN and infinity agree with themselves
            if not np.any(differs):
                continue
            largest = max(float(np.abs(b[np.isfinite(b)]).max(initial=0.0)), size)
            error = float(np.abs(a[differs].astype(np.float64) - b[differs].astype(np.float64)).max())
            rounding = FLOAT32_ROUNDING if b.dtype == np.float32 else ROUNDING
            if not error <= rounding * largest:
                self.fail(law, f"{what}{path} differs by {error:.3g} where the largest number is {largest:.3g}")

    def size_of(self, name: str) -> float:
        """A floor for the size of a gradient, so that one that is zero by cancellation may differ by rounding."""
        pairs = zip(host_copies(self.dy), host_copies(self.y), strict=True)
        natural = sum(float(np.sum(np.abs(d * y)[np.isfinite(y)])) for d, y in pairs)
        return 1e-3 * natural / typical(to_numpy(self.arguments[name]))

    # ---- the laws

    def forward_laws(self) -> None:
        values = [fresh(value) for value in self.arguments.values]
        before = snapshot(values)
        y, cache = call_forward(self.forward, values)
        self._arguments_kept("forward", before, values)
        path = changed(snapshot(self.y), snapshot(y))
        if path:
            self.fail("forward repeatable", f"forward gives other bits at the second call, in y{path}")
        self.backward(fresh(self.dy), cache)
        self._arguments_kept("backward", before, values)

    def _arguments_kept(self, which: str, before: dict[str, Any], values: list[Any]) -> None:
        path = changed(before, snapshot(values))
        if path:
            number = int(path[1 : path.index("]")])
            self.fail("arguments kept", f"{which} writes to the argument {self.arguments.names[number]}")

    def kinds(self) -> None:
        for name, gradient in self.grads(fresh(self.dy), self.run(self.arguments.values)[1]).items():
            argument = self.arguments[name]
            wrong = wrong_kind(gradient, argument)
            if wrong is None and gradient.dtype != argument.dtype:
                wrong = f"the gradient has dtype {gradient.dtype}, expected {argument.dtype}"
            if wrong:
                self.fail("kinds", f"{name}: {wrong}")

    def backward_writes_nothing(self) -> None:
        dy = fresh(self.dy)
        before_dy, before_cache = snapshot(dy), snapshot(self.cache)
        first = self.grads(dy, self.cache)
        if path := changed(before_dy, snapshot(dy)):
            self.fail("dy kept", f"backward writes to dy{path.replace('(itself)', '')}")
        if path := changed(before_cache, snapshot(self.cache)):
            self.fail("cache kept", f"backward writes to cache{path.replace('(itself)', '')}")
        kept = snapshot(first)
        self.grads(draw_like(self.y, self.rng), self.cache)
        if path := changed(kept, snapshot(first)):
            self.fail("backward repeatable", f"a second backward changes the first gradient of {path[2:-2]}")
        self.run([_halved(value) for value in self.arguments.values])  # must not disturb the first call's cache
        if path := changed(kept, snapshot(self.grads(fresh(self.dy), self.cache))):
            self.fail("backward repeatable", f"backward gives another gradient of {path[2:-2]} at the second call")

    def linear(self) -> None:
        other = draw_like(self.y, self.rng)
        a, b = 3.0, -1000.0  # far apart in size: clipping and thresholds show
        first, second = self.grads(fresh(self.dy), self.cache), self.grads(fresh(other), self.cache)
        mixed = self.grads(_combine(a, self.dy, b, other), self.cache)
        nothing = self.grads(_combine(0.0, self.dy, 0.0, other), self.cache)
        for name in self.arguments.selected:
            want, what = (
                _combine(a, first[name], b, second[name]),
                f"backward is not linear in dy: the gradient of {name}",
            )
            self.same("linear", what, mixed[name], want, size=abs(b) * self.size_of(name))
            if np.any(to_numpy(nothing[name])):
                self.fail("linear", f"backward of dy = 0 gives a gradient of {name} that is not 0")

    def selection(self) -> None:
        declared = declared_gradients(self.backward)

        def by_name(**options: Any) -> dict[str, Any]:
            found = self.backward(fresh(self.dy), self.cache, **options)
            return dict(zip(declared, found if isinstance(found, tuple | list) else [found], strict=True))

        whole = by_name() if declared else {}
        for name in declared:
            call, alone = f"backward with wrt=({name!r},)", by_name(wrt=(name,))
            if (alone[name] is None) != (whole[name] is None):
                self.fail("selection", f"{call} gives None where there is a gradient, or one too many")
            extra = [other for other, gradient in alone.items() if other != name and gradient is not None]
            if extra:
                self.fail("selection", f"{call} also gives {', '.join(extra)}")
            self.same("selection", f"{call} gives another gradient: it", alone[name], whole[name])

    def no_cache(self) -> None:
        if "cache" not in parameters_of(self.forward):
            return
        y, cache = self.forward(*[fresh(value) for value in self.arguments.values], cache=False)
        if cache is not None:
            self.fail("no cache", f"forward with cache=False returns a cache of type {type(cache).__name__}")
        self.same("no cache", "forward with cache=False gives another result: y", y, self.y)

    def layouts(self) -> None:
        want = self.grads(fresh(self.dy), self.cache)
        for layout, change in LAYOUTS.items():
            values = [map_leaves(change, fresh(value)) for value in self.arguments.values]
            y, cache = call_forward(self.forward, values)
            self.same("layouts", f"forward with {layout} arguments gives another result: y", y, self.y)
            got = self.grads(map_leaves(change, self.dy), cache)
            for name, gradient in got.items():
                what = f"backward with {layout} arrays gives another gradient of {name}: it"
                self.same("layouts", what, gradient, want[name], size=self.size_of(name))

    def float32(self) -> None:
        y, cache = self.run([map_leaves(_to_float32, value) for value in self.arguments.values])
        for path, array in leaves(y):
            if array.dtype.kind in "fc" and array.dtype != np.float32:
                self.fail("float32", f"forward of float32 arguments gives a {array.dtype} y{path}")
        for name, gradient in self.grads(map_leaves(_to_float32, self.dy), cache).items():
            if gradient is None or gradient.dtype != np.float32:
                kind = "no" if gradient is None else f"a {gradient.dtype}"
                self.fail("float32", f"backward of float32 arrays gives {kind} gradient of {name}")


def _halved(value: Any) -> Any:
    return map_leaves(lambda a: a * a.dtype.type(0.5) if a.dtype.kind == "f" else a, value)


def _to_float32(array: Array) -> Array:
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def _combine(a: float, x: Any, b: float, y: Any) -> Any:
    """a x + b y of two equal structures."""
    if isinstance(x, tuple | list):
        return rebuild(x, [_combine(a, left, b, right) for left, right in zip(x, y, strict=True)])
    return None if x is None else a * x + b * y
