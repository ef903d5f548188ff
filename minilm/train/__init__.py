"""Training: the loop, its options, checkpoints, and the gradients of a batch. Whole jobs are in `minilm.runs`."""

from minilm.train.data import Metric as Metric, TrainingData as TrainingData
from minilm.train.loop import TrainingDiverged as TrainingDiverged, TrainingResult as TrainingResult, train as train
from minilm.train.options import TrainingOptions as TrainingOptions
