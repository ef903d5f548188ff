"""How to train: the options of the loop, checked where they are made."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from minilm.optim.adam import Adam, AdamW
from minilm.optim.schedules import SCHEDULES, schedule
from minilm.optim.sgd import SGD

OPTIMIZERS = {
    "adamw": lambda layer, o: AdamW(layer, o.learning_rate, o.betas, o.eps, o.weight_decay),
    "adam": lambda layer, o: Adam(layer, o.learning_rate, o.betas, o.eps, o.weight_decay),
    "sgd": lambda layer, o: SGD(layer, o.learning_rate, o.momentum, o.nesterov, o.weight_decay),
}


@dataclass(frozen=True)
class TrainingOptions:
    """How to train. Raises ValueError, naming the option, for a value that makes no sense.

    `eval_every`, `checkpoint_every`: 0 means at the end only. `clip` 0: no clipping. `min_lr_ratio` is the part of the
    learning rate that is left at the last step. `micro_batches` batches make one step.
    """

    steps: int = 1000
    learning_rate: float = 1e-3
    micro_batches: int = 1
    optimizer: str = "adamw"
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    momentum: float = 0.9  # of sgd
    nesterov: bool = False  # of sgd
    schedule: str = "cosine"
    warmup: int = 0
    min_lr_ratio: float = 0.1
    clip: float = 1.0
    eval_every: int = 250
    checkpoint_every: int = 250
    log_every: int = 10
    seed: int = 0
    best: str = "val_loss"

    def __post_init__(self) -> None:
        for name, least in (
            ("steps", 1),
            ("micro_batches", 1),
            ("log_every", 1),
            ("warmup", 0),
            ("eval_every", 0),
            ("checkpoint_every", 0),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
        for name in ("learning_rate", "weight_decay", "eps", "momentum", "min_lr_ratio", "clip"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
        if self.min_lr_ratio > 1:
            raise ValueError(f"min_lr_ratio is a part of the learning rate, at most 1, got {self.min_lr_ratio!r}")
        for name, choices in (
            ("optimizer", tuple(OPTIMIZERS)),
            ("schedule", tuple(SCHEDULES)),
            ("best", ("val_loss", "val_accuracy")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} {getattr(self, name)!r} is unknown; choose {', '.join(choices)}")
        betas = tuple(self.betas) if isinstance(self.betas, tuple | list) else ()
        if len(betas) != 2 or not all(isinstance(beta, int | float) and 0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be two numbers, at least 0 and below 1, got {self.betas!r}")
        object.__setattr__(self, "betas", betas)  # JSON gives a list
        if self.nesterov and self.optimizer == "sgd" and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of step 0, 1, …"""
        return self.learning_rate * schedule(self.schedule, step, self.steps, self.warmup, self.min_lr_ratio)
