"""llama.cpp in an environment of its own: its runners, and its logits beside the reference's."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...console.progress import track
from ...environments import commands, python
from ...export.formats.checkpoint import Checkpoint
from ...validate.figures import Figures, compare
from ...validate.reference.reference import Reference
from ...validate.reference.reference_cache import Store
from ..artifact.speed import token_ids

Command = tuple[str | Path, ...]
# Built from source for this processor, unlike a wheel; without what reads images, a third of it.
PACKAGES = (
    *("llama-cpp-python==0.3.36", "--no-binary", "llama-cpp-python"),
    *("--config-settings", "cmake.define.LLAVA_BUILD=OFF", "psutil"),
)
PROOF_TOKENS = 32
QUIET = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}


def runner(name: str) -> Command:
    """The command of a runner beside this file, without the job.

    Raises:
        Absent: llama.cpp cannot be built.
    """
    return python.python_with("llama-cpp", PACKAGES), Path(__file__).with_name(name)


def ask(command: Command, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run a job in a new process; a folder holds its description meanwhile.

    Raises:
        Absent: it failed.
    """
    with tempfile.TemporaryDirectory(dir=folder) as own:
        path = Path(own) / "job.json"
        path.write_text(json.dumps(job), encoding="utf-8")
        return commands.answer([*command, path], env=QUIET, limit_s=commands.LONG_LIMIT_S)


def proof_tokens(checkpoint: Checkpoint) -> list[int]:
    """Tokens within one window: beyond it llama.cpp, which has none, computes another model."""
    config = checkpoint.config
    return token_ids(config.vocab_size, min(PROOF_TOKENS, config.sliding_window or 1 << 30))


def compare_logits(
    checkpoint: Checkpoint, path: Path, tokens: Sequence[int], *, threads: int
) -> Figures:
    """Compare llama.cpp's logits on a GGUF file with the reference's on a checkpoint.

    Raises:
        Absent: llama.cpp cannot be built, or does not load the file.
    """
    with tempfile.TemporaryDirectory() as kept:
        logits = Path(kept) / "logits.bin"
        asked = {"model": str(path), "score": list(tokens), "logits": str(logits)}
        job = {**asked, "threads": threads, "chunk": len(tokens)}
        ask(runner("llama_speed.py"), job, Path(kept))
        store = Store(Path(kept))
        reference = Reference(checkpoint.config, checkpoint, store=store, track=track)
        (run,) = reference.runs([np.array(tokens)])
        theirs = np.fromfile(logits, "<f4").reshape(run.logits.shape)
        return compare(np.asarray(run.logits), theirs, np.array(tokens))
