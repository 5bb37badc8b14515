"""Fills in the template of a page and copies its plots; ``stored_reports`` reads what it shows."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2

FIGURES = "figures"


def fill_in(template: Path, **values: Any) -> str:
    """A page in Markdown; a value that the template needs and does not get is an error."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(template.read_text(encoding="utf-8")).render(**values)


def put_figures(plots: Iterable[Path], *, page: Path) -> dict[str, str]:
    """Copy plots into the folder ``figures`` beside a page; how it links each, by its name."""
    links = {}
    for plot in plots:
        (page.parent / FIGURES).mkdir(exist_ok=True)
        shutil.copyfile(plot, page.parent / FIGURES / plot.name)
        links[plot.name] = f"{FIGURES}/{plot.name}"
    return links
