"""Plots as SVG for an HTML page: in the page's colours and font, each in two widths."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours of the page's style sheet, light or dark, by the colour that stands for each in a plot.
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
_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
_NUMBERS = ("d", "x", "y", "width", "height")  # attributes
MARGINS = {"left": 0.52, "right": 0.16, "top": 0.36, "bottom": 0.5}  # inches


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """The same plot in two widths, and what it shows in words."""

    summary: str
    wide: str  # SVG, for an HTML page
    narrow: str


def draw(name: str, summary: str, paint: Callable[[Axes, bool], None], *, height: float) -> Plot:
    """Draw a plot in each width.

    Args:
        name: unique within the page; ids are made of it.
        summary: what it shows, in words.
        paint: draws into the axes; its second argument says whether they are wide.
        height: in inches.
    """
    svgs = {}
    for width, inches in _WIDTHS.items():
        svg = _svg(f"{name}-{width}", paint, size=(inches, height), is_wide=width == "wide")
        svgs[width] = _inlined(svg, summary)
    return Plot(summary=summary, **svgs)


def _svg(
    name: str, paint: Callable[[Axes, bool], None], *, size: tuple[float, float], is_wide: bool
) -> str:
    # Slow to import, and needed only to draw.
    from matplotlib import style
    from matplotlib.figure import Figure

    width, height = size
    inside = (
        MARGINS["left"] / width,
        MARGINS["bottom"] / height,
        1 - (MARGINS["left"] + MARGINS["right"]) / width,
        1 - (MARGINS["top"] + MARGINS["bottom"]) / height,
    )
    # With the name as salt, ids are the same in every run and differ between plots of a page.
    with style.context(["default", {**_STYLE, "svg.hashsalt": name}]), io.StringIO() as file:
        figure = Figure(figsize=size)
        paint(figure.add_axes(inside), is_wide)
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=metadata)
        return file.getvalue()


def _inlined(svg: str, summary: str) -> str:
    """Make a file a part of a page, which sets its size, its colours and its font."""
    root = ElementTree.fromstring(svg)  # leaves comments out
    style_sheet = root[0]  # matplotlib's, which would apply to the whole page
    assert [element.tag for element in style_sheet] == [f"{_SVG}style"]
    root.remove(style_sheet)
    root.attrib = {"role": "img", "aria-label": summary, "viewBox": root.attrib["viewBox"]}
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)  # HTML knows SVG without a namespace
        element.attrib = {
            name.removeprefix(_XLINK): _converted(name, value)
            for name, value in element.attrib.items()
            if not value.startswith("rotate(-0 ")  # matplotlib writes it for every text
        }
        element.tail = None
        if not (element.text or "").strip():
            element.text = None
    _drop_unused_ids(root)
    _move_common_styles(root)
    return ElementTree.tostring(root, encoding="unicode")


def _converted(name: str, value: str) -> str:
    """The value of an attribute, with the page's colours and font, and with short numbers."""
    if name == "style":
        pairs = [pair.strip().split(": ", 1) for pair in value.split(";") if pair.strip()]
        styles = {key: text for key, text in pairs if key != "font-family"}
        colours = {text: f"var(--{colour})" for text, colour in _COLOURS.items()}
        return "; ".join(f"{key}: {colours.get(text, text)}" for key, text in styles.items())
    if name in _NUMBERS:
        return " ".join(
            word if word.isalpha() else f"{round(float(word), 2):g}" for word in value.split()
        )
    return value


def _drop_unused_ids(root: ElementTree.Element) -> None:
    """Drop ids that nothing refers to: they are the same in every plot of a page."""
    references = [
        element.get(name, "") for element in root.iter() for name in ("href", "clip-path")
    ]
    used = {reference.partition("#")[2].removesuffix(")") for reference in references}
    for element in root.iter():
        if element.get("id") not in used:
            element.attrib.pop("id", None)


def _move_common_styles(root: ElementTree.Element) -> None:
    """Write the style of many marks once, on their group."""
    for group in root.iter("g"):
        styles = {mark.get("style") if mark.tag == "use" else None for mark in group}
        if len(styles) == 1 and (style := styles.pop()) is not None:
            group.set("style", style)
            for mark in group:
                del mark.attrib["style"]
