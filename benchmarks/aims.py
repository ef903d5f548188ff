"""The aims of the NumPy path: least ratios to PyTorch's time, with 1 and with 2 CPU threads, in float32.

They were set from the fastest NumPy texts known for each workload, measured on an Intel CPU with AVX-512, whose matrix
products are as fast in NumPy as in PyTorch. The tables of `report` show each beside what was measured, and a miss in
percent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.report import TimedRow

PEER, DTYPE = "torch", "float32"
LEAST = {  # workload, size, phase: the ratio by number of threads
    ("softmax", "4096 x 1024", "forward"): {1: 0.7, 2: 1.0},
    ("softmax", "4096 x 1024", "backward"): {1: 0.5, 2: 0.6},
    ("layer_norm", "4096 x 512", "both"): {1: 0.35, 2: 0.3},
    ("gelu", "2048 x 2048", "both"): {1: 0.3, 2: 0.2},
    ("gelu-tanh", "2048 x 2048", "both"): {1: 1.0, 2: 0.6},
    ("cross_entropy", "1024 x 10000", "both"): {1: 5.0, 2: 4.5},
    ("embedding", "4096 ids of 10000 x 256", "both"): {1: 1.4, 2: 1.1},
    ("attention", "B8 H6 T256 D64 causal", "both"): {1: 1.0, 2: 1.0},
    ("rnn", "B32 T100 256 -> 512", "both"): {1: 1.0, 2: 1.1},
    ("lstm", "B32 T100 256 -> 512", "both"): {1: 0.85, 2: 1.0},
    ("gru", "B32 T100 256 -> 512", "both"): {1: 0.95, 2: 1.25},
    ("gpt-step", "4 x 4 x 128, T64, B12", "call"): {1: 0.95, 2: 0.95},
    ("classifier-step", "B32 T100", "call"): {1: 1.15, 2: 1.2},
    ("gpt-step-large", "6 x 6 x 384, T256, B8", "call"): {1: 1.0, 2: 1.0},
    ("generate", "12 x 12 x 768, 8 tokens after 128, vocabulary 50257", "call"): {1: 1.07, 2: 1.6},
}
LAYERS = ("attention", "embedding", "lstm", "gru", "rnn", "cross_entropy")
WHOLES = (*LAYERS, "gpt-step", "gpt-step-large", "classifier-step", "generate")  # their geometric mean has its own aim
LEAST_MEAN = 1.2


def aim_of(row: TimedRow) -> float | None:
    """The least ratio that `row` should reach, None where there is none."""
    if row.against != PEER or row.dtype != DTYPE:
        return None
    return LEAST.get((row.workload, row.size, row.phase), {}).get(row.threads)


def phases_of(row: TimedRow) -> list[str]:
    """The phases of the row's workload that have an aim."""
    return [phase for workload, size, phase in LEAST if (workload, size) == (row.workload, row.size)]


def mean_of_wholes(rows: Sequence[TimedRow]) -> float | None:
    """The geometric mean of the ratios of all layers and steps; None unless every one is there, once."""
    ratios = {row.workload: row.ratio for row in rows if row.workload in WHOLES and aim_of(row) is not None}
    return math.prod(ratios.values()) ** (1 / len(WHOLES)) if len(ratios) == len(WHOLES) else None


def beside(ratio: float, aim: float | None) -> str:
    """`ratio` as a cell of a table, with the aim in brackets and the percentage by which it is missed."""
    if aim is None:
        return f"{ratio:.2f}"
    if ratio >= aim:
        return f"{ratio:.2f} ({aim:.2f})"
    return f"{ratio:.2f} ({aim:.2f}: −{math.ceil(100 * (1 - ratio / aim))} %)"
