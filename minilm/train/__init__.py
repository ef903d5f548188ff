"""Training: the loop, checkpoints, metrics, and whole jobs from text to a trained run.

`pretrain`, `finetune`, `resume`, `evaluate` and `predict` do what the commands of the same names do.
"""

from minilm.train.loop import TrainingDiverged, TrainingResult, train
from minilm.train.metrics import ClassificationReport
from minilm.train.options import TrainingOptions
from minilm.train.recipes import Trained, evaluate, finetune, predict, pretrain, resume
from minilm.train.runs import Run, open_run

__all__ = [
    "ClassificationReport",
    "Run",
    "Trained",
    "TrainingDiverged",
    "TrainingOptions",
    "TrainingResult",
    "evaluate",
    "finetune",
    "open_run",
    "predict",
    "pretrain",
    "resume",
    "train",
]
