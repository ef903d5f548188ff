"""`python -m minilm.kernels check` from its first line to its last, on the stand-in: a GPU adds the device alone.

The command and all processes that it starts import the stand-in as CuPy; in place of compute-sanitizer stands a script
that only runs what it is given.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from minilm.kernels.check.parts import NAMES
from tests import strict_cupy

ROOT = Path(__file__).parents[2]
STAND_IN = Path(strict_cupy.__file__).parent / "as_cupy"
SANITIZER = f"""#!{sys.executable}
import os, sys
print("========= COMPUTE-SANITIZER")
at = sys.argv.index("9") + 1
os.execv(sys.argv[at], sys.argv[at:])
"""


@pytest.fixture
def environment(tmp_path):
    """Of a machine with the stand-in for a GPU, and a tool in place of compute-sanitizer."""
    tool = tmp_path / "bin" / "compute-sanitizer"
    tool.parent.mkdir()
    tool.write_text(SANITIZER)
    tool.chmod(0o755)
    path = os.pathsep.join([str(tool.parent), os.environ["PATH"]])
    return os.environ | {"PATH": path, "PYTHONPATH": os.pathsep.join([str(STAND_IN), str(ROOT)])}


def check(environment, folder, *options):
    command = [sys.executable, "-m", "minilm.kernels", "check", "--out", str(folder), *options]
    return subprocess.run(command, env=environment, cwd=folder.parent, capture_output=True, text=True, timeout=1800)


@pytest.mark.full
def test_all_parts_run_on_the_stand_in(environment, host_run, tmp_path):
    done = check(environment, tmp_path / "results", "--quick", "--minutes", "30", "--processes", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "results" / "check.json").read_text())
    assert [part["part"] for part in told["parts"]] == list(NAMES)
    assert {part["status"] for part in told["parts"]} == {"passed"}, told["parts"]
    assert all(part["passed"] > 0 for part in told["parts"])
    assert "estimated" in done.stdout and f"results are in {tmp_path / 'results'}" in done.stdout
    suites = ElementTree.parse(tmp_path / "results" / "check.xml").getroot()
    assert [suite.get("name") for suite in suites] == list(NAMES)
    by_name = {record["name"]: record for record in told["records"]}
    assert by_name["device"]["figures"]["name"] == "stand-in"
    kernels = {kernel["name"] for kernel in by_name["tiny GPT"]["figures"]["kernels"]}
    assert {"attention.cu:attention_forward", "cross_entropy.cu:cross_entropy"} <= kernels
    assert (tmp_path / "results" / "benchmarks-torch.json").exists()

    again = check(environment, tmp_path / "results", "--quick")
    assert again.returncode == 2 and "holds the results of a check already" in again.stderr


def test_a_wrong_kernel_ends_with_1_and_the_next_part_runs(environment, host_run, tmp_path):
    """The instruction's twin is made wrong for the parts' processes, by a copy of the sources on their path."""
    code = "import minilm.kernels.cuda.launch as door; original = door.source_of; " + (
        "door.source_of = lambda file: original(file).replace("
        "'true, file, line);', 'false, file, line);')"  # load_matrix_x4_trans no longer transposes
    )
    (tmp_path / "sitecustomize.py").write_text(code + "\n")
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), environment["PYTHONPATH"]])
    done = check(environment, tmp_path / "results", "--only", "ptx,device", "--minutes", "2")
    assert done.returncode == 1, done.stdout + done.stderr
    told = json.loads((tmp_path / "results" / "check.json").read_text())
    assert [(part["part"], part["status"]) for part in told["parts"]] == [("device", "passed"), ("ptx", "failed")]
    assert told["parts"][1]["detail"].startswith("ldmatrix")
