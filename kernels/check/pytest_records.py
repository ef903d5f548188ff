"""A plugin for pytest: a record for each test, when it ends. `-p minilm.kernels.check.pytest_records`"""

from __future__ import annotations

import os

import pytest

from minilm.kernels.check.records import FAILED, PART_VARIABLE, PASSED, RESULTS_VARIABLE, SKIPPED, Record, append

STATUS = {"passed": PASSED, "failed": FAILED, "skipped": SKIPPED}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Called for each phase of a test, for those of other processes too: these leave it to the first one."""
    results = os.environ.get(RESULTS_VARIABLE)
    if not results or "PYTEST_XDIST_WORKER" in os.environ or (report.when != "call" and report.passed):
        return
    detail = ""
    if report.failed:
        detail = getattr(getattr(report.longrepr, "reprcrash", None), "message", None) or report.longreprtext
    elif report.skipped:
        detail = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
    figures = dict(report.user_properties)
    part = os.environ.get(PART_VARIABLE, "tests")
    append(results, Record(part, report.nodeid, STATUS[report.outcome], detail, figures, report.duration))
