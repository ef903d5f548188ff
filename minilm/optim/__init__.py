"""Optimizers on flat buffers, learning rate schedules, clipping by the global norm."""

from minilm.optim.adam import Adam as Adam, AdamW as AdamW
from minilm.optim.flat import FlatParameters as FlatParameters
from minilm.optim.optimizer import Optimizer as Optimizer
from minilm.optim.schedules import schedule as schedule
from minilm.optim.sgd import SGD as SGD
