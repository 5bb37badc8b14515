"""How does a plot become part of a page? As SVG in the page's own colours, in two widths."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours that stand for a page's, so that plots follow it into dark mode: name by sentinel.
_COLOURS = {"#0a0001": "ink", "#0a0002": "muted", "#0a0003": "line", "#0a0004": "accent"}
_COLOURS["#0a0005"] = "bad"
INK, MUTED, LINE, ACCENT, BAD = _COLOURS
_STYLE = {
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.labelpad": 6,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": MUTED,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.titlesize": 9,
    "axes.unicode_minus": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.size": 9,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.left": False,
}
_WIDTHS = {"wide": 9.5, "narrow": 4.0}  # inches
MARGINS = {"left": 0.52, "right": 0.16, "top": 0.36, "bottom": 0.5}  # inches


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """The same plot in two widths, and what it shows in words."""

    summary: str
    wide: str  # SVG, for an HTML page
    narrow: str


def draw(name: str, summary: str, paint: Callable[[Axes, bool], None], *, height: float) -> Plot:
    """Let ``paint`` fill the axes of a plot of each width.

    Args:
        name: its own within the page.
        summary: what it shows, in words.
        paint: given the axes, and whether they are wide.
        height: in inches.
    """
    svgs = {}
    for width, inches in _WIDTHS.items():
        svg = _svg(f"{name}-{width}", paint, size=(inches, height), is_wide=width == "wide")
        label = html.escape(summary)
        svgs[width] = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return Plot(summary=summary, **svgs)


def _svg(
    name: str, paint: Callable[[Axes, bool], None], *, size: tuple[float, float], is_wide: bool
) -> str:
    # It takes a while to load, and only who draws needs it.
    from matplotlib import style
    from matplotlib.figure import Figure

    width, height = size
    inside = (
        MARGINS["left"] / width,
        MARGINS["bottom"] / height,
        1 - (MARGINS["left"] + MARGINS["right"]) / width,
        1 - (MARGINS["top"] + MARGINS["bottom"]) / height,
    )
    # The name as salt: ids are the same in every run, and others in every plot of a page.
    with style.context(["default", {**_STYLE, "svg.hashsalt": name}]), io.StringIO() as file:
        figure = Figure(figsize=size)
        paint(figure.add_axes(inside), is_wide)
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=metadata)
        return _inlined(file.getvalue())


def _inlined(svg: str) -> str:
    """Make a file a part of a page: its size, colours and font are the page's, ids are unique."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->\s*|<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:xmlns(?::xlink)?|version|width|height)="[^"]*"', "", svg, count=5)
    used = set(re.findall(r"#([\w.]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
    svg = re.sub(r"font-family: [^;\"]+; ", "", svg)
    svg = re.sub(r' transform="rotate\(-0 [^"]*\)"', "", svg)
    svg = re.sub(r">[^<]+<|-?\d+\.\d{3,}", _shortened, svg)
    svg = re.sub(r"\s*\n\s*", " ", svg)
    svg = re.sub(r"<g([^>]*)>((?: ?<use [^>]*/>)+) ?</g>", _with_common_style, svg)
    for sentinel, name in _COLOURS.items():
        svg = svg.replace(sentinel, f"var(--{name})")
    return svg.strip()


def _shortened(found: re.Match[str]) -> str:
    return found[0] if found[0].startswith(">") else f"{float(found[0]):.2f}"


def _with_common_style(found: re.Match[str]) -> str:
    """Write the style of many marks once, on their group."""
    attributes, marks = found.groups()
    styles = set(re.findall(r' style="[^"]*"', marks))
    if len(styles) != 1:
        return found[0]
    style = styles.pop()
    return f"<g{attributes}{style}>{marks.replace(style, '')}</g>"
