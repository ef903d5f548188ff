"""Which arguments of a forward are checked, and which of a backward's results belongs to which argument."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from minilm.gradcheck.structures import describe, is_variable

Selection = str | int | Sequence[str | int] | None


class Arguments:
    """The positional arguments of one call of `forward`, by name.

    names      of all that were passed, in order; "args[0]" where the signature does not tell
    floating   names of those that are floating arrays (Python floats and NumPy scalars are options, not arrays)
    selected   names of those to check: `wrt`, or all floating ones
    """

    def __init__(self, forward: Callable[..., Any], args: Sequence[Any], wrt: Selection = None) -> None:
        if not isinstance(args, tuple | list):
            raise TypeError(f"args must be a tuple of the forward's positional arguments, got {describe(args)}")
        self.values = tuple(args)
        self.names, self.absent = _names(forward, self.values)
        self.floating = [name for name, value in zip(self.names, self.values, strict=True) if is_variable(value)]
        self.absent += [name for name, value in zip(self.names, self.values, strict=True) if value is None]
        self.selected = self._select(wrt)
        if not self.selected:
            raise ValueError(f"nothing to check: no argument is a floating array, got {self}")

    def __str__(self) -> str:
        pairs = zip(self.names, self.values, strict=True)
        return ", ".join(f"{name} {describe(value)}" for name, value in pairs) or "none"

    def __getitem__(self, name: str) -> Any:
        return self.values[self.names.index(name)]

    def replaced(self, name: str | None, array: Any, copy: Callable[[Any], Any]) -> tuple[Any, ...]:
        """The arguments with one of them replaced; the others are copied, so that nothing can write into them."""
        return tuple(array if n == name else copy(value) for n, value in zip(self.names, self.values, strict=True))

    def _select(self, wrt: Selection) -> list[str]:
        if wrt is None:
            return list(self.floating)
        chosen = []
        for entry in [wrt] if isinstance(wrt, str | int) else list(wrt):
            if isinstance(entry, int) and -len(self.names) <= entry < len(self.names):
                entry = self.names[entry]
            if entry not in self.names:
                raise ValueError(f"wrt names {entry!r}, but the arguments are {', '.join(self.names)}")
            if entry not in self.floating:
                raise TypeError(f"wrt names {entry!r}, which is no floating array but {describe(self[entry])}")
            chosen.append(entry)
        return [name for name in self.floating if name in chosen]

    def align(
        self, result: Any, backward: Callable[..., Any], gradients: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """The result of `backward` by argument name. The first of these rules that fits decides:

        1. `gradients` names the results;
        2. the default of the backward's parameter `wrt` names them, as in `linear_backward(dy, cache, wrt=("x", ...))`;
        3. there are as many as floating arguments, or as floating arguments and arguments that are None;
        4. there are as many that are not None as floating arguments (an optional array that a wrapper does not pass);
        5. there are as many as `wrt` selects.

        Raises ValueError where none fits.
        """
        results = list(result) if isinstance(result, tuple | list) else [result]
        count = len(results)
        if gradients is not None:
            if len(gradients) != count:
                raise ValueError(f"backward returned {count} gradients, but gradients= names {', '.join(gradients)}")
            return dict(zip(gradients, results, strict=True))
        declared = declared_gradients(backward)
        slots = [name for name in self.names if name in self.floating or name in self.absent]
        slots += [name for name in self.absent if name not in slots]
        given = [gradient for gradient in results if gradient is not None]
        for names, found in (
            (declared if set(self.selected) <= set(declared) else (), results),
            (self.floating, results),
            (slots, results),
            (self.floating, given),
            (self.selected, results),
        ):
            if names and len(names) == len(found):
                return dict(zip(names, found, strict=True))
        if count > len(self.floating) and all(gradient is None for gradient in results[len(self.floating) :]):
            return dict(zip(self.floating, results, strict=False))
        raise ValueError(
            f"backward returned {count} gradients ({len(given)} of them not None) for {len(self.floating)} floating "
            f"arguments ({', '.join(self.floating)}); choose the differentiable ones with wrt=, or name the results "
            "with gradients="
        )


def parameters_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a function by name; none of a builtin without a signature."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def declared_gradients(backward: Callable[..., Any]) -> tuple[str, ...]:
    """The names in the default of the parameter `wrt` of a backward; empty where it has none."""
    parameter = parameters_of(backward).get("wrt")
    default = () if parameter is None else parameter.default
    return default if isinstance(default, tuple) and all(isinstance(name, str) for name in default) else ()


def name_of(function: Callable[..., Any], otherwise: str = "forward") -> str:
    """The name to report: that of the op under wrappers; `otherwise` for a lambda."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", type(function).__name__)
    return otherwise if name == "<lambda>" else name


def _names(forward: Callable[..., Any], values: tuple[Any, ...]) -> tuple[list[str], list[str]]:
    """Names of the passed arguments, and of positional parameters that were left at their default None."""
    try:
        signature = inspect.signature(forward)
    except (TypeError, ValueError):  # some builtins have none
        return [f"args[{position}]" for position in range(len(values))], []
    try:
        signature.bind(*values)
    except TypeError as error:
        raise TypeError(f"args do not fit {name_of(forward)}{signature}: {error}") from None
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [parameter for parameter in signature.parameters.values() if parameter.kind in kinds]
    names = [parameter.name for parameter in positional[: len(values)]]
    names += [f"args[{position}]" for position in range(len(names), len(values))]
    return names, [parameter.name for parameter in positional[len(values) :] if parameter.default is None]
