"""How fast is our own driver on an artifact? ``driver_speed.py job.json``"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from tramontane import __version__
from tramontane.runtime import Session
from tramontane.runtime.graph import ort


def main(argv: Sequence[str]) -> int:
    """Do the job that a file describes; print what came of it as one line of JSON."""
    job = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    versions = {"tramontane": __version__, "onnxruntime": str(ort.__version__)}
    print(json.dumps({"versions": versions, "ways": {"": measure(job)}, "failed": {}}))
    return 0


def measure(job: dict[str, Any]) -> dict[str, float]:
    """Seconds to load, tokens per second, resident bytes."""
    start = time.perf_counter()
    session = Session.load(job["model"], threads=job["threads"])
    session.prefill(job["tokens"][:1])
    figures = {"load": time.perf_counter() - start}
    for tokens in job["prefill"]:
        figures[f"prefill {tokens}"] = prefill(session, job, tokens)
    for position in job["decode"]:
        figures[f"decode at {position}"] = step(session, job, position)
        figures[f"resident at {position}"] = psutil.Process().memory_info().rss
    return figures


def prefill(session: Session, job: dict[str, Any], tokens: int) -> float:
    """Tokens per second from an empty cache; the median of some runs."""
    ids, seconds = job["tokens"][:tokens], []
    session.reset()
    session.prefill(ids[:32])
    for _ in range(max(1, job["prefill_tokens"] // tokens)):
        session.reset()
        start = time.perf_counter()
        session.prefill(ids)
        seconds.append(time.perf_counter() - start)
    return float(tokens / median(seconds))


def step(session: Session, job: dict[str, Any], position: int) -> float:
    """Tokens per second from a position on, by the median step."""
    warm_up, seconds = job["warm_up"], []
    fill(session, job, position - warm_up)
    for token in job["tokens"][: warm_up + job["steps"]]:
        start = time.perf_counter()
        session.step(token)
        seconds.append(time.perf_counter() - start)
    return float(1 / median(seconds[warm_up:]))


def fill(session: Session, job: dict[str, Any], tokens: int) -> None:
    """Put a sequence of so many tokens into the cache.

    One piece is computed, unless the job asks for all. The other rows are copies of it: how many
    are held follows from the number of tokens alone, and how long a step takes from that.
    """
    chunk, piece = job["chunk"], job["piece"]
    session.reset()
    if tokens <= piece or job["computes_all"]:
        for start in range(0, tokens, chunk):
            session.prefill(job["tokens"][: min(chunk, tokens - start)])
        return
    session._reserve(tokens)
    session.prefill(job["tokens"][:piece])
    held = session._layout.held(tokens)
    for rows in session._cache:
        for start in range(piece, held, piece):
            part = min(piece, held - start)
            rows[:, :, start : start + part] = rows[:, :, :part]
    session._tokens = tokens


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
