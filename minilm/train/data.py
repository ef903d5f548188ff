"""What the training loop asks of data, and what it does with a batch.

A batch is a function of (step, micro-batch) and the seed alone, so a resumed run sees the very batches it would have.
It is a NamedTuple of host arrays that share their first axis, the rows, with two properties more:

    terms     the number of terms that its loss is the mean of
    tokens    how many tokens it holds, for the speed that is shown
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from minilm.backend import Array, array_namespace, asarray_like, to_numpy
from minilm.layers.base import Layer


class Metric(NamedTuple):
    """The score that chooses the best checkpoint."""

    name: str
    higher_is_better: bool

    def better(self, value: float, best: float) -> bool:
        return value > best if self.higher_is_better else value < best


class TrainingData(Protocol):
    """What `train` needs."""

    metric: Metric  # one of the scores of `validate`

    @property
    def steps_per_epoch(self) -> int: ...  # steps (not micro-batches) that see each example about once
    @property
    def eval_every(self) -> int: ...  # steps between two validations, where the options name none
    @property
    def micro_batches(self) -> int: ...  # batches that a step takes
    def batch(self, step: int, micro: int) -> Any: ...  # the micro-batch of step 0, 1, …; the same at every call
    def validate(self, model: Layer) -> dict[str, float]: ...  # scores on held-out data, val_loss in nats among them


def batch_like(batch: Any, like: Array) -> Any:
    """The batch with its host arrays moved to the array library of `like`."""
    if array_namespace(like) is np:
        return batch
    on_host = {name: value for name, value in batch._asdict().items() if isinstance(value, np.ndarray)}
    return batch._replace(**{name: asarray_like(value, like) for name, value in on_host.items()})


def batch_rows(batch: Any, start: int, stop: int) -> Any:
    """Some rows of a batch."""
    return batch._replace(**{name: value[start:stop] for name, value in batch._asdict().items()})


def stacked(scalars: list[Array]) -> np.ndarray:
    """0-d arrays as one float64 host array: on a GPU one transfer, not one for each."""
    xp = array_namespace(*scalars)
    return to_numpy(xp.stack([xp.asarray(scalar) for scalar in scalars])).astype(np.float64)  # (number of scalars,)
