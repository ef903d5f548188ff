"""The inputs that all variants of a workload share, so that they can change, alike, while times are taken.

A result that was computed before, kept, or left from another call belongs to other inputs than those at hand, and is
seen to be wrong. Shifting keeps the distribution of the numbers, needs no random draw, and is done where an array lies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from minilm.backend import array_namespace


class Copy(NamedTuple):
    """Another library's copy of a shared array."""

    library: str
    read: Callable[[], Any]  # the array of that library
    shift: Callable[[int], None]


class Shared:
    """One array, what it held at first, and how far it has been shifted."""

    def __init__(self, array: Any) -> None:
        self.array, self.first, self.steps = array, array.copy(), 0
        self.copies: list[Copy] = []

    def expected(self) -> Any:
        return rolled(self.first, self.steps)


class Inputs:
    """All arrays that the variants of one workload read."""

    def __init__(self) -> None:
        self.shared: list[Shared] = []

    def share(self, array: Any) -> Any:
        """List an array of NumPy or CuPy, and return it."""
        self.shared.append(Shared(array))
        return array

    def follow(self, array: Any, copy: Copy) -> None:
        """`copy` holds what `array` holds, if that is a shared one, and changes with it."""
        for shared in self.shared:
            if shared.array is array:
                shared.copies.append(copy)

    def follow_torch(self, torch: Any, array: Any, tensor: Any) -> Any:
        """Returns the tensor, PyTorch's copy of the array."""

        def shift(steps: int) -> None:
            with torch.no_grad():
                tensor.copy_(torch.roll(tensor.reshape(-1), steps).reshape(tensor.shape))

        self.follow(array, Copy("torch", lambda: tensor, shift))
        return tensor

    def follow_jax(self, jax: Any, array: Any, held: list[Any], place: int) -> None:
        """held[place] is JAX's copy of the array: JAX's arrays never change, so that the list gets another."""

        def shift(steps: int) -> None:
            array = held[place]
            held[place] = jax.block_until_ready(jax.numpy.roll(array.reshape(-1), steps)).reshape(array.shape)

        self.follow(array, Copy("jax", lambda: held[place], shift))

    def shift(self, steps: int) -> None:
        """Move the numbers of every array, and of its copies, so many places on, around the end."""
        for shared in self.shared:
            shared.steps += steps
            shared.array[...] = shared.expected()
            for copy in shared.copies:
                copy.shift(steps)

    def arrays(self) -> list[Any]:
        """All arrays and copies."""
        return [array for shared in self.shared for array in (shared.array, *(copy.read() for copy in shared.copies))]

    def written(self, adopt: Callable[[Any], Any]) -> str | None:
        """The input that does not hold its numbers, in words. `adopt` gives a copy as an array of the first library."""
        for number, shared in enumerate(self.shared, 1):
            expected = adopt(shared.expected())
            for library, array in (("", shared.array), *((c.library, c.read()) for c in shared.copies)):
                if not bool((adopt(array) == expected).all()):
                    named = f"input {number}, {'x'.join(map(str, shared.array.shape)) or 'a number'}"
                    return f"{named} ({library}'s copy)" if library else named
        return None


def rolled(array: Any, steps: int) -> Any:
    """The numbers of an array moved so many places on, around the end, through all rows."""
    bits = array.view("uint16") if array.dtype.name == "bfloat16" else array
    moved = array_namespace(bits).roll(bits.reshape(-1), steps % max(1, bits.size)).reshape(array.shape)
    return moved.view(array.dtype)
