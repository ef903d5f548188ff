"""python -m benchmarks report: one HTML page from results, nothing to load: tables, pictures, what was measured where.

The page is readable in light and dark, and without matplotlib (then it has no pictures, and says so). It shows what the
files hold and measures nothing.
"""

from __future__ import annotations

import argparse
import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from benchmarks import aims, plots, report, static
from benchmarks.guard import RESULTS
from benchmarks.options import add_command
from minilm.files import write_text
from minilm.kernels import roofline

EXAMPLES = """\
examples:
  python -m benchmarks report                                   the recorded results, as benchmarks.html
  python -m benchmarks report --from results.json static.json --out page.html
  python -m benchmarks report --markdown table.md --plots pictures   for a README"""
CSS = """
:root { color-scheme: light dark; --ink: #1f2328; --paper: #fff; --soft: #f6f8fa; --line: #d0d7de; --quiet: #59636e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --paper: #0d1117; --soft: #161b22; --line: #30363d; --quiet: #9198a1; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.2rem 4rem; max-width: 80rem; background: var(--paper); color: var(--ink);
       font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.35rem; margin: 2.8rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 2rem 0 .3rem; }
p { max-width: 48rem; }
.quiet { color: var(--quiet); font-size: .92rem; }
.wide { overflow-x: auto; margin: .7rem 0; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { background: var(--soft); font-weight: 600; }
th.text, td.text { text-align: left; }
th { white-space: normal; vertical-align: bottom; }
td.text + td.text { white-space: normal; min-width: 10.5rem; }
tr.total td { font-weight: 600; border-top: 2px solid var(--line); }
svg { max-width: 100%; height: auto; color: var(--ink); display: block; margin: .6rem 0; }
details { margin: .3rem 0 1rem; } summary { cursor: pointer; color: var(--quiet); font-size: .92rem; }
pre { font: .85rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; background: var(--soft);
      padding: .8rem 1rem; border-radius: 6px; overflow-x: auto; }
"""
HOW = """\
All variants of a workload get the same inputs, which change before every round. Outputs and gradients, those that the
timed calls return, are compared before, between and after the rounds; where one differs, writes to an input, or is
faster than the machine can be, the workload is refused. All run in one process, interleaved, in a new random order each
round, after a warm-up, with the garbage collector off; on the CPU each runs untimed for a moment before its time is
taken, so that caches and threads are its own. Tuned versions work in recycled memory (minilm.memory), as in a training
step. Times are the 20th, 50th and 80th percentile over the rounds. A ratio is the median over the rounds of time of the
first variant / time of this one, so a machine that slows down for a while slows both. On a GPU a call's kernels are
queued behind one that waits, events tell the time between the first and the last, without Python's, and a buffer of
several times the L2 cache is written before each run; whole models are timed on the host's clock."""


def add_arguments(commands: argparse._SubParsersAction) -> None:
    """The subcommand of `python -m benchmarks`."""
    parser = add_command(commands, "report", __doc__, main, EXAMPLES)
    about = "files that --json wrote, or folders of them (default: benchmarks/results)"
    parser.add_argument("--from", dest="sources", nargs="+", type=Path, default=[RESULTS], metavar="PATH", help=about)
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks.html"), metavar="FILE", help="(default: %(default)s)"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the table of ratios as Markdown")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="also write the pictures as PNG and SVG")


def main(arguments: argparse.Namespace) -> int:
    """`python -m benchmarks report`"""
    for path in filter(None, (arguments.out, arguments.markdown)):
        report.check_writable(path)
    if arguments.plots:
        plots.check(arguments.plots)
    runs, compiled = read_all(arguments.sources)
    write_text(arguments.out, page(runs, compiled))
    print(f"wrote {arguments.out}")
    if arguments.markdown:
        write_text(arguments.markdown, markdown(runs))
        print(f"wrote {arguments.markdown}")
    for (_, dtype), own in groups(runs).items() if arguments.plots else ():
        folder = arguments.plots if len(groups(runs)) == 1 else arguments.plots / dtype
        plots.check(folder)
        for path in plots.write_all(own, folder):
            print(f"wrote {path}")
    return 0


def read_all(sources: Iterable[Path]) -> tuple[list[report.TimedRun], dict[str, Any] | None]:
    """The runs in files and folders, and the static tables if one of them holds them (the last counts)."""
    files = []
    for source in sources:
        if not source.exists():
            raise ValueError(f"{source} does not exist; python -m benchmarks NAME --json FILE writes results")
        files += sorted(source.glob("*.json")) if source.is_dir() else [source]
    runs, compiled = [], None
    for file in files:
        tables = static.read_json(file)
        if tables is None:
            runs += report.read_json(file)
        compiled = tables or compiled
    if not any(run.rows for run in runs) and compiled is None:
        where = ", ".join(map(str, sources))
        raise ValueError(f"there are no results in {where}; python -m benchmarks NAME --json FILE writes some")
    return runs, compiled


