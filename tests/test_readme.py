"""The README's Python runs as it stands, from top to bottom, and the files that it names are there."""

from __future__ import annotations

import re
from pathlib import Path

from minilm.kernels.host.builder import find_compiler

README = Path(__file__).parents[1] / "README.md"


def test_python_blocks_run(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 4
    if find_compiler() is None:  # the CUDA kernels run on the CPU through one
        blocks = [block for block in blocks if "minilm.kernels.cuda" not in block]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    scope: dict = {}
    for block in blocks:  # one after the other, as a reader would type them
        exec(compile(block, "README.md", "exec"), scope)
    losses = [float(line) for line in capsys.readouterr().out.splitlines()[-3:]]
    assert losses[2] < losses[0]


def test_links_lead_somewhere():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert links
    for link in links:
        assert (README.parent / link).exists(), link
