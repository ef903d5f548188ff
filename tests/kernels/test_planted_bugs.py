"""The lanes prove themselves on the real kernels: each of these bugs, planted in a source by its exact text, is caught.

numeric          the result leaves the float64 definition, or is NaN
order            the bits depend on the order of the threads
error            the CPU run names it: a KernelError with the place
thread, address  a sanitizer names it, though the result is right
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from minilm.kernels.host import KernelError, host_options
from minilm.kernels.host.sanitize import run_sanitized, runtime
from tests.kernels.planting import SANITIZED, SCENARIOS, assert_right, planted

pytestmark = pytest.mark.usefixtures("host_run")
SANITIZERS = {"thread": "thread", "address": "address,undefined"}


class Bug(NamedTuple):
    """old -> new, in turns, in `file`; caught by `lane` in `scenario`, with `says` in its words."""

    name: str
    lane: str
    scenario: str
    file: str
    replaced: tuple[str, ...]
    says: str = ""

    @property
    def replacements(self) -> list[tuple[str, str]]:
        return list(zip(self.replaced[::2], self.replaced[1::2], strict=True))


TENSOR, BACKWARD, EXACT = "attention_tensor_core.cu", "attention_tensor_core_backward.cu", "attention.cu"

# The next tile's copies are issued before the barrier that the tile before is waited for with.
EARLY_COPY = (
    "wait_copies<0>();\n        __syncthreads();  // this tile has landed, and nobody reads the one before any more\n"
    "        if (!EDGE || col0 + BC < end()) load(col0 + BC, stage ^ 1, edge);\n        commit_copies();",
    "if (!EDGE || col0 + BC < end()) load(col0 + BC, stage ^ 1, edge);\n        commit_copies();\n"
    "        wait_copies<1>();\n        __syncthreads();",
)

BUGS = [
    Bug(
        "missing __syncthreads", "numeric", "softmax", "softmax.cu",
        ("partial[threadIdx.x / 32] = value;\n        __syncthreads();", "partial[threadIdx.x / 32] = value;"),
    ),
    Bug(
        "missing __syncthreads at the end of a tile", "thread", "tensor cores", TENSOR,
        (
            "commit_copies();\n        wait_copies<1>();\n        __syncthreads();",
            "commit_copies();\n        wait_copies<1>();",
        ),
        "data race",
    ),
    Bug(
        "missing __syncwarp", "numeric", "exact, backward", EXACT,
        ("__syncwarp();  // the lanes of a row are in one warp", ""),
    ),
    Bug(
        "missing __syncwarp, result right", "thread", "cross-entropy in place", "cross_entropy.cu",
        ("if (WARPS == 1) __syncwarp();", ""),
        "data race",
    ),
    Bug(
        "off by one at the ragged tile", "numeric", "exact", EXACT,
        ("if (i >= Tq || j >= keys ||", "if (i >= Tq || j > keys ||"),
    ),
    Bug(
        "off by one in a load, result right", "address", "exact", EXACT,
        ("if (first + r < rows) v =", "if (first + r <= rows) v ="),
        "use-after-poison",
    ),
    Bug(
        "missing wait for a copy", "numeric", "tensor cores", TENSOR,
        ("wait_copies<1>();\n        __syncthreads();                                                     // V(j) is",
         "__syncthreads();                                                     // V(j) is"),
    ),
    Bug(
        "wrong swizzle", "numeric", "tensor cores", TENSOR,
        ("place(k_row, 2 * i + (lane >> 3 & 1))", "place(k_row + 1, 2 * i + (lane >> 3 & 1))"),
    ),
    Bug(
        "wrong fragment lane", "numeric", "tensor cores, backward", BACKWARD,
        ("m * 16 + (lane >> 2) + 8 * (i & 1), d = k", "m * 16 + (lane >> 2) + 8 * (i >> 1), d = k"),
    ),
    Bug(
        "the last thread to write wins", "order", "blind rows", TENSOR,
        ("if (row0 + row < TQ && (lane & 3) == 0)", "if (row0 + row < TQ)",
         "return x + __shfl_xor_sync(~0u, x, 2);", "return x + __shfl_down_sync(~0u, x, 2);"),
    ),
    Bug(
        "unmasked tail in backward", "numeric", "tensor cores, low scores", BACKWARD,
        ("if (!DKDV) visible = dc < keys_left;", "if (!DKDV) visible = true;"),
    ),
    Bug(
        "LSE of a blind row is -inf", "numeric", "blind rows", TENSOR,
        ("+ log2f(l) : infinity();", "+ log2f(l) : -infinity();"),
    ),
    Bug(
        "dropout mask depends on the tile", "numeric", "dropout on tensor cores", TENSOR,
        ("column0 + 8 * n + 2 * (lane & 3), threshold)", "8 * n + 2 * (lane & 3), threshold)"),
    ),
    Bug(
        "misaligned vector", "error", "decode", "attention_decode.cu",
        ("+ chunk * VECTOR;\n    const Element* key", "+ chunk * VECTOR + 1;\n    const Element* key"),
        r"attention_decode.cu:\d+: misaligned",
    ),
    Bug(
        "out-of-bounds shared memory", "error", "tensor cores", TENSOR,
        ("v_tile = k_tile + 2 * STAGE;", "v_tile = k_tile + 3 * STAGE;"),
        r"attention_tensor_core.cu:\d+: out of bounds: thread \d+ uses shared memory",
    ),
    Bug(
        "out-of-bounds write", "error", "decode", "attention_decode.cu",
        ("if (out_row >= all_heads) return;", ""),
        r"out of bounds: the kernel writes at byte \d+ of an array|isn't mapped",
    ),
    Bug(
        "hidden values are weighted 0, not left out", "numeric", "decode", "attention_decode.cu",
        ("if (MASKED && (hidden >> (u * HEADS + h) & 1)) continue;", ""),
    ),
    Bug(
        "race with a right result", "thread", "softmax", "softmax.cu",
        ("if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;", "partial[threadIdx.x / 32] = value;"),
        "data race",
    ),
    Bug(
        "barrier that not all threads reach", "error", "softmax", "softmax.cu",
        ("partial[threadIdx.x / 32] = value;\n        __syncthreads();",
         "partial[threadIdx.x / 32] = value;\n        if (threadIdx.x != 7) __syncthreads();"),
        r"rows.cuh:\d+: d\w+",
    ),
    # What reaches a tile too early, too late, or not at all.
    Bug(
        "copy before the last readers have passed", "numeric", "tensor cores, tiles, dq", BACKWARD, EARLY_COPY,
    ),
    Bug(
        "copy before the last readers have passed, named", "thread", "tensor cores, tiles, dq", BACKWARD, EARLY_COPY,
        "data race",
    ),
    Bug(
        "copy into the stage that is read", "numeric", "tensor cores, tiles", TENSOR,
        ("(k_tile, copy_to + next, k_next, rows_left);", "(k_tile, copy_to + stage, k_next, rows_left);"),
    ),
    Bug(
        "missing commit", "numeric", "tensor cores, tiles", TENSOR,
        ("k_next += COLUMNS * D;\n        commit_copies();", "k_next += COLUMNS * D;"),
    ),
    Bug(
        "wait for one group too few", "numeric", "tensor cores, tiles", TENSOR,
        ("wait_copies<1>();\n        __syncthreads();                                                     // V(j) is",
         "wait_copies<2>();\n        __syncthreads();                                                     // V(j) is"),
    ),
    Bug(
        "wait for one group too few in backward", "numeric", "tensor cores, tiles, dq", BACKWARD,
        ("wait_copies<0>();\n        __syncthreads();", "wait_copies<1>();\n        __syncthreads();"),
    ),
    Bug(
        "barrier before the wait", "numeric", "tensor cores, tiles, dq", BACKWARD,
        ("wait_copies<0>();\n        __syncthreads();", "__syncthreads();\n        wait_copies<0>();"),
    ),
    Bug(
        "missing barrier before a tile is overwritten", "numeric", "exact, tiles", EXACT,
        ("__syncthreads();  // the keys have been read, and the weights are written", ""),
    ),
    Bug(
        "missing barrier after the last reads of a tile", "thread", "exact, tiles, backward", EXACT,
        ("__syncthreads();  // the columns of the tile before have been read", ""),
        "data race",
    ),
    Bug(
        "stages do not alternate", "numeric", "tensor cores, tiles, dq", BACKWARD,
        ("stage ^= 1;\n    };", "};"),
    ),
    # What is read past the end, is finite or NaN there, and counts.
    Bug(
        "hot tile one too many in backward", "numeric", "tensor cores, tiles, dq", BACKWARD,
        ("return col0 + 2 * BC <= (DKDV ? cols : keys);", "return col0 + BC <= (DKDV ? cols : keys);"),
    ),
    Bug(
        "hot tile one too many", "numeric", "tensor cores, tiles", TENSOR,
        ("keys / COLUMNS - 1);", "keys / COLUMNS);"),
    ),
    Bug(
        "whole tile one key too long", "numeric", "exact, tiles", EXACT,
        ("return plain && end <= keys &&", "return plain && end <= keys + 31 &&"),
    ),
    Bug(
        "length is the capacity", "numeric", "decode, tiles", "attention_decode.cu",
        ("max(0, min(key_lengths[b], capacity)) : capacity;", "capacity : capacity;"),
    ),
    Bug(
        "causal tiles end one key too soon", "numeric", "tensor cores, tiles, causal", TENSOR,
        ("min(keys, row0 + QUERIES + ahead)", "min(keys, row0 + QUERIES + ahead - 1)"),
    ),
    # What nobody has written.
    Bug(
        "sums that start with what the registers hold", "numeric", "tensor cores, tiles, dq", BACKWARD,
        ("    clear<D, MT>(sum1);\n", ""),
    ),
    # Lanes that don't arrive, and a wrong formula.
    Bug(
        "shuffle that rows past the end leave out", "error", "tensor cores", TENSOR,
        ("const float l = sum_of_row(total[m][half]);", "",
         "+ 8 * half;\n            if (row0 + row < TQ && (lane & 3) == 0)",
         "+ 8 * half;\n            const float l = row0 + row < TQ ? sum_of_row(total[m][half]) : 0.0f;\n"
         "            if (row0 + row < TQ && (lane & 3) == 0)"),
        r"deadlock: thread \d+ waits in a warp operation",
    ),
    Bug(
        "LSE with the natural logarithm", "numeric", "tensor cores, backward", TENSOR,
        ("peak[m][half] * unit + log2f(l)", "peak[m][half] * unit + logf(l)"),
    ),
    Bug(
        "rows past the end are stored", "error", "tensor cores, tiles, dq", BACKWARD,
        ("if (r < rows)\n                #pragma unroll", "#pragma unroll"),
        r"out of bounds: the kernel writes at byte \d+ of an array",
    ),
]  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_kernels_without_a_bug_pass_the_scenarios(scenario, in_all_orders):
    def run():
        pairs = SCENARIOS[scenario]()
        assert_right(pairs)
        return tuple(result for result, _ in pairs)

    in_all_orders(run)


@pytest.mark.parametrize("bug", BUGS, ids=[bug.name.replace(" ", "-") for bug in BUGS])
def test_a_planted_bug_is_caught(bug):
    scenario = SCENARIOS[bug.scenario]
    if bug.lane in SANITIZERS:
        sanitizer = SANITIZERS[bug.lane]
        if runtime(sanitizer) is None:
            pytest.skip(f"the runtime of sanitizer {sanitizer!r} isn't installed")
        root = str(Path(__file__).parents[2])
        texts = [text for pair in bug.replacements for text in pair]
        outcome = run_sanitized(sanitizer, SANITIZED, root, bug.file, bug.scenario, *texts)
        assert not outcome.clean and bug.says in outcome.report, outcome.report
        assert "Traceback" not in outcome.report, outcome.report
        return
    with planted(bug.file, bug.replacements):
        if bug.lane == "error":
            with pytest.raises(KernelError) as caught:
                scenario()
            assert re.search(bug.says, str(caught.value)), caught.value
        elif bug.lane == "order":
            bits = []
            for order in ("forward", "reverse"):
                with host_options(order=order):
                    bits.append([result.tobytes() for result, _ in scenario()])
            assert bits[0] != bits[1]
        else:
            with pytest.raises(AssertionError):
                assert_right(scenario())


def test_a_bug_whose_text_is_gone_is_an_error():
    with pytest.raises(LookupError, match="0 times"), planted("softmax.cu", [("no such text", "")]):
        pass