def groups(runs: Sequence[report.TimedRun]) -> dict[tuple[str, str], list[report.TimedRun]]:
    """The runs that stand beside each other, by device and precision; what was measured again counts once, the last."""

    def place(run: report.TimedRun, row: report.TimedRow) -> tuple[Any, ...]:
        return run.environment["device"], row.dtype, row.threads, row.workload, row.size

    last = {place(run, row): number for number, run in enumerate(runs) for row in run.rows}
    found: dict[tuple[str, str], list[report.TimedRun]] = {}
    for number, run in enumerate(runs):
        rows = [row for row in run.rows if last[place(run, row)] == number]
        for dtype in dict.fromkeys(row.dtype for row in rows):
            own = run._replace(rows=[row for row in rows if row.dtype == dtype])
            found.setdefault((run.environment["device"], dtype), []).append(own)
    return found


def _mean(values: Iterable[float | None]) -> str:
    """The geometric mean of what is known."""
    known = [value for value in values if value]
    return f"{geometric_mean(known):.2f}" if known else ""


# ---- the table of ratios


def ratios(runs: Sequence[report.TimedRun]) -> list[list[str]]:
    """A head, one row per workload, and geometric means: our fastest variant, for each number of threads."""
    rows = [row for run in runs for row in run.rows]
    best = plots.headline(rows)
    threads = sorted({row.threads for row in best})
    against = "/".join(dict.fromkeys(row.against for row in best))
    aimed = not any("cupy" in run.environment for run in runs) and any(aims.aim_of(row) for row in rows)
    head = ["workload", "size", "variant"]
    for count in threads:
        head += [f"{report.thread_count(count)}: ms", f"ratio to {against}{' (aim)' if aimed else ''}", "× definition"]
    table = [head]
    for key in dict.fromkeys((row.workload, row.size) for row in best):
        own = [row for row in best if (row.workload, row.size) == key]
        table.append(_ratio_cells(key[0], own, threads, aimed))
        for phase in aims.phases_of(own[0]) if aimed else ():
            if phase != own[0].phase:
                part = [row for row in rows if (row.workload, row.size, row.phase) == (*key, phase)]
                table.append(_ratio_cells(f"{key[0]}, {phase} alone", plots.headline(part), threads, aimed))
    return table + _mean_cells(best, threads, aimed) if len(table) > 2 else table


def _ratio_cells(title: str, own: Sequence[report.TimedRow], threads: Sequence[int], aimed: bool) -> list[str]:
    """One line of the table of ratios, from a row for each number of threads."""
    cells = [title, own[0].size, " / ".join(dict.fromkeys(row.variant for row in own))]
    for count in threads:
        row = next((row for row in own if row.threads == count), None)
        if row is None:
            cells += ["", "", ""]
            continue
        ratio = aims.beside(row.ratio, aims.aim_of(row) if aimed else None)
        speedup = "" if row.ratio_to_definition is None else f"{row.ratio_to_definition:.2f}"
        cells += [report.milliseconds(row.p50_ms), ratio, speedup]
    return cells


def _mean_cells(best: Sequence[report.TimedRow], threads: Sequence[int], aimed: bool) -> list[list[str]]:
    """The last lines of the table of ratios: the mean of all, and of layers and steps where all of them are there."""
    total, wholes = ["geometric mean", "", ""], ["geometric mean of layers and steps", "", ""]
    for count in threads:
        own = [row for row in best if row.threads == count]
        total += ["", _mean(row.ratio for row in own), _mean(row.ratio_to_definition for row in own)]
        mean = aims.mean_of_wholes(own)
        wholes += ["", "" if mean is None else aims.beside(mean, aims.LEAST_MEAN), ""]
    return [wholes, total] if aimed and any(wholes[3:]) else [total]


