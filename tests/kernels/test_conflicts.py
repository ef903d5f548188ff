"""No two lanes of a phase meet in a bank of shared memory, in any kernel or head size; or it is accepted, and why."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pytest

from minilm.kernels.cuda.attention import attention, attention_backward
from minilm.kernels.cuda.decode import attention_decode
from minilm.kernels.cuda.softmax import softmax
from tests.kernels.planting import planted
from tests.kernels.recording import ACCESS, KINDS, Place, places, problem, recorded, wavefronts
from tests.kernels.toys import N, run

needs_recording = pytest.mark.skipif(problem() is not None, reason=f"needs a record of accesses: {problem()}")


def sizes(*quick: tuple[int, str], also: Sequence[tuple[int, str]]) -> list:
    """(head size, dtype): those of every run, and those of `pytest -m full`."""
    return [*quick, *(pytest.param(*pair, marks=pytest.mark.full) for pair in also if pair not in quick)]


def every_head_size(dtype: str) -> list[tuple[int, str]]:
    return [(D, dtype) for D in range(16, 129, 8)]


class Accepted(NamedTuple):
    """A conflict that is no fault. row: bytes of a row of the tile, D times the size of an element."""

    kernel: str  # a regular expression on file:entry
    kind: str
    bytes: tuple[int, ...]
    wavefronts: int
    where: Callable[[int], bool]
    reason: str


ACCEPTED = [
    Accepted(
        "^attention_tensor_core", "cp.async", (16,), 2, lambda row: row <= 64,
        "8 lanes copy two rows or more, and so short rows don't fill the banks; nobody waits for a copy's stores",
    ),
    Accepted(
        r"^attention\.cu", "write", (16,), 2, lambda row: row % 128 != 0,
        "8 lanes write across the end of a row, and its padding lies between them: once for each tile",
    ),
    Accepted(
        r"^attention\.cu", "read", (16,), 2, lambda row: row > 128 and row % 256 != 0,
        "lanes without a vector of the sums of their own repeat vector 0, which lies in the banks of vector 8",
    ),
    Accepted(
        r"^attention\.cu", "write", (4, 8), 2, lambda row: True,
        "the weights of two groups of rows may meet: each is written once, and read for every column of the values",
    ),
    Accepted(
        "^attention_decode", "write", (4, 8), 8, lambda row: True,
        "once for each block: the query when it begins, and the warps' sums when it ends",
    ),
]  # fmt: skip


def conflicts(found: Sequence[Place], row: int) -> list[str]:
    """The places that need more wavefronts than are accepted, one line each."""
    lines = []
    for place in found:
        reasons = [
            accepted.wavefronts
            for accepted in ACCEPTED
            if re.search(accepted.kernel, place.kernel)
            and (accepted.kind, place.bytes in accepted.bytes, accepted.where(row)) == (place.kind, True, True)
        ]
        if place.wavefronts > max(reasons, default=1):
            lines.append(
                f"{place.kernel}, {place.line}: {place.kind} of {place.bytes} bytes per lane takes {place.wavefronts} "
                f"wavefronts per phase; {max(reasons, default=1)} would do"
            )
    return lines


def uses(found: Sequence[Place]) -> set[tuple[str, str]]:
    return {(place.kernel.partition(":")[2], place.kind) for place in found}


def attention_places(D: int, dtype: str, T: int, **options) -> list[Place]:
    """Of forward and backward, over T queries and keys: whole tiles, so that every lane takes every turn."""
    rng = np.random.default_rng(D)
    q, k, v, do = (rng.standard_normal((1, 1, T, D)).astype(dtype) for _ in range(4))
    with recorded() as launches:
        _, cache = attention(q, k, v, **options)
        attention_backward(do, cache)
    return places(launches)


# ---- the kernels -----------------------------------------------------------------------------------------------------

ENTRIES = ("attention_forward", "attention_dkdv", "attention_dq")
TENSOR_CORES = {
    *(("attention_forward", kind) for kind in KINDS),
    *(("attention_backward_dkdv", kind) for kind in KINDS if kind != "write"),
    *(("attention_backward_dq", kind) for kind in ("ldmatrix", "cp.async")),
}


@needs_recording
@pytest.mark.parametrize(
    ("D", "dtype"), sizes(*((D, "float16") for D in (16, 40, 64, 128)), also=every_head_size("float16"))
)
def test_attention_on_tensor_cores(D, dtype):
    found = attention_places(D, dtype, 128)
    assert uses(found) >= TENSOR_CORES
    assert conflicts(found, 2 * D) == []


@needs_recording
@pytest.mark.parametrize("D", [64, 128])
def test_attention_on_tensor_cores_with_options(D):
    """Other shapes of tiles and warps, and fragments that are parked in shared memory."""
    found = attention_places(D, "float16", 128, mask=np.ones((128, 128), bool), bias=np.zeros((128, 128), np.float16))
    assert uses(found) >= TENSOR_CORES
    assert conflicts(found, 2 * D) == []


@needs_recording
@pytest.mark.parametrize(
    ("D", "dtype"),
    sizes(
        *((D, "float32") for D in (16, 40, 64, 128, 256)),
        (40, "float64"),
        also=[*every_head_size("float32"), (16, "float64"), (128, "float64")],
    ),
)
def test_exact_attention(D, dtype):
    row = D * np.dtype(dtype).itemsize
    found = attention_places(D, dtype, 64 if row <= 256 else 32)
    assert uses(found) == {(entry, kind) for entry in ENTRIES for kind in ("read", "write")}
    assert conflicts(found, row) == []


@needs_recording
@pytest.mark.parametrize(
    ("D", "dtype"),
    sizes(
        *((D, "float16") for D in (16, 64, 256)),
        (40, "float32"),
        also=[*every_head_size("float16"), (128, "float32"), (256, "float32")],
    ),
)
def test_decode_attention(D, dtype):
    q, k = np.ones((1, 8, D), dtype), np.ones((1, 1, 256, D), dtype)
    with recorded() as launches:
        attention_decode(q, k, k, splits=1)
    found = places(launches)
    assert uses(found) == {("attention_decode_split", "read"), ("attention_decode_split", "write")}
    assert conflicts(found, D * k.itemsize) == []


@needs_recording
def test_reductions_of_rows():
    with recorded() as launches:
        softmax(np.ones((1, 8000), np.float32))
    assert uses(places(launches)) == {("softmax_forward", "read"), ("softmax_forward", "write")}
    assert conflicts(places(launches), 0) == []


# ---- planted bugs ----------------------------------------------------------------------------------------------------

BUGS = {
    "swizzle removed": (
        "attention_tensor_core.cu", ("return chunk ^ (row / (8 / FIELD) & (FIELD - 1));", "return chunk;"),
        "float16", r"attention_forward, .*: ldmatrix of 16 bytes per lane takes 8 wavefronts per phase; 1 would do",
    ),
    "rows without the empty chunk": (
        "attention_tensor_core_backward.cu", ("STRIDE = (2 * STEPS + 1) * 16;", "STRIDE = 2 * STEPS * 16;"),
        "float16",
        r"attention_backward_dkdv, .*: ldmatrix of 16 bytes per lane takes 8 wavefronts per phase; 1 would do",
    ),
    "exact rows without padding": (
        "attention.cu", ("constexpr int STRIDE = D + W;", "constexpr int STRIDE = D;"),
        "float32", r"attention_dq, .*: read of 16 bytes per lane takes 8 wavefronts per phase; 1 would do",
    ),
}  # fmt: skip


@needs_recording
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_conflict_is_named_with_its_degree(bug):
    file, replacement, dtype, says = BUGS[bug]
    with planted(file, [replacement]):
        lines = conflicts(attention_places(64, dtype, 128 if dtype == "float16" else 64), 64 * np.dtype(dtype).itemsize)
    assert any(re.search(says, line) for line in lines), lines


# ---- recording and counting ------------------------------------------------------------------------------------------


def degree(addresses, size: int) -> int:
    """Of one access by a warp."""
    lanes = np.arange(len(addresses))
    accesses = np.array([(7, address, lane, size, 0) for lane, address in zip(lanes, addresses, strict=True)], ACCESS)
    return wavefronts(accesses)[1].max()


@pytest.mark.parametrize(
    ("addresses", "size", "expected"),
    [
        (4 * np.arange(32), 4, 1),
        (8 * np.arange(32), 4, 2),
        (128 * np.arange(32), 4, 32),
        (np.zeros(32, int), 4, 1),  # one word goes to all
        (np.arange(32), 1, 1),
        (8 * np.arange(32), 8, 1),  # half a warp at a time
        (16 * np.arange(32), 16, 1),  # a quarter
        (128 * np.arange(32), 16, 8),
        (144 * np.arange(32), 16, 1),  # a row of 8 chunks, and one that is empty
        (80 * np.arange(5), 16, 1),  # lanes that take no part
    ],
)
def test_wavefronts(addresses, size, expected):
    assert degree(addresses, size) == expected


@needs_recording
def test_accesses_of_a_toy_are_recorded(toy):
    """A struct of 16 bytes is one access, each turn of a loop is counted for itself, other memory is left out."""
    body = """
    __shared__ float4 wide[32];
    extern __shared__ float narrow[];
    for (int i = 0; i < 2; i++) narrow[threadIdx.x * (i ? 8 : 1)] = x[threadIdx.x];
    wide[threadIdx.x] = make_float4(1, 2, 3, 4);
    __syncthreads();
    const float4 read = wide[threadIdx.x ^ 1];
    y[threadIdx.x] = read.x + narrow[threadIdx.x];
    """
    with recorded() as launches:
        run(toy(body), n=32, threads=32, shared_mem=4 * 8 * 32, x=np.ones(N, np.float32))
    ((_, accesses),) = launches
    assert len(accesses) == 32 * (2 + 1 + 1 + 1)
    seen = sorted((place.kind, place.bytes, place.wavefronts) for place in places(launches))
    assert seen == [("read", 4, 1), ("read", 16, 1), ("write", 4, 8), ("write", 16, 1)]
