"""Runs: the configuration of one, its directory, and the jobs on it.

`pretrain`, `finetune`, `resume`, `evaluate` and `predict` do what the commands of the same names do.
"""

from minilm.runs.config import RunConfig as RunConfig
from minilm.runs.jobs import (
    Trained as Trained,
    evaluate as evaluate,
    finetune as finetune,
    predict as predict,
    pretrain as pretrain,
    resume as resume,
    train as train,
)
from minilm.runs.run import Run as Run, open_run as open_run
