"""Does docs/architecture.md name what is there: paths, lists, folders in order and their packages?"""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection
from pathlib import Path

import pytest

from .test_layers import ALLOWED, LAYERS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
PAGES = [PAGE, ROOT / "CONTRIBUTING.md"]
TEXT = PAGE.read_text(encoding="utf-8")
OTHER_FOLDERS = {"tests", "docs", "models", "examples", ".ci"}
LISTS = re.findall(r"`([A-Z_]+)`\s+(?:in|of)\s+`([\w/]+)\.py`", TEXT)
ROWS = re.findall(r"^\| `(\w+)/` \|[^|]*\|([^|]*)\|$", TEXT, re.MULTILINE)
ADDING = re.findall(r"^### (An? .+)$", TEXT, re.MULTILINE)


def paths_in(page: Path) -> list[str]:
    """Words in backticks or in a fenced block that are a path of ours, or a pattern of such."""
    text = page.read_text(encoding="utf-8")
    fenced = "".join(re.findall(r"^```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    words = [*re.findall(r"`([^`\s]+)`", text), *re.findall(r"[a-z_]+/[\w/.]*", fenced)]
    return sorted({word for word in words if "/" in word and _is_ours(word)})


def _is_ours(word: str) -> bool:
    return word.partition("/")[0] in {*LAYERS, *OTHER_FOLDERS}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_exists(page: Path) -> None:
    paths = paths_in(page)
    assert len(paths) > 3
    assert [path for path in paths if not any(ROOT.glob(path))] == []


@pytest.mark.parametrize(("name", "module"), LISTS)
def test_every_list_to_add_to_is_there(name: str, module: str) -> None:
    held = getattr(importlib.import_module(f"tramontane.{module.replace('/', '.')}"), name)
    assert isinstance(held, Collection)
    assert held


def test_what_grows_by_one_entry_names_its_list() -> None:
    assert {name for name, _ in LISTS} >= {
        "FAULTS",
        "GEOMETRIES",
        "KINDS",
        "METHODS",
        "RECIPES",
        "RULES",
        "TARGETS",
        "_COMMANDS",
    }
    assert len(ADDING) == len(set(ADDING)) > 8


def test_folders_are_in_the_order_in_which_they_import() -> None:
    assert [name for name, _ in ROWS] == [layer for layer in LAYERS[::-1] if layer[0] != "_"]


@pytest.mark.parametrize(("folder", "packages"), ROWS)
def test_packages_of_a_folder_are_those_that_it_may_import(folder: str, packages: str) -> None:
    allowed = {name for name, layers in ALLOWED.items() if folder in layers}
    assert set(re.findall(r"\w+", packages)) == allowed


def test_ci_fuzzes_two_minutes_and_the_guide_names_the_same_commands() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    found = re.findall(r"^prove \d+ ((?:fuzz|torture) .*)$", script, re.MULTILINE)
    assert "fuzz SECONDS=120" in found
    assert len(found) == 2
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for command in found:
        assert f"`make {command}`" in guide
