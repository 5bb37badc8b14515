"""Plots of a report, each with a description in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..layer_checks.findings import LayerFinding
from .scales import LogScale, write_number
from .svg import ACCENT, BAD, INK, MARGINS, MUTED, Plot, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_DOTS = 2048  # beyond it, a dot stands for several positions
_MOST_NAMES = 4  # written beside dots
_MARKERS = {"weights": "o", "rounding": "^", "operators": "D", "rows": "s"}


def plot_positions(
    kl: Sequence[float | None], *, evictions: Sequence[int], window: int | None
) -> Plot:
    """Draw divergence over position, with the window's edge and the evictions.

    Args:
        kl: in nats, by position; None: not a number.
        evictions: positions before which rows were evicted.
        window: keys that a query sees, its own included; None: all.
    """
    values = _numbers(kl)
    per_dot = math.ceil(len(values) / _MOST_DOTS)
    positions = np.arange(0, len(values), per_dot)
    worst = np.maximum.reduceat(values, positions)  # hands on a NaN
    axis = LogScale.over(worst)
    width, medians = _rolling_median(values)

    def paint(axes: Axes, is_wide: bool) -> None:
        is_nan = np.isnan(worst)
        for chosen, colour in ((~is_nan, ACCENT), (is_nan, BAD)):
            x, y = positions[chosen], axis.place(worst)[chosen]
            _dots(axes, x, y, size=3.2 if is_wide else 2.4, colour=colour)
        middles = np.arange(0, len(medians), per_dot)
        axes.plot(middles + width // 2, medians[middles], color=INK, linewidth=1.4)
        _ticks(axes, evictions)
        if window is not None and window < len(values):
            axes.axvline(window, color=INK, linewidth=0.9, linestyle=(0, (3, 3)))
            _beside_line(axes, window, f"window's edge: {window}", share=window / len(values))
        axes.set_xlim(-0.01 * len(values) - 0.5, 1.01 * len(values))
        axes.locator_params(axis="x", integer=True)
        on_log(axes, axis, title="KL divergence, nats", headroom=1.5)
        axes.set_xlabel("position")

    worst_position = int(np.nan_to_num(values, nan=np.inf).argmax())
    words = [
        f"KL divergence at each of {len(values)} positions, on a logarithmic scale: median "
        f"{_median(values)}, largest {write_number(float(values[worst_position]))} at position "
        f"{worst_position}."
    ]
    if window is not None and window < len(values):
        words.append(
            f"The window's edge is at position {window}: the median is "
            f"{_median(values[:window])} before it and {_median(values[window:])} behind it."
        )
    if evictions:
        words.append(f"Rows were evicted {len(evictions)} times, first at {evictions[0]}.")
    return draw("positions", " ".join(words), paint, height=3.5)


def plot_spread(kl: Sequence[float | None], *, bound: float | None) -> Plot:
    """Draw how many positions have which divergence.

    Args:
        kl: in nats, by position; None: not a number.
        bound: on the mean; None: not bounded.
    """
    values = _numbers(kl)
    seen = values[np.isfinite(values) & (values > 0)]
    mean = float(values.mean())
    named = ((mean, "mean"), (bound or 0, "bound on the mean"))
    marks = [(mark, name) for mark, name in named if 0 < mark < math.inf]
    is_beyond = bound is not None and not mean <= bound
    axis = LogScale.over(np.array([*seen, *(mark for mark, _ in marks)]), margin=0.03)

    def paint(axes: Axes, is_wide: bool) -> None:
        bins = np.geomspace(*axis.limits, 61 if is_wide else 37)
        counts, _ = np.histogram(seen, bins)
        lefts = bins[:-1] * (bins[1:] / bins[:-1]) ** 0.08
        widths = bins[:-1] * (bins[1:] / bins[:-1]) ** 0.92 - lefts
        axes.bar(lefts, counts, widths, align="edge", color=ACCENT, alpha=0.75, linewidth=0)
        most = max(1, int(counts.max(initial=0)))
        axes.set_ylim(0, 1.28 * most)
        for nth, (mark, name) in enumerate(sorted(marks, reverse=True)):
            y = 0.97 - 0.11 * nth  # so that no text lies on the other's line
            colour = BAD if name == "mean" and is_beyond else INK if name == "mean" else MUTED
            axes.axvline(mark, 0, y, color=colour, linewidth=0.9, linestyle=(0, (3, 3)))
            text = f"{name} {write_number(mark)}"
            share = math.log(mark / axis.limits[0]) / math.log(axis.limits[1] / axis.limits[0])
            _beside_line(axes, mark, text, share=share, y=y, colour=colour)
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_xlim(*axis.limits)
        axes.set_xticks(list(axis.ticks()), list(axis.ticks().values()))
        axes.locator_params(axis="y", nbins=4, integer=True)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        _title(axes, "positions")
        axes.set_xlabel("KL divergence, nats")

    words = (
        f"Histogram of KL divergence over {len(values)} positions, with logarithmic bins: median "
        f"{_median(values)}, mean {write_number(mean)}"
        f"{'' if bound is None else f', bound on the mean {write_number(bound)}'}."
    )
    left_out = len(values) - len(seen)
    if left_out:
        words += f" Left out: {left_out} positions whose divergence is zero or not a number."
    return draw("spread", words, paint, height=2.8)


def plot_drift(drift: Sequence[float | None]) -> Plot:
    """Draw how far the hidden state is off after each layer, relative to its length."""
    values = _numbers(drift)
    axis = LogScale.over(values, margin=0.25)
    layers = np.arange(len(values))

    def paint(axes: Axes, is_wide: bool) -> None:
        is_number = ~np.isnan(values)
        axes.plot(layers, np.where(is_number, axis.place(values), np.nan), color=ACCENT)
        for chosen, colour in ((is_number, ACCENT), (~is_number, BAD)):
            placed = axis.place(values)[chosen]
            axes.plot(layers[chosen], placed, "o", color=colour, markersize=5, clip_on=False)
        on_log(axes, axis, title="mean relative error of the hidden state")
        _layer_ticks(axes, [str(layer) for layer in layers], most=34 if is_wide else 12)
        axes.set_xlim(-0.5, len(values) - 0.5)
        axes.set_xlabel("after layer")

    first, last = (write_number(float(values[at])) for at in (0, -1))
    words = (
        f"Line: mean relative error of the hidden state after each of {len(values)} layers, from "
        f"{first} after the first to {last} after the last, on a logarithmic scale."
    )
    return draw("drift", words, paint, height=2.3)


def plot_findings(findings: Sequence[LayerFinding]) -> Plot:
    """Draw each weight's, operator's and row's error as a share of its bound, by layer."""
    shares = np.array([one.error / one.bound for one in findings])
    is_broken = np.array([one.is_broken for one in findings])
    labels, columns = _columns(findings)
    kinds = [one.kind for one in findings]
    axis = LogScale.over(np.append(shares, [1.0, 2.0]), margin=0.09)
    placed = axis.place(shares)
    offsets = {"weights": -0.2, "rounding": -0.2, "operators": 0.0, "rows": 0.2}
    places = np.array(
        [column + offsets[kind] for column, kind in zip(columns, kinds, strict=True)]
    )

    def paint(axes: Axes, is_wide: bool) -> None:
        size = min(5.0, (160 if is_wide else 56) / len(labels))
        for kind, marker in _MARKERS.items():
            for bad in (False, True):
                chosen = (np.array(kinds) == kind) & (is_broken == bad)
                colour = BAD if bad else ACCENT
                axes.plot(
                    places[chosen],
                    placed[chosen],
                    linestyle="none",
                    marker=marker,
                    markersize=max(2.2, size * (1.25 if bad else 1 if marker == "o" else 0.85)),
                    color=colour,
                    markerfacecolor=ACCENT if kind == "operators" and not bad else colour,
                    alpha=1 if bad else 0.65,
                    fillstyle="none" if kind == "weights" and not bad else "full",
                    markeredgewidth=0.9,
                    clip_on=False,
                )
        axes.axhline(1, color=INK, linewidth=0.9, linestyle=(0, (3, 3)))
        axes.annotate(
            "bound", (1, 1), (0, 3), axes.get_yaxis_transform(), "offset points", ha="right"
        ).set_color(INK)
        _name_the_worst(axes, findings, shares, places, placed)
        on_log(axes, axis, title="error as a share of its bound")
        _layer_ticks(axes, labels, most=34 if is_wide else 10)
        axes.set_xlim(-0.6, len(labels) - 0.4)
        axes.set_xlabel("layer")

    worst = int(np.nan_to_num(shares, nan=np.inf).argmax())
    most = f"{findings[worst].place}: {write_number(float(shares[worst]))} times its bound"
    beyond = int(is_broken.sum())
    words = (
        f"Error of {len(findings)} weights, operators and cached rows as a share of its bound, by "
        "layer, on a logarithmic scale. "
        + (f"Beyond their bounds: {beyond}, furthest " if beyond else "None is beyond, nearest ")
        + f"{most}."
    )
    return draw("findings", words, paint, height=3.8)


