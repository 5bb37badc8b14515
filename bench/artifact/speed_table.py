"""Shows an artifact's speeds: a table, and a plot by position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from ...console.plot_file import plot_file
from ...console.rich_console import rich_console
from ...runtime.sizes import counted, format_bytes
from ..samples import Spread
from .speed import SpeedReport

_COLORS = ("#1f3a5f", "#c0692b")
# Labels of figures by the start of their names; other names are labels.
_LABELS = {
    "load": "time to load",
    "first token": "time to first token",
    "peak of load": "peak RSS while loading",
    "driver's share": "driver, share of a step",
    "driver": "driver, time per step",
    "resident at": "RSS at position",
    "decode at": "decode at position",
    "prefill": "prefill, prompt of",
}


def print_report(report: SpeedReport) -> None:
    """Print hardware limits, figures with their spread, and the share of the limit of each."""
    machine = report.about["machine"]
    print(
        f"{report.artifact}: {report.recipe}, {format_bytes(report.file_bytes)} of weights; "
        f"{machine['processor']}, {counted(machine['threads'], 'thread')}, "
        f"{counted(report.about['rounds'], 'round')}"
    )
    table = Table("what", "median", "lowest to highest", "share of the hardware limit")
    for what, found in report.limits.items():
        table.add_row(f"hardware limit: {what}", *_cells(f"limit {what}", found), "")
    for what, found in report.figures.items():
        share = report.shares.get(what)
        reached = "" if share is None else f"{share.median:.0%}"
        if what == "peak of load":
            reached = f"({found.median / report.file_bytes:.2f} x the weights)"
        table.add_row(_label(what), *_cells(what, found), reached)
    rich_console(width=110).print(table)


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One curve over positions."""

    title: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None  # lowest over rounds
    high: Sequence[float] | None = None


def plot(report: SpeedReport, path: Path) -> None:
    """Draw decode speed and resident memory over the position."""
    plot_lines(
        (
            _line(report, "decode at ", "decode, tokens per second", scale=1),
            _line(report, "resident at ", "resident memory, GB", scale=1e9),
        ),
        path,
    )


def plot_lines(lines: Sequence[Line], path: Path) -> None:
    """Draw curves over positions side by side, from 0 up; SVG or PNG, by the file's suffix."""
    with plot_file(path, size=(9, 3), panels=len(lines)) as panels:
        for axes, line, color in zip(panels, lines, _COLORS, strict=False):
            axes.plot(line.x, line.y, color=color, marker="o", markersize=3)
            if line.low is not None and line.high is not None:
                axes.fill_between(line.x, line.low, line.high, color=color, alpha=0.2, linewidth=0)
            axes.set(title=line.title, xlabel="position", ylim=(0, None))
            axes.spines[["top", "right"]].set_visible(False)


def _line(report: SpeedReport, prefix: str, title: str, *, scale: float) -> Line:
    found = {
        int(what.removeprefix(prefix)): one
        for what, one in report.figures.items()
        if what.startswith(prefix)
    }
    return Line(
        title=title,
        x=list(found),
        y=[one.median / scale for one in found.values()],
        low=[min(one.values) / scale for one in found.values()],
        high=[max(one.values) / scale for one in found.values()],
    )


def _label(what: str) -> str:
    """What a figure is, in words.

    >>> [_label(what) for what in ("load", "decode at 4096", "driver's share")]
    ['time to load', 'decode at position 4096', 'driver, share of a step']
    """
    start = next((start for start in _LABELS if what.startswith(start)), what)
    return _LABELS.get(start, start) + what.removeprefix(start)


def _cells(what: str, found: Spread) -> tuple[str, str]:
    shown = [_shown(what, value) for value in (found.median, min(found.values), max(found.values))]
    return shown[0], f"{shown[1]} to {shown[2]}"


def _shown(what: str, value: float) -> str:
    if what.endswith("share"):
        return f"{value:.1%}"
    if what.startswith(("resident", "peak")):
        return format_bytes(int(value))
    if what.startswith("limit"):
        return f"{value / 1e9:.1f} G{'B' if what.endswith('read') else 'MAC'}/s"
    if what == "driver":
        return f"{value * 1e6:.0f} us"
    return f"{value:.2f} s" if what in ("load", "first token") else f"{value:.1f} tokens/s"
