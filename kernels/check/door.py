"""Who goes through the kernels' door: each request for a kernel, seen on its way.

    with watching(lambda request, compiled: compiled): ...

`compiled` makes the kernel (a call of `launch.kernel`); what the function returns is what the launcher gets. So
launches can be timed, counted, or not done at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from minilm.kernels.cuda import launch


class Request(NamedTuple):
    """One kernel as a launcher asks for it. Equal requests are compiled once."""

    file: str
    entry: str
    defines: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        return f"{Path(self.file).name}:{self.entry}"


@contextmanager
def watching(seen: Callable[[Request, Callable[[], launch.Kernel]], launch.Kernel]) -> Iterator[None]:
    """Within this block `seen(request, compiled)` answers every request of the launchers."""
    original = launch.kernel

    def kernel(file: str | Path, name: str, defines: Mapping[str, Any], like: Any) -> launch.Kernel:
        options = tuple(sorted((key, str(value)) for key, value in defines.items()))
        return seen(Request(str(file), name, options), lambda: original(file, name, defines, like))

    launch.kernel = kernel
    try:
        yield
    finally:
        launch.kernel = original


def requests_of(run: Callable[[], Any]) -> set[Request]:
    """The kernels that `run` asks for on NumPy arrays. None is compiled, none is run: results hold anything."""
    found: set[Request] = set()

    def note(request: Request, compiled: Callable[[], launch.Kernel]) -> launch.Kernel:
        found.add(request)
        return lambda *args, **keywords: None

    with watching(note):
        run()
    return found
