"""Plots mean KL over bits per weight, with the families of formats and the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...console.plot_file import plot_file
from .rows import LLAMA_CPP, OURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLES = (("#1f5f8b", "o"), ("#b35c1e", "s"), ("#3f7d4e", "^"))  # of as many families
_FRONT = "#5b6675"
_FONT_SIZE = 8  # points
_CHARACTER, _LINE, _GAP = 7, 12, 7  # pixels: of a label at 100 dots per inch, and beside a mark
Styles = Mapping[str, tuple[str, str]]  # color and marker by family
Box = tuple[float, float, float, float]  # left, bottom, right, top, in pixels


def plot(
    report: dict[str, Any], path: Path, *, families: Sequence[str] = (OURS, LLAMA_CPP)
) -> None:
    """Draw the quantized formats that were measured; SVG or PNG, by the file's suffix.

    Args:
        report: the model, and the rows of its formats.
        path: the picture.
        families: those of the rows, in the order of the legend.
    """
    rows = [one for one in report["rows"] if one["is_quantized"] and one.get("mean_kl")]
    with plot_file(path, size=(9, 5)) as [axes]:
        axes.set(
            title=f"{report['model']}: mean KL from the unquantized model, nats",
            xlabel="bits per weight, all that ships",
            yscale="log",
        )
        axes.margins(x=0.16, y=0.1)
        axes.spines[["top", "right"]].set_visible(False)
        styles = dict(zip(families, _STYLES, strict=False))
        _paint(axes, rows, styles)
        axes.figure.canvas.draw()  # which gives the axes their place
        _label(axes, rows, styles)


def _paint(axes: Axes, rows: Sequence[dict[str, Any]], styles: Styles) -> None:
    """The front, and a mark for each format, filled on the front."""
    front = sorted(_point(one) for one in rows if one["is_on_front"])
    if front:
        style: dict[str, Any] = {"color": _FRONT, "linewidth": 1, "linestyle": "--", "zorder": 1}
        axes.step(*zip(*front, strict=True), where="post", label="Pareto front", **style)
    for family, (color, marker) in styles.items():
        for one in (one for one in rows if one["family"] == family):
            bits, kl = _point(one)
            face = color if one["is_on_front"] else "white"
            axes.plot(bits, kl, marker, color=color, markerfacecolor=face)
        axes.plot([], [], marker, color=color, label=family)
    axes.legend(frameon=False)


def _label(axes: Axes, rows: Sequence[dict[str, Any]], styles: Styles) -> None:
    """Write each format's name beside its mark, where it covers no other."""
    marks = [axes.transData.transform(_point(one)) for one in rows]
    taken: list[Box] = [(x - 4, y - 4, x + 4, y + 4) for x, y in marks]
    for one, (x, y) in zip(rows, marks, strict=True):
        name = one["name"].removeprefix(f"{one['family']} ")
        width = _CHARACTER * len(name)
        places = [
            (left, bottom, left + width, bottom + _LINE)
            for bottom in (y + _GAP / 2, y - _LINE / 2, y - _LINE - _GAP / 2)
            for left in (x + _GAP, x - _GAP - width)
        ]
        box = min(places, key=lambda place: sum(_overlap(place, other) for other in taken))
        taken.append(box)
        is_right = box[0] > x
        corner = axes.figure.transFigure.inverted().transform(
            (box[0] if is_right else box[2], (box[1] + box[3]) / 2)
        )
        axes.annotate(
            name,
            tuple(corner),
            xycoords="figure fraction",
            ha="left" if is_right else "right",
            va="center",
            fontsize=_FONT_SIZE,
            color=styles[one["family"]][0],
        )


def _overlap(a: Box, b: Box) -> float:
    """Area that two boxes share."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


def _point(row: dict[str, Any]) -> tuple[float, float]:
    return row["bits_per_weight"], row["mean_kl"]
