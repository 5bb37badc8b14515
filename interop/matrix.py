"""How is the matrix of artifacts and runtimes shown?"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .answers import Cell

_NOT_TAKEN = "-"


class Matrix:
    """Cells by artifact and runtime, in the order in which they came."""

    def __init__(self, runtimes: Sequence[str]) -> None:
        self.runtimes = list(runtimes)
        self.rows: dict[str, dict[str, Cell]] = {}
        self._left_out: dict[str, str] = {}

    def add(self, artifact: str, runtime: str, cell: Cell) -> None:
        """Put a cell in its place."""
        self.rows.setdefault(artifact, {})[runtime] = cell

    def leave_out(self, artifact: str, why: str) -> None:
        """Note an artifact that could not be made here."""
        self._left_out[artifact] = why

    @property
    def failures(self) -> list[str]:
        """Every cell that is not as it must be, in words."""
        return [
            f"{artifact}, {runtime}: {cell.said}"
            for artifact, cells in self.rows.items()
            for runtime, cell in cells.items()
            if cell.is_failure
        ]

    @property
    def absent(self) -> dict[str, str]:
        """Runtimes and artifacts that could not be had, and why."""
        return self._left_out | {
            runtime: cell.said
            for cells in self.rows.values()
            for runtime, cell in cells.items()
            if cell.is_absent
        }

    @property
    def versions(self) -> dict[str, dict[str, str]]:
        """What each runtime says of itself."""
        return {
            runtime: cell.versions
            for cells in self.rows.values()
            for runtime, cell in cells.items()
            if cell.versions
        }

    def print_table(self) -> None:
        """For people: a line a cell, since so many columns fit on no terminal."""
        table = Table("artifact", "runtime", "found")
        for artifact, cells in self.rows.items():
            for runtime in self.runtimes:
                table.add_row(artifact, runtime, escape(self._shown(cells, runtime)))
            table.add_section()
        Console().print(table)

    def as_markdown(self, command: str) -> str:
        """For docs."""
        lines = [
            "# One artifact, every runtime",
            "",
            f"Printed by `{command}`. *same tokens*: those of `transformers` in PyTorch, float32;",
            "where weights are rounded, those of our driver on the same kind of processor. Where",
            "a runtime's kernels round in their own way, its logits are held against PyTorch's by",
            "the gate's bounds instead: mean KL in nats, same likeliest token. *text*: its own",
            "tokenizer read the prompt and wrote the answer. What each must give is in",
            "`interop/runtimes.py`.",
            "",
            "| | " + " | ".join(self.runtimes) + " |",
            "| --- |" + " --- |" * len(self.runtimes),
        ]
        for artifact, cells in self.rows.items():
            shown = [self._shown(cells, name).replace("|", r"\|") for name in self.runtimes]
            lines.append("| " + " | ".join([artifact, *shown]) + " |")
        lines += ["", f"On {platform.machine()}, {os.cpu_count()} cores.", ""]
        for runtime, versions in self.versions.items():
            told = ", ".join(f"{name} {number}" for name, number in versions.items())
            lines.append(f"- {runtime}: {told}")
        lines += [f"- {runtime} was absent: {why}" for runtime, why in self.absent.items()]
        return "\n".join(lines) + "\n"

    def to_json(self) -> str:
        """For machines: one line."""
        return json.dumps(
            {
                "passed": not self.failures,
                "failures": self.failures,
                "absent": self.absent,
                "versions": self.versions,
                "cells": {
                    artifact: {runtime: cell.said for runtime, cell in cells.items()}
                    for artifact, cells in self.rows.items()
                },
            }
        )

    def _shown(self, cells: dict[str, Cell], runtime: str) -> str:
        cell = cells.get(runtime)
        if cell is None:
            return _NOT_TAKEN
        if cell.is_absent:
            return "absent"
        return f"FAILED: {cell.said}" if cell.is_failure else cell.said
