"""What a model consists of: counts and a table."""

from __future__ import annotations

from minilm.layers.base import Layer


def num_parameters(model: Layer, *, trainable: bool = False) -> int:
    """How many numbers the parameters hold; with `trainable`, only those that are not frozen."""
    return sum(array.size for array in (model.trainable() if trainable else model.parameters()).values())


def describe(model: Layer) -> str:
    """A table of all parameters: name, shape, count, frozen or not, and the totals."""
    trainable = model.trainable()
    rows = [("parameter", "shape", "count", "")]
    for name, array in model.parameters().items():
        shape = " x ".join(str(size) for size in array.shape) or "scalar"
        rows.append((name, shape, f"{array.size:,}", "" if name in trainable else "frozen"))
    total, trained = num_parameters(model), num_parameters(model, trainable=True)
    rows.append(("all parameters", "", f"{total:,}", "" if trained == total else f"{trained:,} trained"))
    names, shapes, counts = (max(len(row[column]) for row in rows) for column in range(3))
    return "\n".join(f"{a:<{names}}  {b:<{shapes}}  {c:>{counts}}  {d}".rstrip() for a, b, c, d in rows)
