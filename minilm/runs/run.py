"""A run: a directory with everything that is needed to use, evaluate or continue a trained model.

config.json          what was built, from which data, how it is trained
tokenizer.json       text to token ids and back
tokens.bin           the encoded corpus of a language model, memory-mapped
metrics.jsonl        one line per logged step
last.safetensors     weights and optimizer at the last checkpoint: what --resume continues from
best.safetensors     weights at the best validation: what is used afterwards
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from minilm.backend import resolve_device
from minilm.checks import unknown
from minilm.presets import PRESETS
from minilm.runs.config import CONFIG, RunConfig
from minilm.tasks import Setting
from minilm.text.tokenizers import Tokenizer, load_tokenizer
from minilm.train.checkpoint import Checkpoint, load_checkpoint
from minilm.train.loop import BEST, LAST

TOKENIZER = "tokenizer.json"


class Run(NamedTuple):
    """An opened run."""

    directory: Path
    config: RunConfig
    tokenizer: Tokenizer
    model: Any  # a layer of the kind that the task builds

    @property
    def setting(self) -> Setting:
        return setting_of(self.directory, self.config, self.tokenizer)


def setting_of(directory: Path, config: RunConfig, tokenizer: Tokenizer) -> Setting:
    """The run as its task sees it."""
    return Setting(directory, config.sources, config.data, tokenizer, config.model, config.training, config.seed)


def refuse_existing(directory: str | Path) -> None:
    """Raise ValueError where the directory holds a run already."""
    if (Path(directory) / CONFIG).exists():
        raise ValueError(f"{directory} holds a run already; continue it with --resume, or choose another --out")


def is_run(name: str | Path) -> bool:
    """Whether `name` is a run directory; False where it is a preset. Raises ValueError where it is neither."""
    if str(name) in PRESETS:
        return False
    if not Path(name).exists():
        raise ValueError(f"{name} is no run directory; {unknown('preset', str(name), PRESETS)}")
    return True


def best_checkpoint(directory: str | Path) -> Checkpoint:
    """The checkpoint of the best validation, or else the last. Raises ValueError where there is none yet."""
    for name in (BEST, LAST):
        if (Path(directory) / name).exists():
            return load_checkpoint(Path(directory) / name)
    raise ValueError(f"{directory} has no checkpoint yet; continue its training with --resume")


def open_run(directory: str | Path, *, device: str = "auto") -> Run:
    """Load a run's tokenizer, and its model on `device` with the weights of the best checkpoint (else the last).

    Raises ValueError for a directory or file that does not fit.
    """
    directory = Path(directory)
    config = RunConfig.load(directory)
    xp = resolve_device(device)
    tokenizer = load_tokenizer(directory / TOKENIZER)
    checkpoint = best_checkpoint(directory)
    model = config.build()
    checkpoint.restore(model)
    return Run(directory, config, tokenizer, model.to(xp))
