"""The README's picture: the three plots that `minilm demo` writes, on one sheet.

minilm demo --quick --out minilm-demo && python docs/images/compose.py minilm-demo docs/images/demo.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

WIDTH = 10.0  # inches


def main(demo: str, out: str) -> None:
    loss, attention, confusion = (imread(Path(demo) / f"{name}.png") for name in ("loss", "attention", "confusion"))
    wide = [picture.shape[1] / picture.shape[0] for picture in (loss, attention, confusion)]
    top, bottom = WIDTH / (wide[0] + wide[1]), WIDTH / wide[2]  # two of one height, and below them the third
    height = top + bottom
    figure = Figure(figsize=(WIDTH, height), dpi=130)
    FigureCanvasAgg(figure)
    for picture, x, y, w, h in (
        (loss, 0.0, bottom, top * wide[0], top),
        (attention, top * wide[0], bottom, top * wide[1], top),
        (confusion, 0.0, 0.0, WIDTH, bottom),
    ):
        axes = figure.add_axes((x / WIDTH, y / height, w / WIDTH, h / height))
        axes.imshow(picture, interpolation="lanczos")
        axes.axis("off")
    figure.savefig(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
