"""A case: one set of inputs and options of an op, a layer or a model, and the check of it. A table of them by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from minilm.backend import Array, generator
from minilm.gradcheck import Report, check_layer, check_model, gradcheck
from minilm.gradcheck.laws import broken_laws
from minilm.gradcheck.structures import fresh
from minilm.selection import registered


class Case(Protocol):
    """What the table of checks asks of a case."""

    @property
    def label(self) -> str: ...
    def run(self) -> Report: ...  # gradients and laws; a law that is broken is a failed row


class OpCase(NamedTuple):
    """An op at one set of arrays."""

    label: str
    name: str
    arrays: dict[str, Any]  # by argument; every floating one is checked, or those that `wrt` names
    options: dict[str, Any]  # further arguments, not differentiated
    wrt: Sequence[str] | None
    seed: int

    def run(self) -> Report:
        forward, backward, args = self._forward(), registered()[self.name].backward, tuple(self.arrays.values())
        report = gradcheck(forward, backward, args, wrt=self.wrt, seed=self.seed)
        broken = broken_laws(forward, backward, args, wrt=self.wrt, seed=self.seed)
        return report._replace(rows=(*report.rows, *broken))

    def _forward(self) -> Callable[..., Any]:
        """The op over its arrays alone, the options fixed; a generator among them starts anew at each call."""

        def forward(*values: Any, cache: bool = True) -> Any:
            given = dict(zip(self.arrays, values, strict=True))
            options = {name: fresh(value) for name, value in self.options.items()}
            return registered()[self.name](**given, **options, cache=cache)

        parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in self.arrays]
        keyword = inspect.Parameter("cache", inspect.Parameter.KEYWORD_ONLY, default=True)
        forward.__signature__ = inspect.Signature([*parameters, keyword])  # type: ignore
        forward.__name__ = self.name
        return forward


class LayerCase(NamedTuple):
    """A layer at one input."""

    label: str
    layer: Any
    x: Array
    options: dict[str, Any]  # further arguments of its forward
    seed: int

    def run(self) -> Report:
        return check_layer(self.layer, self.x, seed=self.seed, **self.options)


class ModelCase(NamedTuple):
    """A model at one batch, through its loss."""

    label: str
    model: Any
    batch: Any
    seed: int

    def run(self) -> Report:
        return check_model(self.model, self.batch, seed=self.seed)


T = TypeVar("T")


class CaseTable(Generic[T]):
    """The cases of one kind of thing, by name.

    kind        what the things are: "op"
    registered  gives the names of all there are
    prepare     of a name and a seed, what the functions below are handed to make their cases
    """

    def __init__(self, kind: str, registered: Callable[[], Iterable[str]], prepare: Callable[[str, int], T]) -> None:
        self.kind, self.registered, self._prepare = kind, registered, prepare
        self._builders: dict[str, Callable[[T], Iterable[Case]]] = {}

    def of(self, *names: str) -> Callable[[Callable[[T], Iterable[Case]]], Callable[[T], Iterable[Case]]]:
        """Make a function the one that yields the cases of `names`. Raises ValueError for a name that has them."""
        taken = [name for name in names if name in self._builders]
        if taken:
            raise ValueError(f"the {self.kind} {taken[0]!r} has its cases already; add to them")

        def decorate(build: Callable[[T], Iterable[Case]]) -> Callable[[T], Iterable[Case]]:
            self._builders |= dict.fromkeys(names, build)
            return build

        return decorate

    def names(self) -> list[str]:
        """The names that have cases, then those that are registered and have none."""
        return [*self._builders, *self.without_case()]

    def without_case(self) -> list[str]:
        return [name for name in self.registered() if name not in self._builders]

    def cases(self, name: str, seed: int = 0) -> Iterator[Case]:
        """The cases of one name, none where it has none; their inputs are drawn from `seed`."""
        build = self._builders.get(name)
        return iter(build(self._prepare(name, seed)) if build else ())


def perturbed(layer: Any, seed: int) -> Any:
    """`layer` with a little noise on every parameter: zeros and ones of the start would hide terms of a gradient."""
    rng = generator(seed, 5)
    names = layer.parameters().keys()
    layer.map_arrays(lambda name, a: a + 0.2 * rng.standard_normal(a.shape) if name in names else a)
    return layer
