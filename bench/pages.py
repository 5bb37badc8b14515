"""Reads the reports that a page is made of, fills in its template and copies its plots."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2

from ..runtime.errors import ContractError

FIGURES = "figures"


def read_report(path: Path) -> dict[str, Any]:
    """The JSON object that a measurement wrote.

    Raises:
        ContractError: the file cannot be read.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ContractError(
            f"{path}: cannot be read ({error}), expected JSON; measure it again"
        ) from error
    return found


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
