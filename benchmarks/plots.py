"""Pictures of results: ratios at a glance, bars with their spread, time over size, and the roofline of this machine.

    overview      our fastest variant of each workload against the first peer: above 1 is faster
    bars          a workload's variants: medians, with lines from the 20th to the 80th percentile
    scaling       time over size, where a workload was measured with several sizes
    roofline      arithmetic rate over arithmetic intensity (operations per byte moved), under the measured ceilings:
                  rate <= min(intensity × copy bandwidth, rate of a matrix product)
                  [Williams, Waterman & Patterson 2009]

matplotlib is asked for only here.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import peer_of
from benchmarks.report import PHASES, TimedRow, TimedRun, check_writable, milliseconds, thread_count

INK = "#24292f"  # of text and axes in files; a page replaces it by the reader's own colour
GRID = "#8c959f"
COLOURS = {"definition": "#8c959f", "torch": "#e07b39", "jax": "#2a9d8f", "triton": "#8e6bbf", "gensim": "#c95f8a"}
OURS = ("#1f77d0", "#63b3ed", "#0b4f9e")  # tuned versions
LONGEST = 1.6  # the line of a spread in the overview ends at this factor of the median
SMALL = {"fontsize": 7.5, "textcoords": "offset points"}  # numbers and names beside what they tell of
STYLE = {
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.hashsalt": "minilm",
    "svg.fonttype": "path",
}
MISSING = 'matplotlib is not installed; pip install matplotlib, or the extra: pip install "minilm[plot]"'


def available() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def check(folder: Path) -> None:
    """ValueError where pictures cannot be drawn, or not written there: known before anything is measured."""
    if not available():
        raise ValueError(f"--plots: {MISSING}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise ValueError(f"--plots {folder}: the folder cannot be made: {problem.strerror}") from None
    check_writable(folder / "overview.png")


def write_all(runs: Sequence[TimedRun], folder: Path) -> list[Path]:
    """Every picture as PNG and SVG; the paths."""
    written = []
    for name, figure in figures(runs):
        for ending in ("png", "svg"):
            path = folder / f"{name}.{ending}"
            options = {"metadata": {"Date": None}} if ending == "svg" else {"dpi": 160}
            figure.savefig(path, facecolor="white", bbox_inches="tight", **options)
            written.append(path)
    return written


def inline(figure: Any) -> str:
    """A picture as SVG text for a page: transparent, its text in the colour of the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")


