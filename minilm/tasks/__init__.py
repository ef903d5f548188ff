"""Tasks: one file per task, and one line here. See `base.Task`."""

from minilm.tasks.base import Setting as Setting, Task as Task
from minilm.tasks.classification import Classification
from minilm.tasks.language_modelling import LanguageModelling

TASKS: dict[str, Task] = {task.name: task for task in (LanguageModelling(), Classification())}
