"""A plugin for pytest: a record for each test, when it ends. `-p minilm.kernels.check.pytest_records`"""

from __future__ import annotations

import os

import pytest

from minilm.kernels.check.records import FAILED, PART_VARIABLE, PASSED, RESULTS_VARIABLE, SKIPPED, Record, append

STATUS = {"passed": PASSED, "failed": FAILED, "skipped": SKIPPED}


def pytest_configure(config: pytest.Config) -> None:
    """Where tests are spread over processes, the first one hears of them all."""
    results = os.environ.get(RESULTS_VARIABLE)
    if results and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(results, os.environ.get(PART_VARIABLE, "tests")))


class Recorder:
    """Appends to the file of results."""

    def __init__(self, results: str, part: str):
        self.results, self.part = results, part

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called for each phase of a test; what precedes and follows it is of interest where it went wrong."""
        if report.when != "call" and report.passed:
            return
        detail = ""
        if report.failed:
            detail = getattr(getattr(report.longrepr, "reprcrash", None), "message", None) or report.longreprtext
        elif report.skipped:
            detail = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        figures = dict(report.user_properties)
        record = Record(self.part, report.nodeid, STATUS[report.outcome], detail, figures, report.duration)
        append(self.results, record)
