"""Whole jobs, from text to a trained run: train, resume, evaluate, predict.

The commands of `minilm` are thin wrappers of these functions. Each job writes a run directory (`runs/run.py`) whose
config.json holds all that is needed to do the same again, or to continue it bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from minilm.adapt import DEFAULT, METHODS
from minilm.adapt.wrapping import load_base, merge, wrappers
from minilm.backend import resolve_device
from minilm.checks import one_of
from minilm.models import num_parameters
from minilm.options import make_options, shallow
from minilm.presets import ModelConfig, Preset, find_preset
from minilm.runs.config import RunConfig
from minilm.runs.run import TOKENIZER, Run, best_checkpoint, is_run, open_run, refuse_existing, setting_of
from minilm.tasks import TASKS, Task
from minilm.text.corpus import Sources
from minilm.text.tokenizers import Tokenizer, load_tokenizer, train_tokenizer
from minilm.train import loop
from minilm.train.loop import LAST, TrainingResult
from minilm.train.options import TrainingOptions

FINETUNING: dict[str, Any] = {
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "schedule": "linear",
    "warmup": 50,
    "min_lr_ratio": 0.0,
    "clip": 1.0,
    "batch_size": 32,
    "epochs": 3,
}


class Trained(NamedTuple):
    """What a job leaves behind."""

    run: Run  # with the weights of the best checkpoint
    result: TrainingResult
    scores: dict[str, Any]  # of those weights on what was held out; empty where training was interrupted
    trained_parameters: int


def pretrain(preset: str, sources: Sources, out: str | Path, **options: Any) -> Trained:
    """Train a preset from scratch on its own task. Options are those of `train`."""
    return train(preset, sources, out, task=find_preset(preset).task, **options)


def finetune(base: str | Path, sources: Sources, out: str | Path, **options: Any) -> Trained:
    """Train a classifier, or another `task`, on a run's backbone or on a preset. Options are those of `train`."""
    options.setdefault("task", "classification")
    return train(base, sources, out, **options)


