"""The configuration of a run, typed: what was built, from which data, how it is adapted and trained. JSON on disk."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from minilm import __version__
from minilm.adapt import METHODS
from minilm.backend import generator
from minilm.checks import one_of
from minilm.files import read_json, write_json
from minilm.layers.base import Layer
from minilm.options import make_options
from minilm.presets import ModelConfig
from minilm.tasks import TASKS, Task
from minilm.train.options import TrainingOptions

CONFIG = "config.json"
FORMAT = 2


@dataclass(frozen=True)
class RunConfig:
    """All that is needed to do the same again, or to continue it bit for bit."""

    model: ModelConfig
    sources: tuple[str, ...]  # of the training data
    data: Any  # the dataclass of the task's options
    method: str
    adaptation: Any  # the dataclass of the method's options
    training: TrainingOptions
    base: str | None = None  # the run whose weights it starts from

    @property
    def task(self) -> Task:
        return TASKS[self.model.task]

    @property
    def seed(self) -> int:
        return self.training.seed

    def build(self) -> Layer:
        """The model on the host, with its adapters, its parameters frozen as the method says."""
        model = self.model.build()
        METHODS[self.method].install(model, self.adaptation, generator(self.seed, "adaptation"))
        return model

    def save(self, directory: Path) -> None:
        write_json(directory / CONFIG, {"format": FORMAT, "minilm": __version__, **asdict(self)})

    @classmethod
    def load(cls, directory: str | Path) -> RunConfig:
        """The configuration of the run in `directory`. Raises ValueError where there is none, or another version's."""
        path = Path(directory) / CONFIG
        if not path.exists():
            raise ValueError(f"{directory} is not a run of minilm: it has no {CONFIG}; is the path right?")
        value = read_json(path)
        if not isinstance(value, dict) or "minilm" not in value:
            raise ValueError(f"{path} is not the config of a minilm run; was it written by another program?")
        if value.get("format") != FORMAT:
            raise ValueError(
                f"{path} is of minilm {value['minilm']}, in another format than this version reads ({FORMAT}); use it "
                "with that version, or train again"
            )
        try:
            return cls._from_json({k: v for k, v in value.items() if k not in ("format", "minilm")})
        except (TypeError, ValueError, KeyError) as problem:
            raise ValueError(f"{path} is damaged ({problem}); restore it, or make the run again") from None

    @classmethod
    def _from_json(cls, value: dict[str, Any]) -> RunConfig:
        expected = {field.name for field in fields(cls)}
        if value.keys() != expected:
            raise ValueError(f"expected {', '.join(sorted(expected))}, got {', '.join(sorted(value))}")
        model = ModelConfig.from_json(value["model"])
        method = one_of("method", value["method"], METHODS)
        return cls(
            model=model,
            sources=tuple(value["sources"]),
            data=make_options(TASKS[model.task].options, value["data"], model.task),
            method=method,
            adaptation=make_options(METHODS[method].options, value["adaptation"], method),
            training=make_options(TrainingOptions, value["training"], "training"),
            base=value["base"],
        )
