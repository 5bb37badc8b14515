"""Reads Python's standard library as text to learn from, and text that is held out."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import NamedTuple

# Folders that teach little Python: other packages, tests, tables of characters and words.
SKIPPED = {"site-packages", "test", "tests", "idle_test", "encodings", "__pycache__"}
HELD_OUT_SHARE = 20  # one file in so many


class Corpus(NamedTuple):
    """Source files, split once and for all into those learned from and those held out."""

    train: list[str]
    held_out: list[str]


def read_corpus() -> Corpus:
    """Read the standard library of the running Python, in the order of its paths."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(
        path for path in root.rglob("*.py") if not SKIPPED & set(path.relative_to(root).parts)
    )
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in paths]
    texts = [text for text in texts if len(text) > 200]
    held_out = texts[::HELD_OUT_SHARE]
    return Corpus([text for i, text in enumerate(texts) if i % HELD_OUT_SHARE], held_out)
