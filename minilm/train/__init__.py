"""Training: the loop, its options, checkpoints, and the gradients of a batch. Whole jobs are in `minilm.runs`."""

from minilm.train.data import Metric, TrainingData
from minilm.train.loop import TrainingDiverged, TrainingResult, train
from minilm.train.options import TrainingOptions

__all__ = ["Metric", "TrainingData", "TrainingDiverged", "TrainingOptions", "TrainingResult", "train"]
