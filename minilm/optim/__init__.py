"""Optimizers on flat buffers, learning rate schedules, clipping by the global norm."""

from minilm.optim.adam import Adam, AdamW
from minilm.optim.flat import FlatParameters
from minilm.optim.optimizer import Optimizer
from minilm.optim.schedules import schedule
from minilm.optim.sgd import SGD

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "FlatParameters",
    "Optimizer",
    "schedule",
]
