"""Puts the plots that a page shows into the folder ``figures`` beside it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

FOLDER = "figures"


def put_figures(plots: Iterable[Path], *, page: Path) -> dict[str, str]:
    """Copy plots for a page; how the page links each, by the plot's name."""
    links = {}
    for plot in plots:
        (page.parent / FOLDER).mkdir(exist_ok=True)
        shutil.copyfile(plot, page.parent / FOLDER / plot.name)
        links[plot.name] = f"{FOLDER}/{plot.name}"
    return links
