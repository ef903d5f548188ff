"""The findings of a part of the check, line by line: written when it is known, so that nothing is lost to a crash.

    say(Record("ptx", "mma.m16n8k16, float16", "passed", "0.04 of what is allowed"))      in a part's process
    records = read(path)                                                                  in the command's
    write_junit(path, records)

The parts run in processes of their own and share one file of JSON lines. Its name, and the part's, stand in their
environment.
"""

from __future__ import annotations

import json
import math
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from minilm.files import replacing

RESULTS_VARIABLE = "MINILM_CHECK_RESULTS"
PART_VARIABLE = "MINILM_CHECK_PART"
PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


class Record(NamedTuple):
    """One check, one test, one figure."""

    part: str
    name: str
    status: str  # PASSED, FAILED or SKIPPED
    detail: str = ""  # a line of text: what was found, or why it failed or was skipped
    figures: Mapping[str, Any] = {}
    seconds: float = 0.0


def say(record: Record) -> None:
    """Print a record, and append it to the file of results, where there is one."""
    print(f"{record.status}: {record.name}{': ' if record.detail else ''}{record.detail}", flush=True)
    if results := os.environ.get(RESULTS_VARIABLE):
        append(results, record)


def append(path: str | Path, record: Record) -> None:
    """In one write, so that the lines of several processes don't mix."""
    with open(path, "ab", buffering=0) as file:
        file.write(json.dumps(_plain(record._asdict()), allow_nan=False).encode() + b"\n")


def _plain(value: Any) -> Any:
    """`value` as JSON can hold it: numbers that are not finite, and whatever else it doesn't know, as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)


def read(path: Path) -> list[Record]:
    """The records of a file, in order. A last line that a killed process left half is passed over."""
    found = []
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        try:
            found.append(Record(**json.loads(line)))
        except ValueError:
            continue
    return found


def write_junit(path: Path, records: Iterable[Record]) -> None:
    """The records in the form that test reports have: a suite for each part."""
    suites = ElementTree.Element("testsuites")
    by_part: dict[str, list[Record]] = {}
    for record in records:
        by_part.setdefault(record.part, []).append(record)
    for part, own in by_part.items():
        named = {"failures": FAILED, "skipped": SKIPPED}
        counts = {name: str(sum(r.status == status for r in own)) for name, status in named.items()}
        suite = ElementTree.SubElement(suites, "testsuite", name=part, tests=str(len(own)), errors="0", **counts)
        for record in own:
            case = ElementTree.SubElement(
                suite, "testcase", classname=part, name=record.name, time=f"{record.seconds:.3f}"
            )
            if record.figures:
                properties = ElementTree.SubElement(case, "properties")
                for name, value in record.figures.items():
                    ElementTree.SubElement(properties, "property", name=name, value=str(value))
            if record.status == FAILED:
                ElementTree.SubElement(case, "failure", message=_clean(record.detail))
            elif record.status == SKIPPED:
                ElementTree.SubElement(case, "skipped", message=_clean(record.detail))
            elif record.detail:
                ElementTree.SubElement(case, "system-out").text = _clean(record.detail)
    with replacing(path) as temporary:
        ElementTree.ElementTree(suites).write(temporary, encoding="utf-8", xml_declaration=True)


def _clean(text: str) -> str:
    """Without the control characters that XML does not allow (a terminal's colours, say)."""
    return "".join(c for c in text if c >= " " or c in "\n\t")
