"""The documents: their Python runs, excerpts are the source, commands parse, links lead somewhere, lines fit."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path

import pytest

from minilm.cli import build_parser
from minilm.kernels.host.builder import find_compiler

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "kernels" / "README.md",
    ROOT / "benchmarks" / "README.md",
]
EXCERPT = re.compile(r"# (minilm/\S+\.py)\n")  # the first line of a block that is quoted, not run


def blocks(document: Path, language: str) -> list[str]:
    text = document.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def run(document: Path) -> int:
    """Run the Python blocks one after the other, as a reader would type them. Returns how many."""
    chosen = [block for block in blocks(document, "python") if not EXCERPT.match(block)]
    scope: dict = {}
    for block in chosen:
        exec(compile(block, document.name, "exec"), scope)
    return len(chosen)


@pytest.fixture(autouse=True)
def files_go_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_the_readmes_python_runs(capsys):
    assert run(README) >= 2
    losses = [float(line) for line in capsys.readouterr().out.splitlines()[-3:]]
    assert losses[2] < losses[0]


@pytest.mark.parametrize("name", ["docs/protocol.md", "docs/python.md"])
def test_the_documents_python_runs(name):
    assert run(ROOT / name) >= 2


@pytest.mark.skipif(find_compiler() is None, reason="the CUDA kernels run on the CPU through a C++ compiler")
def test_the_kernels_python_runs():
    assert run(ROOT / "kernels" / "README.md") >= 1


def test_excerpts_are_the_source():
    found = [block for block in blocks(README, "python") if EXCERPT.match(block)]
    assert found
    for block in found:
        source = ROOT / EXCERPT.match(block)[1]
        assert block.partition("\n")[2].strip() in source.read_text(encoding="utf-8"), f"{source} reads otherwise"


def test_the_readmes_commands_parse():
    lines = [line for block in blocks(README, "sh") for line in block.splitlines()]
    commands = [match for line in lines for match in re.findall(r"(?:^|&& )(?:\S*/)?minilm (.*)", line)]
    assert {command.split()[0] for command in commands} >= {
        "demo",
        "train",
        "generate",
        "evaluate",
        "finetune",
        "gradcheck",
    }
    for command in commands:
        arguments = build_parser().parse_args(shlex.split(command, comments=True))
        assert arguments.command == command.split()[0]


def test_the_readme_fits():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 180
    for document in DOCUMENTS:
        prose = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        long = [line for line in prose.splitlines() if len(line) > 120 and not line.startswith(("|", "!"))]
        assert not long, f"{document}: {textwrap.shorten(long[0], 60)}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    text = document.read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        file, _, anchor = re.sub(r"\s+", " ", link).partition("#")
        target = (document.parent / file) if file else document
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, link


def test_the_readme_has_links():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert {"CONTRIBUTING.md", "docs/adding.md", "kernels/README.md", "benchmarks/README.md"} <= set(links)
