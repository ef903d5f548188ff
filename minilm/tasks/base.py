"""What a task is: what it reads, its batches, its head, its scores, and how it predicts. One file per task.

Everything above asks the task, and nothing else knows its name: the loop draws batches from its data, the jobs build
its head, the command line shows its options.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from minilm.layers.base import Layer
from minilm.models.backbone import Backbone
from minilm.text.tokenizers import Tokenizer
from minilm.train.data import TrainingData
from minilm.train.options import TrainingOptions


class Examples(Protocol):
    """What `Task.read` returns. A tokenizer is trained on its texts."""

    def texts(self) -> Iterable[str]: ...


class Model(Protocol):
    """What a task asks of the configuration of a model."""

    @property
    def head(self) -> Any: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def context(self) -> int | None: ...


class Setting(NamedTuple):
    """A run as its task sees it."""

    directory: Path  # of the run
    sources: tuple[str, ...]  # what was given as data
    options: Any  # the task's own, of type `Task.options`
    tokenizer: Tokenizer
    model: Model
    training: TrainingOptions
    seed: int


class Task(ABC):
    """The base of all tasks. Subclasses set the attributes and define what raises here; a task has no state."""

    name: ClassVar[str]
    summary: ClassVar[str]  # one line, for help texts
    options: ClassVar[type]  # the dataclass of what can be said about its data
    head: ClassVar[type]  # the dataclass of what can be said about its head
    predicts: ClassVar[bool] = False  # whether it says something of a given text
    later_texts: ClassVar[bool] = False  # whether it is used on texts that its tokenizer was not trained on
    held_out: ClassVar[str] = "held-out examples"  # what `scores` are of where no source is given

    # ---- before a run

    @abstractmethod
    def read(self, sources: Sequence[str], options: Any, seed: int) -> Examples:
        """The examples to train on, never those for testing. Raises ValueError or OSError where they don't fit."""

    def head_for(self, examples: Examples, given: dict[str, Any]) -> dict[str, Any]:
        """The options of the head: those that were given, and what the examples say (the labels, say)."""
        return given

    def keep(self, examples: Examples, tokenizer: Tokenizer, directory: Path) -> list[Path]:
        """Write what a run keeps of its data; returns the files. Nothing, where the sources are read again."""
        return []

    # ---- a run

    @abstractmethod
    def model(self, backbone: Backbone, head: Any, *, rng: Any, dtype: str) -> Layer:
        """The task's head, drawn from `rng`, on `backbone`."""

    @abstractmethod
    def data(self, setting: Setting) -> TrainingData:
        """Batches to train on, and the validation that chooses the best checkpoint."""

    @abstractmethod
    def scores(
        self, setting: Setting, model: Layer, sources: Sequence[str] | None, options: dict[str, Any], batch_size: int
    ) -> dict[str, Any]:
        """JSON-able scores on given sources, with `options` in place of the run's; or on what it never trained on."""

    def predict(self, setting: Setting, model: Layer, inputs: Sequence[str], batch_size: int) -> list[Any]:
        """What the model says of each input: JSON-able. Raises ValueError for a task that predicts nothing."""
        raise ValueError(f"a {self.name} run has nothing to predict for a text; `minilm generate` continues one")

    def shown(self, prediction: Any) -> tuple[dict[str, Any], str]:
        """A prediction as fields of a JSON object, and in short for a terminal."""
        return {"prediction": prediction}, str(prediction)
