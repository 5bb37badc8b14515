"""Runs our commands on stand-ins of known models: random weights of their widths, few layers."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil

from ...runtime.errors import ContractError
from ..process import ProcessUsage, run


def synthesize(geometry: str, folder: Path, *, layers: int, limit_bytes: int) -> ProcessUsage:
    """Write a checkpoint of random weights, in a process of its own.

    Args:
        geometry: a known model's name.
        folder: of the checkpoint, new or empty.
        layers: to write, from the first.
        limit_bytes: resident memory at which it is stopped.

    Raises:
        ContractError: it failed, or was stopped.
    """
    words = ours("synthesize", geometry, folder, "--layers", str(layers))
    return checked(run(words, limit_bytes=limit_bytes))


def export(checkpoint: Path, out: Path, *, quant: str, limit_bytes: int) -> ProcessUsage:
    """Export it without its parity check, in a process of its own; arguments as above.

    Raises:
        ContractError: it failed, or was stopped.
    """
    words = ours("export", checkpoint, "--quant", quant, "--out", out)
    return checked(run([*words, "--no-validate", "--no-resume"], limit_bytes=limit_bytes))


def ours(*words: str | Path) -> list[str | Path]:
    """The words that run a command of ours with this Python."""
    return [sys.executable, "-m", "tramontane.cli.main", *words]


def checked(found: ProcessUsage) -> ProcessUsage:
    """What a command did, if it ended well.

    Raises:
        ContractError: it did not; the message has its last words.
    """
    if found.status:
        raise ContractError(f"bench: a command failed: {found.last_words}")
    return found


def most_memory() -> int:
    """The limit on a process's memory that keeps the machine usable, in bytes."""
    return int(psutil.virtual_memory().total * 0.9)
