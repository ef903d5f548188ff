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
]  # fmt: skip


@pytest.mark.parametrize("scenario", sorted({bug.scenario for bug in BUGS}))
def test_kernels_without_a_bug_pass_the_scenarios(scenario):
    assert_right(SCENARIOS[scenario]())


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
