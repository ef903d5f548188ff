"""python -m benchmarks.step: whole training steps of a GPT on the GPU, and their kernels by time.

Tokens per second, what the loss does, and the longest kernels of a step: a part of the kernels' check.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from benchmarks.kernel_times import Times, measure
from minilm.backend import resolve_device
from minilm.kernels.check.records import FAILED, PASSED, Record, say
from minilm.optim import AdamW
from minilm.presets import build
from minilm.text.batching import LanguageBatch

SHOWN = 12  # kernels of a step, the longest ones


class Size(NamedTuple):
    """A GPT, and a batch for it."""

    name: str
    layers: int
    heads: int
    width: int
    tokens: int  # of a text
    texts: int  # of a batch
    vocabulary: int


FULL = (
    Size("GPT of 4 x 4 x 128", 4, 4, 128, 64, 12, 96),
    Size("GPT of 6 x 6 x 384", 6, 6, 384, 256, 8, 96),
    Size("GPT-2 small", 12, 12, 768, 1024, 8, 50_257),
)
QUICK = (Size("tiny GPT", 1, 2, 32, 24, 2, 31),)


def main(argv: list[str]) -> int:
    """The exit code: 0; 1 where a loss did not fall; 2 without a GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tiny model: to see that it runs")
    args = parser.parse_args(argv)
    try:
        xp = resolve_device("cuda")
    except ValueError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    found = []
    for record in steps(xp, QUICK if args.quick else FULL):
        say(record)
        found.append(record.status)
    return int(FAILED in found)


def steps(xp: ModuleType, sizes: Sequence[Size]) -> Iterator[Record]:
    """For each size: that loss and weights stay finite, the time of a step, its kernels by time."""
    for size in sizes:
        losses: list[Any] = []
        times = measure(training_step(size, xp, losses), xp)
        values = [float(loss) for loss in losses]
        tokens = size.tokens * size.texts
        figures = {
            "milliseconds": times.milliseconds,
            "tokens per second": 1e3 * tokens / times.milliseconds,
            "losses": values,
            "kernels told by": times.source,
            "kernels": [kernel._asdict() for kernel in times.kernels],
        }
        good = bool(np.isfinite(values).all()) and values[-1] < values[0]
        detail = f"{times.milliseconds:.2f} ms for {tokens} tokens, loss {values[0]:.3f} to {values[-1]:.3f}"
        print(kernel_table(times), flush=True)
        yield Record("step", size.name, PASSED if good else FAILED, detail, figures)


def training_step(size: Size, xp: ModuleType, losses: list[Any]) -> Any:
    """A function that makes one AdamW step, float32, always on the same batch, and appends the loss."""
    shape = {"layers": size.layers, "heads": size.heads, "width": size.width, "context": size.tokens + 1}
    model = build("gpt", vocab_size=size.vocabulary, dropout=0.0, seed=1, **shape)
    model.to(xp)
    optimizer = AdamW(model, lr=1e-3)
    ids = xp.asarray(np.random.default_rng(0).integers(0, size.vocabulary, (size.texts, size.tokens + 1)))
    batch = LanguageBatch(xp.ascontiguousarray(ids[:, :-1]), xp.ascontiguousarray(ids[:, 1:]))

    def step() -> None:
        loss, cache = model.loss(batch, rng=np.random.default_rng(0))
        optimizer.accumulate(model.loss_backward(1.0, cache))
        optimizer.clip(1.0)
        optimizer.step()
        losses.append(loss)

    return step


def kernel_table(times: Times) -> str:
    """The longest kernels, one line each, and the rest in one."""
    lines = [f"{'ms':>9}  {'launches':>8}  kernel ({times.source})"]
    for kernel in times.kernels[:SHOWN]:
        lines.append(f"{kernel.milliseconds:9.3f}  {kernel.launches:8d}  {kernel.name[:90]}")
    if rest := times.kernels[SHOWN:]:
        took, launches = sum(k.milliseconds for k in rest), sum(k.launches for k in rest)
        lines.append(f"{took:9.3f}  {launches:8d}  {len(rest)} others")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
