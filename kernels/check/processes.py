"""One process with a time limit, its output into a log as it comes, and nobody left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

GRACE = 10.0  # seconds between the request to end and the end: a test run writes its report meanwhile


class Ended(NamedTuple):
    """How a process ended."""

    code: int | None  # None: it ran out of time
    seconds: float
    output: list[str]  # its lines

    def says(self, text: str) -> str | None:
        """The first line of the output that holds `text`."""
        return next((line for line in self.output if text in line), None)


def run(command: Sequence[str], environment: Mapping[str, str], limit: float, log: IO[str], folder: Path) -> Ended:
    """Run a command for `limit` seconds at most, in `folder`; standard error counts as output.

    It leads a process group of its own, which is asked to end (SIGINT) shortly before the limit, and then killed: the
    processes that it started go with it. So they do when this one is interrupted.
    """
    began = time.monotonic()
    log.write(f"\n$ {' '.join(command)}\n")
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(
        command, env=environment, cwd=folder, text=True, errors="replace", start_new_session=True, **streams
    )
    timed_out = threading.Event()

    def end(number: int) -> None:
        timed_out.set()
        _signal(process.pid, number)

    grace = min(GRACE, limit / 4)
    timers = [threading.Timer(limit - grace, end, (signal.SIGINT,)), threading.Timer(limit, end, (signal.SIGKILL,))]
    output = []
    try:
        for timer in timers:
            timer.start()
        for line in process.stdout:
            output.append(line.rstrip("\n"))
            log.write(line)
            log.flush()
            if sys.stderr.isatty():
                print(f"\r\033[K{output[-1][:110]}", end="", file=sys.stderr)
        code = process.wait()
    finally:
        for timer in timers:
            timer.cancel()
        _signal(process.pid, signal.SIGKILL)  # whoever is left of the group
        process.wait()
        process.stdout.close()
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr)
    return Ended(None if timed_out.is_set() else code, time.monotonic() - began, output)


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
