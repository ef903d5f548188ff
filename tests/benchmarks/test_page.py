"""The report: one file that loads nothing, shows what the results hold, and refuses what holds none."""

from __future__ import annotations

import html.parser
import importlib.util
import json

import pytest

from benchmarks import __main__ as command, aims, page, static
from benchmarks.guard import RESULTS
from tests.benchmarks import toy

HAS_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None
VOID = {"meta", "link", "br", "img", "hr"}


class Balanced(html.parser.HTMLParser):
    """Every tag is closed, in order, and nothing is fetched."""

    def __init__(self):
        super().__init__()
        self.open, self.text = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            assert name not in ("src", "onload", "onclick")
            assert name != "href" or value.startswith("#"), value
            assert name != "xlink:href" or value.startswith("#"), value

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(path):
    parser = Balanced()
    parser.feed(path.read_text(encoding="utf-8"))
    assert parser.open == []
    return " ".join(parser.text)


def test_one_file_with_everything(tmp_path, capsys):
    runs = [toy.run(threads=1, notes=["peer jax is absent <here>"]), toy.run(threads=2)]
    source, out = toy.results(tmp_path, runs=runs), tmp_path / "page.html"
    assert command.main(["report", "--from", str(source), "--out", str(out)]) == 0
    text = read(out)
    for word in ("A CPU, float32", "cpu.blocked", "peer jax is absent <here>", "ratio to torch", "2 threads: ms"):
        assert word in text
    assert "python -m benchmarks softmax --threads 1,2 --dtype float32 --against torch" in text
    assert ("<svg" in out.read_text(encoding="utf-8")) is HAS_MATPLOTLIB


def test_static_tables_have_their_place(tmp_path):
    found = {
        "format": static.FORMAT, "date": "2026-02-03", "compilers": "NVRTC 1", "notes": ["Triton is absent"],
        "kernels": [["kernel", "from"], ["softmax", "minilm"]], "roofline": [["call", "H100"], ["softmax", "1 m"]],
        "peaks": ["H100: 3"],
    }  # fmt: skip
    (tmp_path / "static.json").write_text(json.dumps(found))
    out = tmp_path / "page.html"
    assert command.main(["report", "--from", str(tmp_path), "--out", str(out)]) == 0
    text = read(out)
    assert "not run" in text
    assert "Triton is absent" in text


def test_without_matplotlib_the_page_says_so(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    out = tmp_path / "page.html"
    assert command.main(["report", "--from", str(toy.results(tmp_path)), "--out", str(out)]) == 0
    assert "no pictures" in read(out)
    assert "<svg" not in out.read_text(encoding="utf-8")
    assert command.main(["report", "--from", str(tmp_path), "--out", str(out), "--plots", str(tmp_path)]) == 2


def test_the_table_for_a_readme():
    """torch takes twice the time of our fastest variant in one workload, half in the other: the mean ratio is 1."""
    slow = {"torch": 1.0, "definition": 4.0, "cpu.blocked": 2.0}
    table = page.markdown([toy.run(workload="softmax"), toy.run(workload="gelu", milliseconds=slow)])
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert lines[2] == "| softmax | 8 x 16 | cpu.blocked | 1.000 | 2.00 | 4.00 |"
    assert lines[-1] == "| geometric mean |  |  |  | 1.00 | 2.83 |"


def aimed_runs(milliseconds):
    """Everything that has an aim, on one thread, with the same times."""
    found = []
    for workload, size, phase in aims.LEAST:
        phases = (phase,) if phase == "call" else ("forward", "backward", "both")
        found.append(toy.run(workload=workload, size=size, phases=phases, milliseconds=milliseconds))
    return found


def test_the_table_shows_aims_and_by_how_much_they_are_missed():
    table = page.markdown(aimed_runs({"torch": 1.0, "cpu.blocked": 2.0}))
    lines = {line.split(" | ")[0].strip("| "): line for line in table.splitlines() if line.startswith("|")}
    assert "| 0.50 (0.70: −29 %) |" in lines["softmax, forward alone"]
    assert "| 0.50 (0.50) |" in lines["softmax, backward alone"]
    assert "| 0.50 (0.35) |" in lines["layer_norm"]
    assert "| 0.50 (1.20: −59 %) |" in lines["geometric mean of layers and steps"]


def test_aims_are_for_pytorch_on_the_cpu_only():
    times = {"jax": 1.0, "cpu.blocked": 2.0}
    assert "(" not in page.markdown(aimed_runs(times)).partition("\n\n")[2]
    runs = aimed_runs({"torch": 1.0, "cuda": 2.0})
    on_a_gpu = [run._replace(environment=run.environment | {"cupy": "14"}) for run in runs]
    assert "(" not in page.markdown(on_a_gpu).partition("\n\n")[2]
    (row,) = toy.rows(workload="softmax", size="4096 x 1024", phases=("forward",), milliseconds={"torch": 1.0})
    assert aims.aim_of(row) == 0.7
    assert aims.aim_of(row._replace(dtype="float64")) is None


def test_every_aim_has_a_recorded_result():
    runs, _ = page.read_all([RESULTS])
    recorded = {(row.workload, row.size, row.phase, row.threads) for run in runs for row in run.rows}
    assert {(*key, threads) for key, least in aims.LEAST.items() for threads in least} <= recorded


def test_what_was_measured_again_counts_once():
    again = toy.run(milliseconds={"torch": 6.0, "definition": 6.0, "cpu.blocked": 6.0})
    (runs,) = page.groups([toy.run(), again]).values()
    assert {row.p50_ms for run in runs for row in run.rows} == {6.0}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds no benchmark results"),
        ("{}", "holds no benchmark results"),
        ("[1, 2]", "holds no benchmark results"),
        ('{"format": "something else", "runs": []}', "something else"),
        ('{"format": "minilm benchmarks, version 1", "runs": [{"environment": {}, "rows": [{"a": 1}]}]}', "holds no"),
        ('{"format": "minilm benchmarks, version 1", "runs": []}', "no results"),
    ],
)  # fmt: skip
def test_foreign_files_are_refused(content, words, tmp_path, capsys):
    file = tmp_path / "foreign.json"
    file.write_text(content)
    assert command.main(["report", "--from", str(file), "--out", str(tmp_path / "page.html")]) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert "foreign.json" in shown
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("sources", [["absent.json"], ["."]])
def test_nothing_to_report(sources, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.main(["report", "--from", *sources]) == 2
    assert "--json FILE" in capsys.readouterr().err


def test_the_folder_must_exist(tmp_path, capsys):
    source = toy.results(tmp_path)
    assert command.main(["report", "--from", str(source), "--out", str(tmp_path / "no" / "page.html")]) == 2
    assert "there is no folder" in capsys.readouterr().err
