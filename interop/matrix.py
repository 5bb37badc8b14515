"""The matrix of artifacts and runtimes, as a table, Markdown and JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence

from rich.table import Table

from ..console.rich_console import rich_console
from ..runtime.sizes import counted
from .judge import Cell

_NOT_TAKEN = "-"


class Matrix:
    """Cells by artifact and runtime, in the order in which they were added."""

    def __init__(self, runtimes: Sequence[str]) -> None:
        self.runtimes = list(runtimes)
        self.rows: dict[str, dict[str, Cell]] = {}
        self._left_out: dict[str, str] = {}

    def add(self, artifact: str, runtime: str, cell: Cell) -> None:
        """Add a cell."""
        self.rows.setdefault(artifact, {})[runtime] = cell

    def leave_out(self, artifact: str, why: str) -> None:
        """Note an artifact that cannot be made here."""
        self._left_out[artifact] = why

    @property
    def failures(self) -> list[str]:
        """Every failed cell, in words."""
        return [
            f"{artifact}, {runtime}: {cell.said}"
            for artifact, cells in self.rows.items()
            for runtime, cell in cells.items()
            if cell.is_failure
        ]

    @property
    def absent(self) -> dict[str, str]:
        """Runtimes that cannot be installed here, artifacts that cannot be made, and why."""
        return self._left_out | {
            runtime: cell.said
            for cells in self.rows.values()
            for runtime, cell in cells.items()
            if cell.is_absent
        }

    @property
    def versions(self) -> dict[str, dict[str, str]]:
        """The versions that each runtime reports."""
        return {
            runtime: cell.versions
            for cells in self.rows.values()
            for runtime, cell in cells.items()
            if cell.versions
        }

    def print_report(self) -> None:
        """The table, then failures and absent runtimes, then the verdict."""
        self.print_table()
        for runtime, why in self.absent.items():
            print(f"absent: {runtime}: {why}")
        for failure in self.failures:
            print(f"wrong: {failure}")
        tried = [cell for cells in self.rows.values() for cell in cells.values()]
        right = sum(not cell.is_failure and not cell.is_absent for cell in tried)
        verdict = "failed" if self.failures else "passed"
        print(f"{verdict}: {right} of {len(tried)} combinations as expected")

    def print_table(self) -> None:
        """One line per cell, since the columns do not fit on a terminal."""
        table = Table("artifact", "runtime", "found")
        for artifact, cells in self.rows.items():
            for runtime in filter(cells.__contains__, self.runtimes):
                table.add_row(artifact, runtime, self._shown(cells, runtime))
            table.add_section()
        rich_console().print(table)

    def as_markdown(self, command: str) -> str:
        """The page docs/interop.md."""
        lines = [
            "# How each runtime ran each artifact",
            "",
            f"Printed by `{command}`.",
            "",
            "- *same tokens*: the runtime gave the tokens of `transformers` in PyTorch, float32;",
            "  with quantized weights, those of our driver on the same kind of processor.",
            "- *KL, %*: the runtime's kernels round differently, so its logits are compared with",
            "  PyTorch's: mean KL divergence in nats, top-1 agreement. Both are within the bounds",
            "  of the parity gate.",
            "- *text*: the runtime's own tokenizer encoded the prompt and decoded the answer.",
            "- *strings differ*: the runtime's tokenizer does not know a rule of the artifact's;",
            "  so many of the hard strings are encoded or decoded otherwise, and others alike.",
            "- *claims hold*: so many statements of `examples/web/README.md` are tested and hold.",
            "- *in files*: the weights are cut into several files (`MAX_SHARD`).",
            "- *-*: not tried: the runtime cannot run the artifact (`docs/runtimes.md` says why),",
            "  or an emulated processor would take too long.",
            "",
            "`interop/runtimes.py` has what each runtime must give.",
            "",
            "| | " + " | ".join(self.runtimes) + " |",
            "| --- |" + " --- |" * len(self.runtimes),
        ]
        for artifact, cells in self.rows.items():
            shown = [self._shown(cells, name).replace("|", r"\|") for name in self.runtimes]
            lines.append("| " + " | ".join([artifact, *shown]) + " |")
        lines += ["", f"On {platform.machine()}, {counted(os.cpu_count() or 1, 'core')}.", ""]
        for runtime, versions in self.versions.items():
            listed = ", ".join(f"{name} {number}" for name, number in versions.items())
            lines.append(f"- {runtime}: {listed}")
        lines += [f"- {runtime} was absent: {why}" for runtime, why in self.absent.items()]
        return "\n".join(lines) + "\n"

    def to_json(self) -> str:
        """One line of JSON."""
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
