"""How to train: the options of the loop, checked where they are made."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from minilm.optim.adam import Adam, AdamW
from minilm.optim.schedules import SCHEDULES, schedule
from minilm.optim.sgd import SGD
from minilm.options import check_options, option
from minilm.train.data import TrainingData

OPTIMIZERS = {
    "adamw": lambda layer, o: AdamW(layer, o.learning_rate, o.betas, o.eps, o.weight_decay),
    "adam": lambda layer, o: Adam(layer, o.learning_rate, o.betas, o.eps, o.weight_decay),
    "sgd": lambda layer, o: SGD(layer, o.learning_rate, o.momentum, o.nesterov, o.weight_decay),
}


@dataclass(frozen=True)
class TrainingOptions:
    """How to train. Raises ValueError, naming the option, for a value that makes no sense.

    How long is `steps`, or `epochs` instead; 1,000 steps where neither is given. `for_data` makes steps of epochs.
    """

    steps: int | None = option(None, "optimizer steps", at_least=1)
    epochs: float | None = option(None, "passes over the training data, instead of steps")
    batch_size: int = option(32, "sequences in one batch", at_least=1)
    micro_batches: int = option(1, "batches whose gradients are accumulated for one step", at_least=1)
    learning_rate: float = option(1e-3, "peak learning rate")
    optimizer: str = option("adamw", "update rule", choices=OPTIMIZERS)
    weight_decay: float = option(0.01, "weight decay (AdamW: decoupled, matrices only)")
    betas: tuple[float, float] = option((0.9, 0.999), "decay of the moments of Adam and AdamW")
    eps: float = option(1e-8, "what keeps Adam and AdamW from dividing by 0")
    momentum: float = option(0.9, "momentum of SGD")
    nesterov: bool = option(False, "Nesterov's momentum of SGD")
    schedule: str = option("cosine", "learning rate after the warm-up", choices=SCHEDULES)
    warmup: int = option(0, "steps of linear warm-up")
    min_lr_ratio: float = option(0.1, "part of the learning rate that is left at the last step")
    clip: float = option(1.0, "largest global norm of the gradient; 0: no clipping")
    eval_every: int | None = option(
        None, "steps between two validations; 0: at the end only; by default the task's choice"
    )
    checkpoint_every: int = option(250, "steps between two checkpoints; 0: at the end only")
    log_every: int = option(10, "steps between two lines of metrics.jsonl", at_least=1)
    seed: int = option(0, "seed of everything random")

    def __post_init__(self) -> None:
        check_options(self)
        if self.steps is not None and self.epochs is not None:
            raise ValueError(
                f"steps {self.steps} and epochs {self.epochs} both say how long to train; give one of them"
            )
        if self.epochs == 0:
            raise ValueError("epochs is 0, expected a number above 0")
        if self.epochs is None and self.steps is None:
            object.__setattr__(self, "steps", 1000)
        if self.min_lr_ratio > 1:
            raise ValueError(f"min_lr_ratio is a part of the learning rate, at most 1, got {self.min_lr_ratio!r}")
        betas = tuple(self.betas) if isinstance(self.betas, tuple | list) else ()
        if len(betas) != 2 or not all(isinstance(beta, int | float) and 0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be two numbers, at least 0 and below 1, got {self.betas!r}")
        object.__setattr__(self, "betas", betas)  # JSON gives a list
        if self.nesterov and self.optimizer == "sgd" and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")

    def for_data(self, data: TrainingData) -> TrainingOptions:
        """The same with epochs as steps, and the data's choice of how often to validate."""
        steps, eval_every = self.steps, self.eval_every
        if self.epochs is not None:
            steps = max(1, math.ceil(self.epochs * data.steps_per_epoch))
        return replace(self, steps=steps, epochs=None, eval_every=data.eval_every if eval_every is None else eval_every)

    @property
    def total_steps(self) -> int:
        """`steps`, where they are known."""
        if self.steps is None:
            raise ValueError("how many steps an epoch has is not known yet; for_data(data) tells")
        return self.steps

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of step 0, 1, …"""
        return self.learning_rate * schedule(self.schedule, step, self.total_steps, self.warmup, self.min_lr_ratio)
