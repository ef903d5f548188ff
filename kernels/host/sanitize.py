"""Run Python code, and the kernels that it launches, under a sanitizer's runtime, in a process of its own.

    python -m minilm.kernels.host.sanitize thread script.py [argument ...]
    outcome = run_sanitized("address,undefined", "import numpy as np ...")

A sanitizer must be in the process before anything else, so its runtime is preloaded; only what the builder compiles is
instrumented. The code runs inside `host_options(sanitizer=...)`. Instrumented kernels run 5 to 50 times as long.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from minilm.checks import one_of
from minilm.kernels.host.builder import find_compiler

RUNTIMES = {"thread": "tsan", "address,undefined": "asan"}
FAILURE = 66  # exit code of a process in which a sanitizer found something
WRAPPER = """
import sys
from minilm.kernels.host import host_options
with host_options(sanitizer={sanitizer!r}):
    sys.argv = sys.argv[1:]
    scope = {{"__name__": "__main__", "__file__": sys.argv[0]}}
    exec(compile(open(sys.argv[0], encoding="utf-8").read(), sys.argv[0], "exec"), scope)
"""


class Outcome(NamedTuple):
    """The outcome of a sanitized run."""

    code: int  # 0: the code ran to its end, and the sanitizer is silent
    output: str  # of the code
    report: str  # of the sanitizer, and the traceback of an exception

    @property
    def clean(self) -> bool:
        return self.code == 0


def runtime(sanitizer: str) -> str | None:
    """The shared library of a sanitizer that belongs to the compiler; None if it isn't installed."""
    compiler, short = find_compiler(), RUNTIMES[one_of("sanitizer", sanitizer, RUNTIMES)]
    if compiler is None:
        return None
    for name in (f"lib{short}.so", f"libclang_rt.{short}-{platform.machine()}.so", f"libclang_rt.{short}.so"):
        found = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
        if os.path.isabs(found) and os.path.exists(found):
            return os.path.realpath(found)
    return None


def run_sanitized(sanitizer: str, code: str, *arguments: str, timeout: float = 300) -> Outcome:
    """Run Python code under "thread" or "address,undefined"."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "sanitized.py"
        script.write_text(code, encoding="utf-8")
        return run_script(sanitizer, str(script), *arguments, timeout=timeout)


def run_script(sanitizer: str, script: str, *arguments: str, timeout: float | None = None) -> Outcome:
    library = runtime(sanitizer)
    if library is None:
        raise FileNotFoundError(f"the runtime of sanitizer {sanitizer!r} isn't installed for {find_compiler()}")
    options = f"exitcode={FAILURE}"
    environment = {
        **os.environ,
        "LD_PRELOAD": library,
        "OPENBLAS_NUM_THREADS": "1",  # threads that aren't the kernel's own are noise
        "OMP_NUM_THREADS": "1",
        "TSAN_OPTIONS": f"{options} report_signal_unsafe=0 history_size=4",
        "ASAN_OPTIONS": f"{options} detect_leaks=0 detect_stack_use_after_return=0 allocator_may_return_null=1",
        "UBSAN_OPTIONS": f"{options} print_stacktrace=1 halt_on_error=1",
    }
    command = [sys.executable, "-c", WRAPPER.format(sanitizer=sanitizer), script, *arguments]
    result = _run(command, environment, timeout)
    if "unexpected memory mapping" in result.stderr:  # ThreadSanitizer and a kernel that spreads addresses widely
        result = _run(["setarch", platform.machine(), "-R", *command], environment, timeout)
    return Outcome(result.returncode, result.stdout, result.stderr)


def _run(command: list[str], environment: dict[str, str], timeout: float | None) -> subprocess.CompletedProcess:
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)


def main(arguments: list[str]) -> int:
    if len(arguments) < 2 or arguments[0] not in RUNTIMES:
        print(f"usage: python -m {__spec__.name} {'|'.join(RUNTIMES)} script.py [argument ...]", file=sys.stderr)
        return 2
    outcome = run_script(*arguments)
    print(outcome.output, end="")
    print(outcome.report, end="", file=sys.stderr)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
