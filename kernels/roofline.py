"""The least time that each kernel's bytes and arithmetic take on a card: estimated, never measured.

    time >= max(bytes / bandwidth, operations / rate)

Bytes are what must cross the memory bus if every array is read or written once; operations are those of the textbook
algorithm (attention forward: two products, 4·Tq·Tk·D a head; backward: five; two kernels without atomics: seven). No
kernel reaches 100 % of both peaks. [Williams, Waterman & Patterson 2009]
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

from minilm.kernels.cuda.rows import ITEM_BYTES


class Card(NamedTuple):
    """Peak rates of one card, dense, as its maker states them."""

    name: str
    bandwidth: float  # bytes per second
    tensor: float  # operations per second, float16 products with float32 sums on tensor cores
    float32: float  # operations per second on the plain cores
    float64: float
    source: str


# Checked against published copies of NVIDIA's tables. Sparse rates, twice as high, are left out everywhere.
#   H100 SXM   "NVIDIA H100 Tensor Core GPU Architecture" (whitepaper): 989.4 dense float16, 66.9 float32, 33.5 float64;
#              the datasheet rounds them (1,979 sparse, 67, 34) and gives the bandwidth, 3.35 TB/s
#   A100 SXM   "NVIDIA A100 Tensor Core GPU" (datasheet, 80 GB SXM): 2,039 GB/s, 312, 19.5, 9.7
#   RTX 4090   "NVIDIA Ada GPU Architecture" (whitepaper 2.02, appendix A): 1008 GB/s, 165.2 for float16 products with
#              float32 sums (330.3 is with float16 sums), 82.6; float64 is 1/64 of float32
#   T4         "NVIDIA T4 Tensor Core GPU" (datasheet): 65 mixed precision, 8.1; it says 300 GB/s, while the memory
#              clock that the card reports (5,001 MHz, doubled, 256 bits) makes 320; float64 is 1/32 of float32
CARDS = (
    Card("H100 SXM", 3.35e12, 989.4e12, 66.9e12, 33.5e12, "NVIDIA H100 architecture whitepaper, H100 datasheet"),
    Card("A100 SXM 80GB", 2.039e12, 312e12, 19.5e12, 9.7e12, "NVIDIA A100 datasheet"),
    Card("RTX 4090", 1.008e12, 165.2e12, 82.6e12, 1.29e12, "NVIDIA Ada architecture whitepaper, appendix A"),
    Card("T4", 0.32e12, 65e12, 8.1e12, 0.25e12, "NVIDIA T4 datasheet; bandwidth from its memory clock"),
)

MEANING = "Estimated, not measured: the least time in µs at 100 % of the peak; m: bound by memory, a: by arithmetic"
PEAKS = "Peaks (dense), TB/s, TFLOP/s on tensor cores, in float32"


class Work(NamedTuple):
    """The bytes that one call moves, and its arithmetic."""

    name: str
    bytes: int
    operations: int
    dtype: str


def softmax(rows: int, columns: int, dtype: str = "float32", backward: bool = False) -> Work:
    """Rows of softmax: one read and one write; backward reads p and dp."""
    name = f"softmax {'backward' if backward else 'forward'} {rows} x {columns} {dtype}"
    elements = rows * columns
    return Work(name, (3 if backward else 2) * elements * ITEM_BYTES[dtype], (4 if backward else 5) * elements, dtype)


def cross_entropy(rows: int, columns: int, dtype: str = "float32") -> Work:
    """Loss and gradient in one kernel: one read of the logits, one write of their gradient."""
    elements = rows * columns
    moved = 2 * elements * ITEM_BYTES[dtype] + rows * (8 + 4)  # and a target and a loss a row
    return Work(f"cross-entropy, loss and gradient {rows} x {columns} {dtype}", moved, 6 * elements, dtype)


class Attention(NamedTuple):
    """The sizes of one attention call. B sequences, H heads over HKV key heads of size D, TQ queries, TK keys."""

    B: int
    H: int
    HKV: int
    TQ: int
    TK: int
    D: int
    causal: bool = False
    dtype: str = "float16"

    @property
    def visible(self) -> int:
        """Pairs of query and key that a head computes: with a causal mask key j <= i + TK - TQ."""
        if not self.causal:
            return self.TQ * self.TK
        first = self.TK - self.TQ + 1  # keys that the first query sees, if it sees any
        hidden = max(0, 1 - first)  # queries that see none
        seeing, low = self.TQ - hidden, max(first, 1)
        return seeing * (low + self.TK) // 2

    def arrays(self, queries: int, keys: int) -> int:
        """Bytes of `queries` arrays of the queries' shape and `keys` of the keys'."""
        return ITEM_BYTES[self.dtype] * self.B * self.D * (queries * self.H * self.TQ + keys * self.HKV * self.TK)

    def __str__(self) -> str:
        heads = f"{self.H}" if self.H == self.HKV else f"{self.H}/{self.HKV}"
        mask = "causal" if self.causal else "full"
        return f"B{self.B} H{heads} T{self.TQ}x{self.TK} D{self.D} {mask} {self.dtype}"


def attention_forward(size: Attention) -> Work:
    """Reads q, k, v, writes the output and a float32 LSE a query; two products."""
    statistics = 4 * size.B * size.H * size.TQ
    operations = 4 * size.B * size.H * size.visible * size.D
    return Work(f"attention forward {size}", size.arrays(2, 2) + statistics, operations, size.dtype)


def attention_backward(size: Attention, products: int = 5) -> Work:
    """Reads q, k, v, the output and its gradient, writes three gradients; `products` of a score tile's size."""
    statistics = 2 * 4 * size.B * size.H * size.TQ
    operations = 2 * products * size.B * size.H * size.visible * size.D
    name = f"attention backward {size}" + ("" if products == 5 else f", {products} products")
    return Work(name, size.arrays(4, 4) + statistics, operations, size.dtype)


