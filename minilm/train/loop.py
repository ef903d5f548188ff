"""The training loop.

    for each step:  draw the micro-batches, loss and gradients of each, accumulate, clip, update
    now and then:   log a line to metrics.jsonl, validate, write checkpoints

A run that was stopped, even by SIGKILL, continues to the very same weights: everything random is drawn from a generator
of (seed, stream, step, micro-batch), so a checkpoint needs the weights, the optimizer and the number of the step.

On a GPU nothing is read back between two log lines; the losses and norms of the steps in between wait on the device.
"""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from minilm import __version__
from minilm.backend import Array, to_numpy
from minilm.files import replacing
from minilm.layers.base import Layer
from minilm.optim.flat import find_nonfinite
from minilm.optim.optimizer import Optimizer
from minilm.train.checkpoint import load_checkpoint, save_checkpoint
from minilm.train.data import TrainingData, batch_like
from minilm.train.gradients import BatchGradients
from minilm.train.options import OPTIMIZERS, TrainingOptions

DROPOUT = 1  # the stream of the generators (seed, stream, step, micro-batch); the order of the data has its own
METRICS, LAST, BEST = "metrics.jsonl", "last.safetensors", "best.safetensors"


class TrainingDiverged(ValueError):
    """The loss or a gradient is NaN or infinite. The checkpoints are from before."""


# A run may be continued with other values of these; any other would make it another run.
FREE_ON_RESUME = {"steps", "eval_every", "checkpoint_every", "log_every"}


@dataclass
class TrainingResult:
    """What `train` returns. `best` is {"name", "value", "step"} of the best validation, None where there was none."""

    step: int = 0  # steps done, those before a resumption included
    history: list[dict[str, Any]] = field(default_factory=list)  # the lines of metrics.jsonl
    best: dict[str, Any] | None = None
    seconds: float = 0.0  # of this call
    tokens_per_second: float = 0.0  # while training, validations left out
    interrupted: bool = False


def train(
    model: Layer,
    data: TrainingData,
    options: TrainingOptions,
    run: str | Path | None = None,
    *,
    resume: bool = False,
    progress: bool = True,
) -> TrainingResult:
    """Train `model` in place on `data`, writing metrics and checkpoints to the directory `run` if one is given.

    With `resume` the run continues from its last checkpoint, or starts where there is none yet. Ctrl-C finishes the
    step, writes a checkpoint and returns; a second one raises KeyboardInterrupt.
    Raises TrainingDiverged, naming step and parameter, where loss or gradient is not finite.
    """
    options = options.for_data(data)
    session = _Session(model, data, options, None if run is None else Path(run))
    session.start(resume)
    began = session.logged_at = time.perf_counter()
    total, hidden = options.total_steps, not progress
    bar = tqdm(total=total, initial=session.step, disable=hidden, unit="step", dynamic_ncols=True)  # on stderr
    try:
        with bar, _finish_on_interrupt() as interrupt:
            while session.step < total and not interrupt.is_set():
                session.one_step()
                session.after_step()
                bar.set_postfix(session.shown, refresh=False)
                bar.update()
            if session.step < total:
                session.result.interrupted = True
                session.log()
                session.checkpoint()
    finally:
        session.close()
    result = session.result
    result.step = session.step
    result.seconds = time.perf_counter() - began
    result.tokens_per_second = session.tokens / max(result.seconds - session.validation_seconds, 1e-9)
    return result


