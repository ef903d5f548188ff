"""What an op is, and which version of it runs: its definition in `minilm.ops`, or a tuned one in `minilm.kernels`.

    @op                               on the definition's forward: the one place where a version is chosen
    @backward_of(softmax)             on its backward: the version that made the cache reads it; softmax.backward is set
    register("softmax", Version(...)) a tuned version announces itself, with the calls that it serves
    with reference(): ...             the definition runs, whatever is registered
    which("softmax", x)               which version would run, and why the others would not
    registered()                      all ops by name

A version is asked in the order of registration; the first that serves the call runs. It takes the op's own arguments
and returns the op's own result, with a cache of a type of its own. Nothing falls back after it has started. The tuned
versions are loaded at the first call of an op, so that importing the ops loads none.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, cast

Gradients = tuple[Any, ...]  # those of an op's arrays, in their order; None for one not given, or not asked for


class Op(Protocol):
    """The forward of an op, `y, cache = op(...)`, and beside it `backward(dy, cache)`, the gradients of its arrays."""

    __name__: str
    backward: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]: ...


class Version(NamedTuple):
    """One tuned version of an op pair."""

    name: str  # e.g. "cpu.blocked"
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    cache_type: type  # no other version, nor the definition, may use it
    refuses: Callable[..., str | None]  # called with the op's arguments: None if it serves them, else the reason


_ops: dict[str, Op] = {}
_versions: dict[str, list[Version]] = {}
_forced: ContextVar[bool] = ContextVar("minilm_reference", default=False)


@functools.cache
def _load_tuned_versions() -> None:
    importlib.import_module("minilm.kernels")  # they register themselves; the one line that knows of them


def op(definition: Callable[..., Any]) -> Op:
    """Make a forward choose its version, and give it `cache=False` (no cache is returned, or built)."""
    name = definition.__name__
    if name in _ops:
        raise ValueError(f"two ops are named {name!r}; an op's name is its key, so rename one")

    def run(forward: Callable[..., Any], args: tuple, kwargs: dict, cache: bool) -> Any:
        if _can_save_the_cache(forward):
            return forward(*args, cache=cache, **kwargs)
        result, made = forward(*args, **kwargs)
        return result, (made if cache else None)

    @functools.wraps(definition)
    def chosen(*args: Any, cache: bool = True, **kwargs: Any) -> Any:
        if not _forced.get():
            for version in versions(name):
                if version.refuses(*args, **kwargs) is None:
                    return run(version.forward, args, kwargs, cache)
        return run(definition, args, kwargs, cache)

    if not _can_save_the_cache(definition):
        signature = inspect.signature(definition)
        keyword = inspect.Parameter("cache", inspect.Parameter.KEYWORD_ONLY, default=True, annotation=bool)
        chosen.__signature__ = signature.replace(parameters=[*signature.parameters.values(), keyword])  # type: ignore
    _ops[name] = cast(Op, chosen)
    return _ops[name]


@functools.cache
def _can_save_the_cache(forward: Callable[..., Any]) -> bool:
    """Whether a forward takes `cache=False` itself, because it can save work or memory by it."""
    return "cache" in inspect.signature(forward).parameters


def backward_of(forward: Op) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function the backward of `forward`: it runs the version whose forward made the cache."""
    name = forward.__name__

    def decorate(definition: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(definition)
        def backward(dy: Any, cache: Any, *args: Any, **kwargs: Any) -> Any:
            for version in _versions.get(name, ()):
                if type(cache) is version.cache_type:
                    return version.backward(dy, cache, *args, **kwargs)
            return definition(dy, cache, *args, **kwargs)

        forward.backward = backward
        return backward

    return decorate


def register(name: str, version: Version) -> None:
    """Offer a tuned version of op `name`. Its cache type is its own: it tells the backward whose cache it holds."""
    taken = [v for v in _versions.get(name, ()) if v.name == version.name or v.cache_type is version.cache_type]
    if taken:
        raise ValueError(f"{name}: version {taken[0].name!r} has this name or cache type already; each needs its own")
    _versions.setdefault(name, []).append(version)


def problem(check: Callable[..., Any], *args: Any, **options: Any) -> str | None:
    """What `check` raises for these arguments, None where nothing: the reason to leave a call to the definition."""
    try:
        check(*args, **options)
    except (TypeError, ValueError) as error:
        return str(error)
    return None


def registered() -> Mapping[str, Op]:
    """All ops by name, in the order in which their modules were imported."""
    return MappingProxyType(_ops)


def versions(name: str) -> tuple[Version, ...]:
    """The tuned versions of op `name`, in the order in which they are asked."""
    _load_tuned_versions()
    return tuple(_versions.get(name, ()))


@contextmanager
def reference() -> Iterator[None]:
    """Within this block every op runs its definition. Caches made outside keep their own backward."""
    token = _forced.set(True)
    try:
        yield
    finally:
        _forced.reset(token)


def which(name: str, *args: Any, **kwargs: Any) -> str:
    """Which version of op `name` would run for these arguments, and why each version before it would not."""
    offered = versions(name)
    kwargs.pop("cache", None)  # chooses nothing
    if name not in _ops:
        raise ValueError(f"op {name!r} is unknown; known are {', '.join(sorted(_ops))}")
    if _forced.get():
        return f"{name}: definition (inside minilm.reference())"
    lines, chosen = [], None
    for version in offered:
        reason = version.refuses(*args, **kwargs)
        if reason is None:
            chosen = version.name
            break
        lines.append(f"  not {version.name}: {reason}")
    why = "" if chosen or lines else " (no tuned version is registered)"
    return "\n".join([f"{name}: {chosen or 'definition'}{why}", *lines])
