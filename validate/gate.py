"""Is this artifact proved? Runs all checks, writes the report, says yes or no."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..errors import ContractError
from ..export.checkpoint import Checkpoint
from ..export.config import MistralConfig
from ..export.progress import track
from ..export.reference import load_reference
from ..runtime.manifest import read_manifest, to_json
from ..runtime.session import Session
from .parity import SAMPLE, Check, headline, raise_if_broken, read_text, run_checks
from .room import refuse_large_reference

REPORT = "parity/report.json"


def gate(
    artifact: Path, config: MistralConfig, checkpoint: Checkpoint, *, text: Path | None = None
) -> dict[str, Any]:
    """Prove a fresh artifact: write its report and return its headline figures.

    Raises:
        ParityError: a check failed; the message names each.
    """
    checks = check_artifact(artifact, config, checkpoint, text=text)
    raise_if_broken(checks, artifact=artifact)
    figures = headline(checks)
    (artifact / REPORT).parent.mkdir(exist_ok=True)
    (artifact / REPORT).write_text(to_json(report(checks)), encoding="utf-8")
    return figures


def validate(artifact: Path, reference: Path, *, text: Path | None = None) -> list[Check]:
    """Check an artifact against a checkpoint; the window comes from the manifest.

    Raises:
        ContractError: the checkpoint is of another geometry than the artifact.
    """
    geometry = read_manifest(artifact).geometry
    weights = Checkpoint.open(reference)
    config = dataclasses.replace(weights.config, sliding_window=geometry.window)
    found = (
        config.num_hidden_layers,
        config.num_key_value_heads,
        config.head_dim,
        config.vocab_size,
    )
    promised = (
        geometry.num_layers,
        geometry.num_key_value_heads,
        geometry.head_dim,
        geometry.vocab_size,
    )
    if found != promised:
        raise ContractError(
            f"{reference}: layers, key/value heads, head size and vocabulary are {found}, the "
            f"artifact's are {promised}; name the checkpoint that it was exported from"
        )
    return check_artifact(artifact, config, weights, text=text)


def check_artifact(
    artifact: Path, config: MistralConfig, checkpoint: Checkpoint, *, text: Path | None
) -> list[Check]:
    """Run all checks of an artifact's recipe against the reference in PyTorch.

    ``text`` is a UTF-8 file to measure on; None for the sample that comes with tramontane.
    """
    planned = read_manifest(artifact).memory
    refuse_large_reference(config, session_bytes=planned.resident_bytes)
    session = Session.load(artifact)
    sample = read_text(SAMPLE if text is None else text)
    return run_checks(session, load_reference(config, checkpoint), sample, track=track)


def report(checks: Sequence[Check]) -> dict[str, Any]:
    """All checks as JSON holds them; a figure that is not a number becomes null."""
    return {
        "passed": not any(check.failures for check in checks),
        "headline": headline(checks),
        "checks": [
            {
                "name": check.name,
                "failures": list(check.failures),
                "figures": {
                    name: None if math.isnan(value) else value
                    for name, value in check.figures.items()
                },
            }
            for check in checks
        ],
    }


def print_table(checks: Sequence[Check]) -> None:
    """One line per check, for people."""
    table = Table("check", "max |Δlogit|", "mean KL", "max KL", "same top", "verdict")
    for check in checks:
        figures = check.figures
        if "mean_kl" in figures:
            cells = [f"{figures[k]:.2e}" for k in ("max_logit_difference", "mean_kl", "max_kl")]
            cells.append(f"{figures['same_top']:.2%}")
        else:
            cells = ["", "", "", f"{figures['same_greedy_tokens']} tokens"]
        table.add_row(check.name, *cells, "\n".join(check.failures) or "ok")
    Console(width=120).print(table)
