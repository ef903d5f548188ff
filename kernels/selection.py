"""Which version of an op runs: its definition in `minilm.ops`, or a tuned kernel.

    @selectable                       on the definition's forward: the one place where a choice is made
    @follows_cache                    on its backward: the version that made the cache also reads it
    register("softmax", Version(...)) a kernel announces itself, with the calls that it serves
    with reference(): ...             the definition runs, whatever is registered
    explain("softmax", x)             which version would run, and why the others would not

A version is asked in the order of registration; the first that serves the call runs. It takes the op's own arguments
and returns the op's own result, with a cache of a type of its own. Nothing falls back after it has started.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple


class Version(NamedTuple):
    """One tuned version of an op pair."""

    name: str  # e.g. "cpu.blocked"
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    cache_type: type  # no other version, nor the definition, may use it
    refuses: Callable[..., str | None]  # called with the op's arguments: None if it serves them, else the reason


_versions: dict[str, list[Version]] = {}
_definitions: dict[str, Callable[..., Any]] = {}
_forced: ContextVar[bool] = ContextVar("minilm_reference", default=False)


def selectable(definition: Callable[..., Any]) -> Callable[..., Any]:
    """Make the forward of an op choose its version, and give it `cache=False` (no cache is returned, or built)."""
    name = definition.__name__
    if name in _definitions:
        raise ValueError(f"two ops are named {name!r}; an op's name is its key, so rename one")
    _definitions[name] = definition

    def run(forward: Callable[..., Any], args: tuple, kwargs: dict, cache: bool) -> Any:
        if _can_save_the_cache(forward):
            return forward(*args, cache=cache, **kwargs)
        result, made = forward(*args, **kwargs)
        return result, (made if cache else None)

    @functools.wraps(definition)
    def op(*args: Any, cache: bool = True, **kwargs: Any) -> Any:
        if not _forced.get():
            for version in _versions.get(name, ()):
                if version.refuses(*args, **kwargs) is None:
                    return run(version.forward, args, kwargs, cache)
        return run(definition, args, kwargs, cache)

    if not _can_save_the_cache(definition):
        signature = inspect.signature(definition)
        keyword = inspect.Parameter("cache", inspect.Parameter.KEYWORD_ONLY, default=True, annotation=bool)
        op.__signature__ = signature.replace(parameters=[*signature.parameters.values(), keyword])
    return op


@functools.cache
def _can_save_the_cache(forward: Callable[..., Any]) -> bool:
    """Whether a forward takes `cache=False` itself, because it can save work or memory by it."""
    return "cache" in inspect.signature(forward).parameters


def follows_cache(definition: Callable[..., Any]) -> Callable[..., Any]:
    """Make the backward of an op run the version whose forward made the cache."""
    name = definition.__name__.removesuffix("_backward")

    @functools.wraps(definition)
    def backward(dy: Any, cache: Any, *args: Any, **kwargs: Any) -> Any:
        for version in _versions.get(name, ()):
            if type(cache) is version.cache_type:
                return version.backward(dy, cache, *args, **kwargs)
        return definition(dy, cache, *args, **kwargs)

    return backward


def register(op: str, version: Version) -> None:
    """Offer a tuned version of `op`. The cache type must be its own: it tells the backward whose cache it holds."""
    taken = [v for v in _versions.get(op, ()) if v.name == version.name or v.cache_type is version.cache_type]
    if taken:
        raise ValueError(f"{op}: version {taken[0].name!r} has this name or cache type already; each needs its own")
    _versions.setdefault(op, []).append(version)


def versions(op: str) -> tuple[Version, ...]:
    """The tuned versions of `op`, in the order in which they are asked."""
    return tuple(_versions.get(op, ()))


@contextmanager
def reference() -> Iterator[None]:
    """Within this block every op runs its definition. Caches made outside keep their own backward."""
    token = _forced.set(True)
    try:
        yield
    finally:
        _forced.reset(token)


def explain(op: str, *args: Any, **kwargs: Any) -> str:
    """Which version of `op` would run for these arguments, and why each version before it would not."""
    import minilm.ops  # noqa: F401  the ops announce themselves on import

    kwargs.pop("cache", None)  # chooses nothing
    if op not in _definitions:
        raise ValueError(f"op {op!r} is unknown; known are {', '.join(sorted(_definitions))}")
    if _forced.get():
        return f"{op}: definition (inside minilm.reference())"
    lines, chosen = [], None
    for version in versions(op):
        reason = version.refuses(*args, **kwargs)
        if reason is None:
            chosen = version.name
            break
        lines.append(f"  not {version.name}: {reason}")
    why = "" if chosen or lines else " (no tuned version is registered)"
    return "\n".join([f"{op}: {chosen or 'definition'}{why}", *lines])