def figures(runs: Sequence[TimedRun]) -> Iterator[tuple[str, Any]]:
    """All pictures, each with the name of its file; closed when the next is asked for."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for run in runs for row in run.rows]
    drawn = [("overview", _overview, rows)]
    for name in dict.fromkeys(row.workload for row in rows):
        own = [row for row in rows if row.workload == name]
        kind, draw = ("scaling", _scaling) if len({row.size for row in own}) > 1 else ("bars", _bars)
        drawn.append((f"{kind}-{name}", draw, own))
    drawn += [(f"roofline{_suffix(runs, run)}", _roofline, run) for run in runs]
    with matplotlib.rc_context(STYLE):
        for name, draw, shown in drawn:
            figure = draw(plt, shown)
            if figure is not None:
                yield name, figure
                plt.close(figure)


def _suffix(runs: Sequence[TimedRun], run: TimedRun) -> str:
    threads = run.environment["threads"]
    alike = [other for other in runs if other.environment["threads"] == threads]
    return f"-{threads}t" + (f"-{alike.index(run) + 1}" if len(alike) > 1 else "")


def colours(variants: Sequence[str]) -> dict[str, str]:
    """A colour for each variant: the same for a peer in every picture."""
    tuned = [v for v in variants if v not in COLOURS and not peer_of(v)]
    chosen = {}
    for variant in variants:
        chosen[variant] = COLOURS.get(peer_of(variant) or variant) or OURS[tuned.index(variant) % len(OURS)]
    return chosen


def headline(rows: Sequence[TimedRow]) -> list[TimedRow]:
    """Of each workload, size and thread count the row to look at first: our fastest variant of the whole."""
    found = []
    for key in dict.fromkeys((r.workload, r.size, r.threads, r.dtype) for r in rows):
        own = [r for r in rows if (r.workload, r.size, r.threads, r.dtype) == key and not peer_of(r.variant)]
        whole = [r for r in own if r.phase in ("both", "call")] or own
        if whole:
            found.append(min(whole, key=lambda row: row.p50_ms))
    return found


def _overview(plt: Any, rows: Sequence[TimedRow]) -> Any:
    """Horizontal bars of the ratio on a logarithmic axis, 1 in the middle: one for each thread count."""
    best = headline(rows)
    one_size = {row.workload: row.size for row in best}
    best = [row for row in best if row.size == one_size[row.workload]]
    names, threads = list(dict.fromkeys(row.workload for row in best)), sorted({row.threads for row in best})
    against = {row.against for row in best}
    if against == {"definition"}:
        best = [row._replace(ratio=row.ratio_to_definition or 1.0) for row in best]
    figure, axes = plt.subplots(figsize=(7.2, 0.9 + 0.2 * len(names) * max(2, len(threads))), layout="constrained")
    height = 0.76 / len(threads)
    for row in best:
        lane = threads.index(row.threads)
        y = names.index(row.workload) - 0.38 + height * (lane + 0.5)
        axes.barh(y, row.ratio - 1, left=1, height=height * 0.9, color=OURS[lane % len(OURS)])
        spread = (max(row.ratio_p20, row.ratio / LONGEST), min(row.ratio_p80, row.ratio * LONGEST))
        axes.plot(spread, (y, y), color=INK, linewidth=0.8)
        right = row.ratio >= 1
        end = max(row.ratio, spread[1]) if right else min(row.ratio, spread[0])
        shift, side = (3, "left") if right else (-3, "right")
        axes.annotate(f"{row.ratio:.2f}", (end, y), (shift, 0), va="center", ha=side, **SMALL)
    axes.axvline(1, color=INK, linewidth=0.9)
    axes.set_xscale("log", base=2)
    low = min([0.6, *(row.ratio for row in best)]) / LONGEST / 1.3
    high = max([1.4, *(row.ratio for row in best)]) * LONGEST * 1.3
    axes.set_xlim(low, high)
    marks = [power for power in range(-8, 9) if low <= 2.0**power <= high]
    axes.set_xticks([2.0**power for power in marks], [f"{2**p}" if p >= 0 else f"1/{2**-p}" for p in marks])
    axes.minorticks_off()
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x")
    axes.set_xlabel(
        f"time of {' / '.join(sorted(against))} / our time (right of 1: we are faster)\n"
        f"lines: 20th to 80th percentile, drawn to at most {LONGEST} times the median"
    )
    for lane, count in enumerate(threads):
        axes.barh(0, 0, color=OURS[lane % len(OURS)], label=thread_count(count))
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(threads))
    axes.set_title(f"Forward and backward, {', '.join(sorted({row.dtype for row in best}))}")
    return figure


def _bars(plt: Any, rows: Sequence[TimedRow]) -> Any:
    """A panel for each thread count, a group for each phase, a bar for each variant."""
    threads, variants = sorted({r.threads for r in rows}), list(dict.fromkeys(r.variant for r in rows))
    phases = [phase for phase in PHASES if any(r.phase == phase for r in rows)]
    colour = colours(variants)
    height = 0.8 / len(variants)
    size = (7.2, 1.4 + 0.24 * len(phases) * len(variants))
    figure, panels = plt.subplots(
        1, len(threads), sharex=True, sharey=True, squeeze=False, layout="constrained", figsize=size
    )
    for axes, count in zip(panels[0], threads, strict=True):
        for row in (r for r in rows if r.threads == count):
            y = phases.index(row.phase) - 0.4 + height * (variants.index(row.variant) + 0.5)
            axes.barh(y, row.p50_ms, height=height * 0.88, color=colour[row.variant])
            axes.plot((row.p20_ms, row.p80_ms), (y, y), color=INK, linewidth=0.9)
            note = milliseconds(row.p50_ms) + ("" if row.variant == row.against else f"  ×{row.ratio:.2f}")
            axes.annotate(note, (max(row.p50_ms, row.p80_ms), y), (4, 0), va="center", **SMALL)
        axes.set_title(thread_count(count))
        axes.set_xlabel("ms")
        axes.grid(axis="x")
        axes.set_yticks(range(len(phases)), phases)
        axes.set_ylim(len(phases) - 0.5, -0.5)
        axes.set_xlim(0, max(max(r.p80_ms, r.p50_ms) for r in rows) * (1.22 + 0.14 * len(threads)))
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour[v]) for v in variants]
    first = rows[0]
    figure.legend(handles, variants, loc="outside lower center", ncols=len(variants))
    figure.suptitle(f"{first.workload}  {first.size}  {first.dtype}", x=0.01, ha="left", fontsize=10, color=INK)
    return figure


def _scaling(plt: Any, rows: Sequence[TimedRow]) -> Any:
    """Lines over the sizes, in the order in which they were measured; bands from the 20th to the 80th percentile."""
    threads, variants = sorted({r.threads for r in rows}), list(dict.fromkeys(r.variant for r in rows))
    sizes, colour = list(dict.fromkeys(r.size for r in rows)), colours(variants)
    figure, panels = plt.subplots(
        1, len(threads), figsize=(3.6 + 1.8 * len(threads), 3.6), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, count in zip(panels[0], threads, strict=True):
        for variant in variants:
            own = [r for r in rows if r.threads == count and r.variant == variant and r.phase in ("both", "call")]
            own = own or [r for r in rows if r.threads == count and r.variant == variant and r.phase == "forward"]
            own.sort(key=lambda row: sizes.index(row.size))
            at = [sizes.index(row.size) for row in own]
            axes.plot(at, [r.p50_ms for r in own], "o-", markersize=4, color=colour[variant], label=variant)
            axes.fill_between(at, [r.p20_ms for r in own], [r.p80_ms for r in own], color=colour[variant], alpha=0.2)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xticks(range(len(sizes)), sizes, rotation=20, ha="right")
        axes.grid()
        axes.set_title(f"{rows[0].workload}, {rows[0].dtype}, {thread_count(count)}")
    panels[0][0].set_ylabel("forward and backward, ms" if rows[0].phase != "call" else "ms")
    panels[0][0].legend()
    return figure


def _roofline(plt: Any, run: TimedRun) -> Any:
    """The forward of every variant whose bytes and operations are known; None where there is none."""
    points = [
        r for r in run.rows if r.phase in ("forward", "call") and r.gigabytes_per_second and r.gigaflops_per_second
    ]
    if not points:
        return None
    copy, product = (run.environment[f"{n}_per_second"] for n in ("copy_gigabytes", "product_gigaflops"))
    kinds = {r.variant: peer_of(r.variant) or ("definition" if r.variant == "definition" else "tuned") for r in points}
    intensity = {r: r.gigaflops_per_second / r.gigabytes_per_second for r in points}
    low, high = min(intensity.values()) / 2, max(*intensity.values(), product / copy) * 3
    figure, axes = plt.subplots(figsize=(7.2, 5), layout="constrained")
    for kind in dict.fromkeys(kinds.values()):
        own = [r for r in points if kinds[r.variant] == kind]
        x, y = [intensity[r] for r in own], [r.gigaflops_per_second for r in own]
        marker, colour = {"definition": "s", "tuned": "o"}.get(kind, "^"), COLOURS.get(kind, OURS[0])
        axes.plot(x, y, label=kind, linestyle="", alpha=0.9, marker=marker, color=colour)
    bottom = min(r.gigaflops_per_second for r in points) / 40  # room for the names
    for place, names in _columns(points, intensity):
        axes.annotate(
            names, (place, bottom), (0, 4), ha="center", va="bottom", rotation=90, multialignment="left", **SMALL
        )
    x = np.geomspace(low, high, 200)
    axes.plot(x, np.minimum(x * copy, product), color=INK, linewidth=1.4)
    axes.annotate(f"copy {copy:.0f} GB/s", (low, low * copy), (4, 36), **SMALL)
    axes.annotate(f"matrix product {product:.0f} GFLOP/s", (high, product), (-4, 5), ha="right", **SMALL)
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(bottom, product * 4))
    axes.grid(which="major")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("operations per byte moved at least")
    axes.set_ylabel("GFLOP/s")
    axes.legend(loc="upper left", ncols=len(set(kinds.values())))
    axes.set_title(f"Roofline of the forwards, {points[0].dtype}, {thread_count(run.environment['threads'])}")
    return figure


def _columns(points: Sequence[TimedRow], intensity: dict[TimedRow, float]) -> list[tuple[float, str]]:
    """The workloads by place on the axis; those at nearly the same place are named together, in the middle of them."""
    columns: list[list[TimedRow]] = []
    for row in sorted(points, key=lambda r: intensity[r]):
        if columns and intensity[row] < intensity[columns[-1][0]] * 1.35:
            columns[-1].append(row)
        else:
            columns.append([row])
    return [
        ((intensity[rows[0]] * intensity[rows[-1]]) ** 0.5, "\n".join(dict.fromkeys(row.workload for row in rows)))
        for rows in columns
    ]