def _dots(axes: Axes, x: np.ndarray, y: np.ndarray, *, size: float, colour: str) -> None:
    """A dot for each point: a line with round ends, all but without length."""
    if len(x):
        ends = x - 1e-4 * (1 + np.ptp(x)), y  # without any, it is left out
        _strokes(axes, ends, (x, y), color=colour, linewidth=size, capstyle="round", alpha=0.55)


def _ticks(axes: Axes, x: Sequence[int]) -> None:
    """A short tick at the foot of the plot for each place."""
    if x:
        feet = np.zeros(len(x))
        transform = axes.get_xaxis_transform()
        style = {"color": MUTED, "linewidth": 0.7, "transform": transform}
        _strokes(axes, (np.array(x), feet), (np.array(x), feet + 0.03), **style)


def _strokes(
    axes: Axes,
    starts: tuple[np.ndarray, np.ndarray],
    ends: tuple[np.ndarray, np.ndarray],
    **style: Any,
) -> None:
    """Many lines as one path: as marks, a thousand would be most of the page."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    points = np.stack([np.transpose(starts), np.transpose(ends)], axis=1).reshape(-1, 2)
    path = Path(points, [Path.MOVETO, Path.LINETO] * (len(points) // 2))
    axes.add_artist(PathPatch(path, fill=False, **style))


def on_log(axes: Axes, axis: LogScale, *, title: str, headroom: float = 0) -> None:
    """Give axes a logarithmic scale, and a title."""
    axes.set_yscale("log")
    axes.minorticks_off()
    ticks = axis.ticks()
    axes.set_yticks(list(ticks), list(ticks.values()))
    low, high = axis.limits
    axes.set_ylim(low, high * axis.step**headroom)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    _title(axes, title)


def _title(axes: Axes, text: str) -> None:
    """Say what the upright axis is, above it and flush with its ticks' text."""
    width = axes.bbox.width / axes.figure.dpi
    axes.set_title(text, x=-MARGINS["left"] / width)


