"""The static tables: what is absent is named, and what is installed is compiled."""

from __future__ import annotations

import importlib.util
import json

import pytest

from benchmarks import __main__ as command, static
from minilm.kernels.gate import compile as compiling

HAS_TOOLS = compiling.missing() is None
HAS_TRITON = importlib.util.find_spec("triton") is not None


def test_without_the_compilers_they_are_named_and_the_roofline_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compiling, "missing", lambda: "cuobjdump not found; install the extra")
    file = tmp_path / "static.json"
    assert command.main(["static", "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "the compiled kernels are absent: cuobjdump not found" in shown
    for card in ("H100", "A100", "RTX 4090", "T4"):
        assert card in shown
    found = static.read_json(file)
    assert found["kernels"] == []
    assert found["roofline"][0][:3] == ["call", "MB", "GFLOP"]


def test_a_file_of_something_else_holds_no_tables(tmp_path):
    file = tmp_path / "other.json"
    file.write_text(json.dumps({"format": "minilm benchmarks, version 1"}))
    assert static.read_json(file) is None
    assert static.read_json(tmp_path / "absent.json") is None


@pytest.mark.skipif(not HAS_TOOLS, reason="the compilers of the extra kernels-ci are not installed")
@pytest.mark.filterwarnings("ignore:::triton")
def test_compiled_kernels_stand_beside_triton():
    found = static.static_tables()
    head, *rows = found["kernels"]
    assert head[:4] == ["kernel", "from", "registers", "spills"]
    assert all(len(row) == len(head) for row in rows)
    ours = [row for row in rows if row[1] == "minilm"]
    assert all(int(row[2]) > 0 and row[3] == "0" for row in ours)
    compiled_here = [row for row in rows if row[1].startswith("Triton") and "recorded" not in row[1]]
    assert len(compiled_here) == (2 if HAS_TRITON else 0)
    assert HAS_TRITON or any("Triton is absent" in note for note in found["notes"])
