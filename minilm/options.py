"""Options: fields of a dataclass, each with its meaning and its limits.

One declaration serves the check of what a user gives, the command line, and the tables of `minilm info`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING
from typing import Any

from minilm.checks import number, one_of, unknown, whole


def option(
    default: Any = MISSING,
    help: str = "",
    *,
    at_least: float | None = None,
    below: float = math.inf,
    choices: Iterable[str] | None = None,
) -> Any:
    """A field of a dataclass of options: what it means, and what it may be. `check_options` holds values to it."""
    limits = {"help": help, "at_least": at_least, "below": below, "choices": choices and tuple(choices)}
    if isinstance(default, list):
        return dataclasses.field(default_factory=default.copy, metadata=limits)
    return dataclasses.field(default=default, metadata=limits)


def check_options(options: Any) -> None:
    """Hold each field of a dataclass instance to its type and to the limits that its `option` gives.

    Types are those of the annotation: int, float, bool, str, a tuple of texts, any of them `| None`. For use in
    __post_init__; whole numbers given for floats become floats. Raises ValueError, naming the field.
    """
    for field in dataclasses.fields(options):
        name, value, limits = field.name, getattr(options, field.name), field.metadata
        kind, _, optional = str(field.type).partition(" | ")
        if value is None:
            if not optional:
                raise ValueError(f"{name} is None, expected a value like {field.default!r}")
        elif kind == "bool":
            if not isinstance(value, bool):
                raise ValueError(f"{name} is {value!r}, expected true or false")
        elif kind == "str":
            if limits.get("choices"):
                one_of(name, value, limits["choices"])
            elif not isinstance(value, str):
                raise ValueError(f"{name} is {value!r}, expected a text")
        elif kind == "int":
            object.__setattr__(options, name, whole(name, value, limits.get("at_least") or 0))
        elif kind == "float":
            least = limits.get("at_least") or 0.0
            object.__setattr__(options, name, number(name, value, least, limits.get("below", math.inf)))
        elif kind.startswith("tuple[str"):
            values = (value,) if isinstance(value, str) else tuple(value)
            if not all(isinstance(item, str) for item in values):
                raise ValueError(f"{name} is {value!r}, expected texts")
            object.__setattr__(options, name, values)


def make_options(kind: type, given: Mapping[str, Any], what: str) -> Any:
    """An instance of the dataclass `kind`. Raises ValueError for a name that is no option of it; `what` has them."""
    names = [field.name for field in dataclasses.fields(kind)]
    for name in given:
        if name not in names:
            raise ValueError(unknown(f"option of {what}", name, names) if names else f"{what} has no option {name!r}")
    return kind(**given)


def shallow(options: Any) -> dict[str, Any]:
    """The fields of a dataclass instance by name."""
    return {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