def attention_decode(size: Attention) -> Work:
    """One query a sequence against its cache: the keys and values are read once."""
    operations = 4 * size.B * size.H * size.visible * size.D
    return Work(f"attention decode {size}", size.arrays(2, 2), operations, size.dtype)


def bound(work: Work, card: Card) -> tuple[float, str]:
    """The least seconds, and what decides: "memory" or "arithmetic". Half precision products run on tensor cores."""
    on_tensor_cores = ITEM_BYTES[work.dtype] == 2 and work.name.startswith("attention")
    rate = card.tensor if on_tensor_cores else card.float64 if work.dtype == "float64" else card.float32
    memory, arithmetic = work.bytes / card.bandwidth, work.operations / rate
    return max((memory, "memory"), (arithmetic, "arithmetic"))


def standard_work() -> list[Work]:
    """Sizes that the literature measures: 16k tokens, hidden size 2048."""
    works = [softmax(4096, N, backward=b) for b in (False, True) for N in (1024, 4096, 32768)]
    works += [cross_entropy(8192, V, dtype) for V, dtype in ((50304, "float32"), (50304, "bfloat16"))]
    for causal in (False, True):
        for T, H, D in ((1024, 32, 64), (4096, 32, 64), (4096, 16, 128)):
            size = Attention(16384 // T, H, H, T, T, D, causal)
            works += [attention_forward(size), attention_backward(size), attention_backward(size, products=7)]
    works += [attention_decode(Attention(16, 32, HKV, 1, 8192, 128)) for HKV in (32, 8)]
    return works


def rows(works: list[Work]) -> list[list[str]]:
    """A head, and one row per call with one column per card: microseconds, and m(emory) or a(rithmetic)."""
    found = [["call", "MB", "GFLOP", *(card.name for card in CARDS)]]
    for work in works:
        times = []
        for card in CARDS:
            seconds, why = bound(work, card)
            shown = f"{seconds * 1e6:.0f}" if seconds >= 1e-5 else f"{seconds * 1e6:.1f}"
            times.append(f"{shown} {why[0]}")
        found.append([work.name, f"{work.bytes / 1e6:.1f}", f"{work.operations / 1e9:.1f}", *times])
    return found


def table(works: list[Work]) -> str:
    """`rows` as Markdown."""
    head, *rest = rows(works)
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---", *["---:"] * (len(head) - 1)], *rest))


def peaks() -> list[str]:
    """The assumptions about each card and their sources, one line each."""
    return [
        f"{c.name}: {c.bandwidth / 1e12:.2f}, {c.tensor / 1e12:.0f}, {c.float32 / 1e12:.0f}  [{c.source}]"
        for c in CARDS
    ]


def main(args: argparse.Namespace) -> int:
    """`python -m minilm.kernels roofline`"""
    print(f"{MEANING}\n")
    print(table(standard_work()))
    print(f"\n{PEAKS}:")
    print("\n".join(f"  {line}" for line in peaks()))
    return 0


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """The subcommand of `python -m minilm.kernels`."""
    parser = commands.add_parser("roofline", help="the least time of each kernel on some cards, estimated")
    parser.set_defaults(main=main)
