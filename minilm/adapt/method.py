"""What a method of adaptation is: which parameters of a model are trained, and what is put into it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from minilm.layers.base import Layer

HEAD = "head.*"  # the parameters of a task's head: new, so every method trains them


@dataclass(frozen=True)
class NoOptions:
    """The options of a method that has none."""


class Method(NamedTuple):
    """One way of adapting a model to a task."""

    name: str
    summary: str  # one line, for help texts
    install: Callable[[Layer, Any, Any], Any]  # (model, options, rng): freezes and wraps, in place
    learning_rate: float  # the default: the fewer parameters, the larger the steps they bear
    options: type = NoOptions  # the dataclass of what can be said about it
