"""Measures an artifact's speed, memory and share of the hardware limits.

Each round is a new process, so that loading is measured as often as the rest. The machine's limits
are measured before each round and shares are computed within it, so that other load on the machine
affects both.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ...console import hints
from ...console.progress import track
from ...runtime import contract
from ...runtime.errors import ContractError
from ...runtime.manifest import read_manifest
from ...runtime.ort.ort_session import physical_cores
from ..limits import Work, multiply_rate, read_rate, work_of
from ..machine import machine
from ..process import run
from ..samples import Spread

PREFILL = (32, 256, 2048)
PREFILL_TOKENS = 512  # at least, of the runs of one length in a round
PROMPT = 32  # tokens before the first token
PIECE = 128  # tokens computed to fill a long cache with copies of them
WARM_UP, STEPS = 4, 16
FIRST = 16  # the position with next to no cache


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedReport:
    """Figures of one artifact on one machine."""

    artifact: str
    recipe: str
    file_bytes: int
    work: Work
    limits: dict[str, Spread]  # bytes read, and multiplications, a second
    figures: dict[str, Spread]  # seconds, tokens per second, bytes
    shares: dict[str, Spread]  # of the limit, of each speed
    about: dict[str, Any]  # machine, versions, how it was measured

    def as_json(self) -> dict[str, Any]:
        """The content as JSON, also for plots."""
        spreads = {"limits": self.limits, "figures": self.figures, "shares": self.shares}
        return {
            "artifact": self.artifact,
            "recipe": self.recipe,
            "file_bytes": self.file_bytes,
            "step_bytes": self.work.read_bytes,
            "cache_row_bytes": self.work.row_bytes,
            "multiplications": self.work.multiplications,
            **{
                kind: {what: one.as_json() for what, one in found.items()}
                for kind, found in spreads.items()
            },
            **self.about,
        }


def measure(artifact: Path, *, rounds: int, threads: int | None) -> SpeedReport:
    """Measure an artifact.

    Args:
        artifact: folder written by export.
        rounds: of a process each.
        threads: for one operator; None for as many as there are physical cores.

    Raises:
        ContractError: no rounds or threads, or not an artifact.
    """
    threads = physical_cores() if threads is None else threads
    for flag, given in (("--rounds", rounds), ("--threads", threads)):
        if given < 1:
            raise ContractError(f"{flag} {given}: expected 1 or more")
    manifest = read_manifest(artifact)
    work = work_of(artifact / contract.MODEL_FILE, manifest.geometry)
    job = {**protocol(manifest.geometry), "threads": threads}
    limits: dict[str, list[float]] = {"read": [], "multiply": []}
    answers: list[dict[str, float]] = []
    for _ in track(range(rounds), f"measuring {artifact.name}, round by round"):
        limits["read"].append(read_rate(threads))
        limits["multiply"].append(multiply_rate(threads))
        answers.append(ask({**job, "model": str(artifact)}))
    found_limits = {what: Spread(values=tuple(values)) for what, values in limits.items()}
    figures = {
        what: Spread(values=tuple(answer[what] for answer in answers)) for what in answers[0]
    }
    return SpeedReport(
        artifact=artifact.resolve().name,
        recipe=f"{manifest.quant} for {manifest.target}",
        file_bytes=manifest.memory.weights_bytes,
        work=work,
        limits=found_limits,
        figures=figures,
        shares=shares_of(figures, found_limits, work),
        about={
            "rounds": rounds,
            "machine": machine(threads),
            "protocol": {key: value for key, value in job.items() if key != "tokens"},
        },
    )


def protocol(geometry: contract.Geometry) -> dict[str, Any]:
    """The job of each process: lengths and positions that the artifact supports."""
    longest = geometry.max_positions - WARM_UP - STEPS
    return {
        "tokens": token_ids(geometry.vocab_size, 512),
        "prompt": min(PROMPT, longest),
        "piece": PIECE,
        "prefill": [tokens for tokens in PREFILL if tokens <= longest],
        "prefill_tokens": PREFILL_TOKENS,
        "decode": [position for position in positions(geometry) if position <= longest],
        "warm_up": WARM_UP,
        "steps": STEPS,
        "computes_all": False,
    }


def positions(geometry: contract.Geometry) -> list[int]:
    """Positions near the start, at 0.5, 1 and 5 windows; without a window, at quarters."""
    W = max((one for one in geometry.windows if one), default=None)
    if W is None:
        quarter = geometry.max_positions // 4
        return sorted({FIRST, quarter, 2 * quarter, 3 * quarter})
    return sorted({FIRST, max(WARM_UP, W // 2), max(WARM_UP, W), max(WARM_UP, 5 * W)})


def token_ids(vocab_size: int, count: int) -> list[int]:
    """Tokens spread over the vocabulary, without the control tokens at its start."""
    return [3 + number * 7919 % (vocab_size - 3) for number in range(count)]


def shares_of(
    figures: dict[str, Spread], limits: dict[str, Spread], work: Work
) -> dict[str, Spread]:
    """Each speed as a share of the machine's limit, by round."""
    shares = {}
    for what, found in figures.items():
        kind, _, number = what.rpartition(" ")
        if kind == "decode at":
            each, limit = work.bytes_at(int(number)), limits["read"]
        elif kind == "prefill" and work.multiplications:
            each, limit = work.multiplications, limits["multiply"]
        else:
            continue
        pairs = zip(found.values, limit.values, strict=True)
        shares[what] = Spread(values=tuple(speed * each / most for speed, most in pairs))
    return shares


def ask(job: dict[str, Any]) -> dict[str, float]:
    """Figures of one process that does a job, as ``session_speed.measure`` describes them.

    Raises:
        ContractError: the process failed; the message has its last line.
    """
    handle, name = tempfile.mkstemp(suffix=".json")
    path = Path(name)
    try:
        os.close(handle)
        path.write_text(json.dumps(job), encoding="utf-8")
        command: Sequence[str | Path] = [
            sys.executable,
            "-m",
            f"{__package__}.session_speed",
            path,
        ]
        found = run(command, limit_bytes=psutil.virtual_memory().total)
    finally:
        path.unlink()
    if found.status:
        raise ContractError(
            f"{job['model']}: measuring it exited with {found.status} ({found.last_words}); "
            f"see whether it runs: {hints.suggest('run', OUT=job['model'], PROMPT='x')}"
        )
    figures: dict[str, float] = json.loads(found.output.splitlines()[-1])["ways"][""]
    return figures