def markdown(runs: Sequence[report.TimedRun]) -> str:
    """The table of ratios of each group, for a README."""
    parts = []
    for (device, dtype), own in groups(runs).items():
        head, *rest = ratios(own)
        lines = [head, ["---", "---", "---", *["---:"] * (len(head) - 3)], *rest]
        dates = sorted({run.environment["date"] for run in own})
        measured = " to ".join(dict.fromkeys((dates[0], dates[-1])))
        parts.append(f"{device}, {dtype}, {measured}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts) + "\n"


# ---- the page


def page(runs: Sequence[report.TimedRun], compiled: dict[str, Any] | None = None) -> str:
    """The whole page as text."""
    parts = ["<h1>minilm benchmarks</h1>", f"<p>{html.escape(HOW)}</p>"]
    if not plots.available():
        parts.append(f"<p class=quiet>This page has no pictures: {html.escape(plots.MISSING)}.</p>")
    for (device, dtype), own in groups(runs).items():
        parts += _group(device, dtype, own)
    if compiled:
        parts += _static(compiled)
    parts += _repeat(runs, compiled)
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>minilm benchmarks</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{CSS}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _group(device: str, dtype: str, runs: Sequence[report.TimedRun]) -> list[str]:
    """One device and precision: the overview, where it was measured, each workload, the roofline."""
    pictures = {name: plots.inline(figure) for name, figure in plots.figures(runs)} if plots.available() else {}
    rows = [row for run in runs for row in run.rows]
    parts = [f"<h2>{html.escape(f'{device}, {dtype}')}</h2>", pictures.pop("overview", "")]
    parts.append(_table(ratios(runs), left=3, total=True))
    parts.append(
        "<p class=quiet>Our fastest variant of each workload, forward and backward together. Ratio: time of the peer / "
        "our time, above 1 we are faster; in brackets what it should be at least, and by how much it is missed. "
        "× definition: how much faster than the plain text of the operation.</p>"
    )
    parts += ["<h3>Where and when</h3>", _environments(runs)]
    notes = dict.fromkeys(note for run in runs for note in run.notes)
    parts += [f"<p class=quiet>{html.escape(note)}</p>" for note in notes]
    rooflines = {name: picture for name, picture in pictures.items() if name.startswith("roofline")}
    for name in dict.fromkeys(row.workload for row in rows):
        own = sorted((r for r in rows if r.workload == name), key=lambda r: (r.threads, report.PHASES.index(r.phase)))
        parts.append(f"<h3>{html.escape(name)}</h3>")
        parts += [picture for kind in ("bars", "scaling") if (picture := pictures.get(f"{kind}-{name}"))]
        parts.append(_details(own))
    if rooflines:
        parts.append(
            "<h3>Roofline</h3><p class=quiet>Forwards under this machine's own ceilings, a plain copy and a matrix "
            "product, measured in the same process. Points above the slope worked in the cache.</p>"
        )
        parts += rooflines.values()
    return parts


def _table(rows: Sequence[Sequence[str]], left: int = 1, total: bool = False) -> str:
    """An HTML table, its first row the head, `left` columns of text."""

    def line(cells: Sequence[str], tag: str, kind: str = "") -> str:
        inner = "".join(
            f"<{tag}{' class=text' if number < left else ''}>{html.escape(str(cell))}</{tag}>"
            for number, cell in enumerate(cells)
        )
        return f"<tr{kind}>{inner}</tr>"

    first_total = next((n for n in range(2, len(rows)) if total and rows[n][0].startswith("geometric")), None)
    body = [line(row, "td", " class=total" if n == first_total else "") for n, row in enumerate(rows) if n]
    return f"<div class=wide><table>{line(rows[0], 'th')}{''.join(body)}</table></div>"


def _details(rows: Sequence[report.TimedRow]) -> str:
    """All numbers of one workload, folded away."""
    table = []
    for key in dict.fromkeys((row.size, row.threads) for row in rows):
        own = [row for row in rows if (row.size, row.threads) == key]
        table += [[key[0], str(key[1]), *cells] for cells in report.cells_of(own)]
    shown = _table([["size", "threads", *report.HEAD], *table], left=4)
    return f"<details><summary>all numbers</summary>{shown}<p class=quiet>{html.escape(report.LEGEND)}</p></details>"


def _environments(runs: Sequence[report.TimedRun]) -> str:
    """The machine of each run, one column per run."""
    keys = dict.fromkeys(key for run in runs for key in run.environment)
    rows = [["", *(f"run {n}" for n in range(1, len(runs) + 1))]]
    rows += [[key.replace("_", " "), *(str(run.environment.get(key, "")) for run in runs)] for key in keys]
    return _table(rows)


def _static(compiled: dict[str, Any]) -> list[str]:
    parts = ["<h2>CUDA kernels, without a GPU</h2>"]
    parts += [f"<p class=quiet>{html.escape(note)}</p>" for note in compiled["notes"]]
    if compiled["kernels"]:
        about = f"{static.COMPILED} ({compiled['compilers']}, {compiled['date']}). FMA are those of the tensor cores."
        parts += [f"<p>{html.escape(about)}</p>", _table(compiled["kernels"], left=2)]
    parts += [f"<p>{html.escape(roofline.MEANING)}.</p>", _table(compiled["roofline"])]
    peaks = "".join(f"<li>{html.escape(line)}</li>" for line in compiled["peaks"])
    return [*parts, f"<p class=quiet>{html.escape(roofline.PEAKS)}:</p><ul class=quiet>{peaks}</ul>"]


def _repeat(runs: Sequence[report.TimedRun], compiled: dict[str, Any] | None) -> list[str]:
    """The commands that measure the same again."""
    lines = []
    for (_, dtype), own in groups(runs).items():
        names = dict.fromkeys(row.workload for run in own for row in run.rows)
        threads = ",".join(map(str, sorted({run.environment["threads"] for run in own})))
        peers = dict.fromkeys(row.against for run in own for row in run.rows if row.against != "definition")
        device = " --device cuda" if any("cupy" in run.environment for run in own) else ""
        against = f" --against {','.join(peers)}" if peers else ""
        options = f"--threads {threads} --dtype {dtype}{device}{against} --json results.json"
        lines.append(f"python -m benchmarks {' '.join(names)} {options}")
    if compiled:
        lines.append("python -m benchmarks static --json static.json")
    sources = [name for name, given in (("results.json", runs), ("static.json", compiled)) if given]
    lines.append(f"python -m benchmarks report --from {' '.join(sources)}")
    commands = html.escape("\n".join(lines))
    return ["<h2>How to repeat it</h2>", f"<pre>{commands}</pre>"]
