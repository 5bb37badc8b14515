"""Do the examples in docstrings and the commands in the README still hold?"""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = [
    "tramontane.sizes",
    *(
        ".".join(["tramontane", *path.relative_to(ROOT).with_suffix("").parts])
        for layer in ("runtime", "graphs", "export", "validate", "faults")
        for path in sorted((ROOT / layer).rglob("*.py"))
        if path.stem not in ("__init__", "__main__")
    ),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_print_what_they_say(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_every_make_target_that_the_readme_names_is_there() -> None:
    named = set(re.findall(r"^\s+make ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"export", "test"} <= named <= targets


def test_the_script_that_the_docs_show_is_the_one_that_is_run() -> None:
    shown = (ROOT / "docs" / "runtimes.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", shown, re.DOTALL | re.MULTILINE)
    assert (ROOT / "runtime" / "bare.py").read_text(encoding="utf-8") in blocks