def _beside_line(
    axes: Axes, x: float, text: str, *, share: float, y: float = 0.97, colour: str = INK
) -> None:
    """Write beside an upright line, on the side that has more room."""
    side = -1 if share > 0.6 else 1
    axes.annotate(
        text,
        (x, y),
        (5 * side, 0),
        axes.get_xaxis_transform(),
        "offset points",
        ha="right" if side < 0 else "left",
        va="top",
        color=colour,
    )


def _layer_ticks(axes: Axes, labels: Sequence[str], *, most: int) -> None:
    step = math.ceil(len(labels) / most)
    places = [at for at, label in enumerate(labels) if at % step == 0 or not label.isdigit()]
    axes.set_xticks(places, [labels[at] for at in places])


def _name_the_worst(
    axes: Axes,
    findings: Sequence[LayerFinding],
    shares: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
) -> None:
    """Write the names of broken ones, each once and where it is worst."""
    order = np.argsort(-np.nan_to_num(shares, nan=np.inf), kind="stable")
    named: dict[str, int] = {}
    for at in order:
        if findings[at].is_broken:
            named.setdefault(findings[at].name, int(at))
    for name, at in list(named.items())[:_MOST_NAMES]:
        axes.annotate(
            name, (x[at], y[at]), (0, 6), "data", "offset points", ha="center", color=BAD
        )


def _columns(findings: Sequence[LayerFinding]) -> tuple[list[str], list[int]]:
    """Labels of the layers, what is before and behind them included, and each finding's."""
    layers = sorted({one.layer for one in findings if one.layer is not None})
    seen, columns = False, []
    for one in findings:
        seen = seen or one.layer is not None
        outside = len(layers) + 1 if seen else 0
        columns.append(outside if one.layer is None else 1 + layers.index(one.layer))
    return ["in", *map(str, layers), "out"], columns


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([math.nan if value is None else value for value in values], np.float64)


def _median(values: np.ndarray) -> str:
    return write_number(float(np.median(np.nan_to_num(values, nan=np.inf))))


def _rolling_median(values: np.ndarray) -> tuple[int, np.ndarray]:
    """Width, and the median of so many neighbours; none where there are too few positions."""
    width = max(9, len(values) // 32) | 1
    if len(values) < 3 * width:
        return width, np.zeros(0)
    windows = np.lib.stride_tricks.sliding_window_view(np.nan_to_num(values, nan=np.inf), width)
    medians = np.median(windows, axis=1)
    return width, np.where((medians > 0) & (medians < np.inf), medians, np.nan)
