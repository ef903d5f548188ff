"""Runs: the configuration of one, its directory, and the jobs on it.

`pretrain`, `finetune`, `resume`, `evaluate` and `predict` do what the commands of the same names do.
"""

from minilm.runs.config import RunConfig
from minilm.runs.jobs import Trained, evaluate, finetune, predict, pretrain, resume, train
from minilm.runs.run import Run, open_run

__all__ = [
    "Run",
    "RunConfig",
    "Trained",
    "evaluate",
    "finetune",
    "open_run",
    "predict",
    "pretrain",
    "resume",
    "train",
]