class _Session:
    """The state of one call of `train`."""

    def __init__(self, model: Layer, data: TrainingData, options: TrainingOptions, run: Path | None) -> None:
        if data.micro_batches != options.micro_batches:
            raise ValueError(
                f"the data is cut for {data.micro_batches} micro-batches per step, the option says "
                f"{options.micro_batches}"
            )
        self.model, self.data, self.options, self.run = model, data, options, run
        self.optimizer: Optimizer = OPTIMIZERS[options.optimizer](model, options)
        self.differentiate = BatchGradients(model)
        self.result = TrainingResult()
        self.step = self.saved = 0  # steps done; steps done at the last checkpoint
        self.tokens = self.unlogged_tokens = 0
        self.logged_at = self.validation_seconds = 0.0
        self.waiting: list[tuple[Array, Array]] = []  # loss and norm of each step since the last log line
        self.shown: dict[str, str] = {}  # beside the progress bar
        self.metrics: Any = None

    # ---- begin and end

    def start(self, resume: bool) -> None:
        """Load the last checkpoint if there is one to continue from, and open metrics.jsonl."""
        if self.run is None:
            if resume:
                raise ValueError("resume needs the directory of a run")
            return
        self.run.mkdir(parents=True, exist_ok=True)
        path = self.run / LAST
        if path.exists():
            if not resume:
                raise ValueError(f"{path} exists already; resume that run, or choose another directory")
            self._restore(path)
        kept = [line for line in _read_metrics(self.run / METRICS) if line["step"] <= self.step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        with replacing(self.run / METRICS) as temporary:
            temporary.write_text(text, encoding="utf-8")
        self.metrics = open(self.run / METRICS, "a", encoding="utf-8")  # noqa: SIM115  closed by close()
        self.result.history = kept

    def _restore(self, path: Path) -> None:
        checkpoint = load_checkpoint(path)
        try:
            before, step, best = checkpoint.info["options"], checkpoint.info["step"], checkpoint.info["best"]
        except KeyError as missing:
            raise ValueError(f"{path}: no checkpoint of a training run, it has no {missing}") from None
        now = _plain(asdict(self.options))
        for name in now.keys() - FREE_ON_RESUME:
            if before.get(name) != now[name]:
                raise ValueError(
                    f"{name} was {before.get(name)!r} in the run that is resumed, now it is {now[name]!r}; use the "
                    "same value, or start a new run in another directory"
                )
        checkpoint.restore(self.model, self.optimizer)
        self.step = self.saved = step
        self.result.best = best

    def close(self) -> None:
        if self.metrics is not None:
            self.metrics.close()

    # ---- one step

    def one_step(self) -> None:
        """Draw, differentiate, accumulate, clip, update."""
        options, micro_batches, like = self.options, self.options.micro_batches, self.optimizer.flat.values
        batches = [self.data.batch(self.step, micro) for micro in range(micro_batches)]
        # the mean over all micro-batches together: each weighs by the number of terms in its own mean
        terms, losses = [batch.terms for batch in batches], []
        if not sum(terms):
            raise ValueError(f"step {self.step + 1}: the batch has nothing to predict; give other data")
        for micro, host in enumerate(batches):
            if not terms[micro]:
                continue  # its own mean is of nothing
            batch, seed = batch_like(host, like), (options.seed, DROPOUT, self.step, micro)
            loss, gradients = self.differentiate(batch, terms[micro] / sum(terms), seed)
            self.optimizer.accumulate(*gradients)
            losses.append(loss)
            self.tokens += batch.tokens
            self.unlogged_tokens += batch.tokens
            del gradients  # before the next micro-batch makes its own
        loss = sum(losses)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            norm = self.optimizer.clip(options.clip) if options.clip else self.optimizer.norm()
        self.waiting.append((loss, norm))
        if self.optimizer.xp is np:
            self._check(np.array([[loss, norm]]), self.step + 1)
            self.shown["loss"] = f"{float(loss):.4f}"
        self.optimizer.step(options.learning_rate_at(self.step))
        self.step += 1

    def _check(self, numbers: np.ndarray, first: int) -> None:
        """Raise TrainingDiverged where a (loss, gradient norm) is not finite. numbers (steps, 2); `first` is its step.

        On the CPU each step is checked before its update. On a GPU this comes later, when every gradient may be NaN.
        """
        finite = np.isfinite(numbers).all(axis=1)  # (steps,)
        if finite.all():
            return
        row = int(np.argmin(finite))
        gradients = find_nonfinite(self.optimizer.flat.gradients())
        value = find_nonfinite(self.model.parameters()) if self.optimizer.flat.filled else None
        name = f"parameter {value} itself" if value else f"the gradient of {gradients}" if gradients else "no parameter"
        kept = f"; {self.run / LAST} is of step {self.saved}" if self.saved and self.run else ""
        raise TrainingDiverged(
            f"step {first + row}: the loss is {numbers[row, 0]:.4g}, the norm of the gradient {numbers[row, 1]:.4g}; "
            f"not finite is {name}. Lower the learning rate (now {self.options.learning_rate:g}), warm up or clip{kept}"
        )

    # ---- after a step

    def after_step(self) -> None:
        """Log, validate and save where it is time to."""
        options, last = self.options, self.step == self.options.total_steps
        evaluate = last or _is_time(options.eval_every, self.step)
        save = last or _is_time(options.checkpoint_every, self.step)
        if not (evaluate or save or _is_time(options.log_every, self.step)):
            return
        improved = self.log(evaluate)
        if improved and self.run is not None:
            save_checkpoint(self.run / BEST, self.model, info=self._info())
        if save:
            self.checkpoint()

    def log(self, evaluate: bool = False) -> bool:
        """Write the line of the steps since the last one, if there are any. True where a validation is the best yet."""
        if not self.waiting:
            return False
        xp = self.optimizer.xp
        numbers = to_numpy(xp.stack([xp.stack([xp.asarray(n) for n in pair]) for pair in self.waiting]))  # (steps, 2)
        self._check(numbers, self.step - len(numbers) + 1)
        self.waiting.clear()
        line = {
            "step": self.step,
            "loss": float(numbers[:, 0].mean(dtype=np.float64)),  # of all these steps
            "learning_rate": self.options.learning_rate_at(self.step - 1),
            "grad_norm": float(numbers[-1, 1]),
            "tokens_per_second": round(self.unlogged_tokens / max(time.perf_counter() - self.logged_at, 1e-9), 1),
        }
        improved = False
        if evaluate:
            began = time.perf_counter()
            scores = self.data.validate(self.model)
            line |= scores
            improved = self._note_best(scores)
            self.validation_seconds += time.perf_counter() - began
        self.unlogged_tokens, self.logged_at = 0, time.perf_counter()  # validation is no training time
        self.result.history.append(line)
        self.shown |= {
            name: f"{line[name]:.4f}" for name in ("loss", "val_loss", self.data.metric.name) if name in line
        }
        self.shown["tokens/s"] = f"{line['tokens_per_second']:,.0f}"
        if self.metrics is not None:
            self.metrics.write(json.dumps(line) + "\n")
            self.metrics.flush()
        return improved

    def _note_best(self, scores: dict[str, float]) -> bool:
        """Remember the best validation. True where this is it."""
        metric, best = self.data.metric, self.result.best
        value = scores[metric.name]
        if not all(math.isfinite(score) for score in scores.values()):
            raise TrainingDiverged(
                f"step {self.step}: validation gives {scores}; lower the learning rate, warm up or clip"
            )
        better = best is None or metric.better(value, best["value"])
        if better:
            self.result.best = {"name": metric.name, "value": value, "step": self.step}
        return better

    def checkpoint(self) -> None:
        """Write the last checkpoint, unless it is of this step already."""
        if self.run is None or self.saved == self.step:
            return
        if self.metrics is not None:
            os.fsync(self.metrics.fileno())  # a checkpoint never knows more steps than the metrics
        save_checkpoint(self.run / LAST, self.model, self.optimizer, self._info())
        self.saved = self.step

    def _info(self) -> dict[str, Any]:
        options = _plain(asdict(self.options))
        return {"minilm": __version__, "step": self.step, "best": self.result.best, "options": options}


def _is_time(every: int | None, step: int) -> bool:
    """Whether something that happens every so many steps (0 or None: never) happens now."""
    return bool(every) and step % every == 0


@contextmanager
def _finish_on_interrupt() -> Iterator[threading.Event]:
    """An event that ctrl-C sets. The second ctrl-C raises KeyboardInterrupt. The old handler comes back afterwards.

    Python allows signal handlers in its main thread only; elsewhere the event is never set.
    """
    interrupt = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def on_interrupt(number: int, frame: Any) -> None:
        if interrupt.is_set():
            raise KeyboardInterrupt
        interrupt.set()
        # not print(): the signal may arrive while the same stream is written to
        os.write(2, b"\nfinishing this step and writing a checkpoint; ctrl-C again stops at once\n")

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.SIG_DFL)


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; one that was cut off when the process was killed ends them."""
    lines: list[dict[str, Any]] = []
    if path.exists():
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                break
            if not isinstance(line, dict) or not isinstance(line.get("step"), int):
                break
            lines.append(line)
    return lines


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives it back: lists for tuples."""
    return json.loads(json.dumps(options))
