"""The form of a preset: a named model of the literature, and how it is trained by default."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from minilm.checks import one_of, unknown
from minilm.models import ARCHITECTURES
from minilm.options import make_options
from minilm.presets.config import ModelConfig
from minilm.tasks import TASKS


class Preset(NamedTuple):
    """One named model. Options of the model and its head that it does not name have their own defaults."""

    name: str
    task: str  # the name of a task: it says which head stands on the backbone
    architecture: str
    summary: str
    source: str  # where the sizes come from
    model: dict[str, Any]  # options of the architecture and of the head, one namespace
    training: dict[str, Any]  # options of training
    tokenizer: str  # the kind
    vocabulary: dict[str, Any] = {}  # options of the tokenizer  # noqa: RUF012  a NamedTuple's default
    data: dict[str, Any] = {}  # options of the task's data  # noqa: RUF012

    def configure(
        self,
        *,
        vocab_size: int,
        classes: int = 2,
        seed: int = 0,
        dtype: str = "float32",
        **options: Any,
    ) -> ModelConfig:
        """The configuration of this model with `options` in place of its own. Raises ValueError for a wrong one."""
        architecture, head = ARCHITECTURES[self.architecture].options, TASKS[self.task].head
        own = {field.name for field in dataclasses.fields(architecture)}
        of_head = {field.name for field in dataclasses.fields(head)}
        for name in options:
            if name not in own | of_head:
                raise ValueError(unknown(f"option of {self.name}", name, sorted(own | of_head - {"labels"})))
        if "labels" in of_head:
            options.setdefault("labels", tuple(map(str, range(classes))))
        chosen = self.model | options
        return ModelConfig(
            preset=self.name,
            task=self.task,
            architecture=self.architecture,
            options=make_options(architecture, {k: v for k, v in chosen.items() if k in own}, self.name),
            head=make_options(head, {k: v for k, v in chosen.items() if k in of_head}, self.name),
            vocab_size=vocab_size,
            seed=seed,
            dtype=dtype,
        )

    def is_for(self, name: str) -> bool:
        """Whether its head is that of the task `name`."""
        return name == self.task

    def options(self) -> list[tuple[str, Any, str]]:
        """Name, default and meaning of every option of the model."""
        kinds = (ARCHITECTURES[self.architecture].options, TASKS[self.task].head)
        return [
            (field.name, self.model.get(field.name, field.default), described(field))
            for kind in kinds
            for field in dataclasses.fields(kind)
            if field.name != "labels"
        ]


def described(field: dataclasses.Field) -> str:
    """What an option means, and what it may be."""
    choices = field.metadata.get("choices")
    return field.metadata["help"] + (f": {', '.join(choices)}" if choices else "")


def find(presets: dict[str, Preset], name: str) -> Preset:
    """The preset `name`. Raises ValueError, listing all and naming the closest, where there is none."""
    return presets[one_of("preset", name, presets)]
