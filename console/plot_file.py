"""Draws a plot into a file: SVG or PNG, the same bytes for the same figures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GRID = "#d9dee5"


@contextlib.contextmanager
def plot_file(path: Path, *, size: tuple[float, float], panels: int = 1) -> Iterator[list[Axes]]:
    """Yield axes side by side, with a grid; the file is written when the block ends well.

    Args:
        path: of the file; its suffix names the format.
        size: width and height in inches.
        panels: how many axes.
    """
    import matplotlib as mpl  # slow to import, and needed only to draw

    mpl.use("agg")
    from matplotlib import pyplot

    with mpl.rc_context({"svg.hashsalt": "tramontane", "svg.fonttype": "none"}):
        figure, axes = pyplot.subplots(
            1, panels, figsize=size, dpi=100, layout="constrained", squeeze=False
        )
        try:
            yield list(axes[0])
            for one in axes[0]:
                one.grid(color=_GRID, linewidth=0.6)
            figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        finally:
            pyplot.close(figure)
