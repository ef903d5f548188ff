"""The configuration of a model: all that is needed to draw it again."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from minilm.backend import DTYPES, generator
from minilm.checks import one_of, whole
from minilm.layers.base import Layer
from minilm.models import ARCHITECTURES
from minilm.options import make_options
from minilm.tasks import TASKS


@dataclass(frozen=True)
class ModelConfig:
    """An architecture with its options, and the head of a task with its options. Weights are drawn from `seed`."""

    preset: str  # the named model whose sizes these are, or were before options changed them
    task: str
    architecture: str
    options: Any  # the dataclass of the architecture
    head: Any  # the dataclass of the task's head
    vocab_size: int
    seed: int = 0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        one_of("task", self.task, TASKS)
        one_of("architecture", self.architecture, ARCHITECTURES)
        one_of("dtype", self.dtype, DTYPES)
        whole("vocab_size", self.vocab_size, 1)
        whole("seed", self.seed)

    def build(self) -> Layer:
        """The model, on the host."""
        backbone = ARCHITECTURES[self.architecture].backbone(
            self.vocab_size, **asdict(self.options), rng=generator(self.seed), dtype=self.dtype
        )
        return TASKS[self.task].model(backbone, self.head, rng=generator(self.seed, "head"), dtype=self.dtype)

    def is_for(self, name: str) -> bool:
        """Whether its head is that of the task `name`."""
        return name == self.task

    @property
    def context(self) -> int | None:
        """The longest text, in tokens; None where there is no limit."""
        return getattr(self.options, "context", None)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ModelConfig:
        """The inverse of `to_json`. Raises ValueError where `value` is no such configuration."""
        if not isinstance(value, dict) or value.keys() != {field.name for field in fields(cls)}:
            raise ValueError(f"a model needs {', '.join(field.name for field in fields(cls))}, got {sorted(value)}")
        task, architecture = (
            one_of("task", value["task"], TASKS),
            one_of("architecture", value["architecture"], ARCHITECTURES),
        )
        options = make_options(ARCHITECTURES[architecture].options, value["options"], architecture)
        head = make_options(TASKS[task].head, value["head"], task)
        return cls(**(value | {"options": options, "head": head}))