def train(
    base: str | Path,
    sources: Sources,
    out: str | Path,
    *,
    task: str,
    method: str = DEFAULT,
    adaptation: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    tokenizer: str | None = None,
    vocabulary: Mapping[str, Any] | None = None,
    seed: int = 0,
    dtype: str | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Trained:
    """Train a model for `task` on `sources` and write the run to `out`.

    base         a run, whose backbone and tokenizer are taken, or a preset, whose weights are drawn anew
    method       what is trained, a name in `minilm.adapt.METHODS`; `adaptation` has its options (rank, targets, ...)
    data         options of the task (max_length, validation, ...)
    model        options of the preset's architecture, and of the task's head
    training     fields of `TrainingOptions`
    tokenizer    "char", "word" or "bpe" in place of the preset's; `vocabulary` has its options
    dtype        "float32" or "float64"; by default the run's, or float32

    Raises ValueError or OSError, before anything is written, where an argument is wrong.
    """
    refuse_existing(out)
    resolve_device(device)
    chosen = TASKS[one_of("task", task, TASKS)]
    way = METHODS[one_of("method", method, METHODS)]
    adapted = make_options(way.options, adaptation or {}, f"method {method}")
    started = RunConfig.load(base) if is_run(base) else None
    preset = find_preset(started.model.preset if started else str(base))
    made_for_it = TASKS[preset.task] is chosen
    anew = made_for_it and started is None
    defaults = preset.training if anew else FINETUNING | {"learning_rate": way.learning_rate}
    settings = _training(defaults, training or {}, seed)
    own_data = make_options(chosen.options, (preset.data if made_for_it else {}) | dict(data or {}), task)
    draft = _draft(started.model if started else preset, chosen, model or {}, seed, dtype)
    if started is None:
        draft.build()  # options that don't fit together are told before the data is read
    sources = (sources,) if isinstance(sources, str | Path) else sources
    sources = tuple(str(Path(s).resolve()) if Path(s).exists() else str(s) for s in sources)
    examples = chosen.read(sources, own_data, seed)
    encoder = _tokenizer(started and Path(base), preset, chosen, examples, tokenizer, vocabulary or {})
    head = make_options(chosen.head, chosen.head_for(examples, shallow(draft.head)), task)
    config = RunConfig(
        model=replace(draft, vocab_size=encoder.size, head=head),
        sources=sources,
        data=own_data,
        method=method,
        adaptation=adapted,
        training=settings,
        base=str(Path(base).resolve()) if started else None,
    )
    config.build()  # an impossible rank or pooling is told now
    _write(Path(out), config, encoder, examples)
    return resume(out, device=device, progress=progress)


def resume(directory: str | Path, *, device: str = "auto", progress: bool = True) -> Trained:
    """Start or continue the training of a run, from its last checkpoint if it has one, and score its best weights."""
    directory = Path(directory)
    config = RunConfig.load(directory)
    xp = resolve_device(device)
    tokenizer = load_tokenizer(directory / TOKENIZER)
    model = config.build()
    data = config.task.data(setting_of(directory, config, tokenizer))
    if config.base and not (directory / LAST).exists():
        load_base(model, _plain_state(config.base), "backbone.")
    trained_parameters = num_parameters(model, trainable=True)
    options = config.training.for_data(data)
    warmup = min(options.warmup, options.total_steps // 10)  # a short run trains at full rate too
    options = replace(options, warmup=warmup)
    result = loop.train(model.to(xp), data, options, directory, resume=True, progress=progress)
    run = open_run(directory, device=device)
    return Trained(run, result, {} if result.interrupted else evaluate(run), trained_parameters)


def evaluate(run: Run, sources: Sources | None = None, *, batch_size: int = 64, **options: Any) -> dict[str, Any]:
    """JSON-able scores of a run on given sources, or on what it never trained on. `options` are those of its task."""
    if sources is not None:
        sources = (sources,) if isinstance(sources, str | Path) else sources
        sources = tuple(str(source) for source in sources)
    return run.config.task.scores(run.setting, run.model, sources, options, batch_size)


def predict(run: Run, texts: Sequence[str], *, batch_size: int = 64) -> list[Any]:
    """What the run's model says of each text. A classifier: the probability of every label, by the labels' names."""
    return run.config.task.predict(run.setting, run.model, texts, batch_size)


# ---- the parts of train


def _training(defaults: Mapping[str, Any], given: Mapping[str, Any], seed: int) -> TrainingOptions:
    """The defaults with what was given in their place; steps replace epochs, and the other way round."""
    left_out = "epochs" if "steps" in given else "steps" if "epochs" in given else None
    chosen = {name: value for name, value in defaults.items() if name != left_out} | dict(given) | {"seed": seed}
    return make_options(TrainingOptions, chosen, "training")


def _draft(
    start: ModelConfig | Preset, task: Task, given: Mapping[str, Any], seed: int, dtype: str | None
) -> ModelConfig:
    """The model that is trained, but for its vocabulary and what the examples say of its head."""
    of_head = {field.name for field in fields(task.head)} - {"labels"}
    head = {name: value for name, value in given.items() if name in of_head}
    others = {name: value for name, value in given.items() if name not in of_head}
    if isinstance(start, ModelConfig):
        if others:
            raise ValueError(f"the base is trained already: its {min(others)} can't be changed; leave the option out")
        model = replace(start, seed=seed)
    else:
        if TASKS[start.task] is not task and (
            unused := others.keys() & {f.name for f in fields(TASKS[start.task].head)}
        ):
            raise ValueError(f"{min(unused)} is an option of {start.task}, not of {task.name}; leave it out")
        model = start.configure(vocab_size=256, seed=seed, **others)
    own = shallow(model.head) if TASKS[model.task] is task else {}
    head = make_options(task.head, own | head, task.name)
    return replace(model, task=task.name, head=head, dtype=dtype or model.dtype)


def _tokenizer(
    base: Path | None, preset: Preset, task: Task, examples: Any, kind: str | None, given: Mapping[str, Any]
) -> Tokenizer:
    """The base's tokenizer, or one trained on the examples."""
    if base is not None:
        if kind or given:
            raise ValueError(f"{base} has a vocabulary already, which can't be changed; leave {kind or min(given)} out")
        return load_tokenizer(base / TOKENIZER)
    kind = kind or preset.tokenizer
    options = (preset.vocabulary if kind == preset.tokenizer else {}) | dict(given)
    if kind == "char" and task.later_texts:
        options = {"unknown": True} | options
    return train_tokenizer(kind, examples.texts(), **options)


def _write(out: Path, config: RunConfig, tokenizer: Tokenizer, examples: Any) -> None:
    """Make the directory and write what is known before training, or nothing."""
    is_new, written = not out.exists(), []
    try:
        out.mkdir(parents=True, exist_ok=True)
        written += config.task.keep(examples, tokenizer, out)
        config.task.data(setting_of(out, config, tokenizer))  # a text too short for the context is told now
        tokenizer.save(out / TOKENIZER)
        written.append(out / TOKENIZER)
        config.save(out)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        if is_new and out.exists():
            out.rmdir()
        raise


def _plain_state(base: str) -> dict[str, Any]:
    """The weights of a run's best checkpoint, its adapters merged."""
    config = RunConfig.load(base)
    model = config.build()
    best_checkpoint(base).restore(model)
    if wrappers(model):
        merge(model)
    return model.state()
