"""Guard zones: the arrays of a launch are copied between zones that nobody may touch, and back.

    [ zone: NaN ][ array ][ zone: NaN ]        a zone: 128 rows of the array, as many as a block of any kernel has

What is read there by mistake is NaN, and shows in the result; what is written there is found after the launch, and
named. Under AddressSanitizer a read is named too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import numpy as np

TILE_ROWS = 128  # of the largest tile
LEAST, MOST = 1024, TILE_ROWS * 256 * 8  # bytes of a zone; at most 128 rows of the widest head, in float64
ALIGNMENT = 16  # of a NumPy array's first byte, and kept by the copy: misalignment must show
# Signalling NaN: arithmetic changes their bits, so that a result made of them, written to a zone, is no zone's pattern.
NAN_BITS = {
    "float16": np.uint16(0x7DFF),
    "bfloat16": np.uint16(0x7FBF),
    "float32": np.uint32(0x7FBFFFFF),
    "float64": np.uint64(0x7FF7FFFFFFFFFFFF),
}
NO_INDEX = 0x80  # each byte of an integer: negative, no length, no class, and an address that isn't mapped


class KernelError(RuntimeError):
    """A kernel did on the CPU what is undefined on a GPU: the message says what, and where in the source."""


def zone_bytes(array: np.ndarray) -> int:
    """How long the zones around an array are."""
    row = array.itemsize * (array.shape[-1] if array.ndim else 1)
    return -(-min(max(TILE_ROWS * row, LEAST), MOST) // ALIGNMENT) * ALIGNMENT


@functools.cache
def _pattern(dtype: np.dtype) -> np.ndarray:
    """The bytes of more elements than a zone holds."""
    element = NAN_BITS[dtype.name].tobytes() if dtype.name in NAN_BITS else bytes([NO_INDEX]) * dtype.itemsize
    return np.frombuffer(element * ((MOST + 2 * ALIGNMENT) // len(element) + 2), np.uint8)


class GuardedArrays:
    """The arrays of one launch. `tell` is called with address, bytes and 1 or 0 as a zone begins and ends to be one."""

    def __init__(self, guarded: bool, tell: Callable[[int, int, int], None]):
        self.guarded, self.tell = guarded, tell
        self.copies: dict[tuple[int, int], tuple[np.ndarray, np.ndarray, int, str]] = {}

    def address(self, array: np.ndarray, where: str) -> int:
        """Where the kernel finds the array. ValueError if it shares memory with another, but is not the same."""
        start, size = array.ctypes.data, array.nbytes
        for (other, length), (first, _, _, named) in self.copies.items():
            if (other, length) == (start, size):
                break
            if other < start + size and start < other + length and first.size and size:
                raise ValueError(f"{where} overlaps the array of {named}")
        else:
            self.copies[start, size] = (array, *self._copy(array), where)
        _, buffer, offset, _ = self.copies[start, size]
        return buffer.ctypes.data + offset if self.guarded else start

    def _copy(self, array: np.ndarray) -> tuple[np.ndarray, int]:
        if not self.guarded:
            return np.empty(0, np.uint8), 0
        zone = zone_bytes(array)
        buffer = np.empty(array.nbytes + 2 * zone + 2 * ALIGNMENT, np.uint8)
        offset = zone + (array.ctypes.data - buffer.ctypes.data - zone) % ALIGNMENT
        buffer[offset : offset + array.nbytes] = array.reshape(-1).view(np.uint8)
        for place, _, untouched in self._zones(array, buffer, offset):
            place[...] = untouched
        return buffer, offset

    @staticmethod
    def _zones(array: np.ndarray, buffer: np.ndarray, offset: int) -> Iterator[tuple[np.ndarray, int, np.ndarray]]:
        """Both zones: the bytes, the first one's distance from the array's first, and what an untouched zone holds."""
        for place, start in ((buffer[:offset], -offset), (buffer[offset + array.nbytes :], array.nbytes)):
            yield place, start, _pattern(array.dtype)[start % array.itemsize :][: place.size]

    def mark(self, on: int) -> None:
        """Tell of every zone."""
        for array, buffer, offset, _ in self.copies.values() if self.guarded else ():
            for place, _, _ in self._zones(array, buffer, offset):
                self.tell(place.ctypes.data, place.nbytes, on)

    def check(self) -> None:
        """Copy the results back. KernelError if the kernel wrote where it has no business."""
        if not self.guarded:
            return
        for array, buffer, offset, where in self.copies.values():
            for place, start, untouched in self._zones(array, buffer, offset):
                touched = np.flatnonzero(place != untouched)
                if touched.size:
                    at = start + int(touched[0 if start >= 0 else -1])
                    raise KernelError(
                        f"{where}: out of bounds: the kernel writes at byte {at} of an array of {array.nbytes} bytes "
                        f"(element {at // array.itemsize} of {array.size})"
                    )
            result = buffer[offset : offset + array.nbytes].view(array.dtype).reshape(array.shape)
            if array.flags.writeable:
                array[...] = result
            elif array.tobytes() != result.tobytes():
                raise KernelError(f"{where}: the kernel writes to an array that is read-only")
