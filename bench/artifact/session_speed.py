"""Measures our driver on an artifact: ``session_speed.py job.json``, one line of JSON."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, cast

import psutil

from ... import __version__
from ...runtime import Session
from ...runtime.ort_session import ort
from ..process import MAXRSS_BYTES

DRIVER = "driver"  # time of a step outside the graph's run


def main(argv: Sequence[str]) -> int:
    """Run the job that a file describes; print the result as one line of JSON."""
    job = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    versions = {"tramontane": __version__, "onnxruntime": str(ort.__version__)}
    print(json.dumps({"versions": versions, "ways": {"": measure(job)}, "failed": {}}))
    return 0


def measure(job: dict[str, Any]) -> dict[str, float]:
    """Seconds to load and run one token, tokens per second, resident bytes.

    If the job has a prompt: also seconds to the first token after it, in a new session, and
    ``driver``: time of a step outside the run of its binding.
    """
    start = time.perf_counter()
    session = Session.load(job["model"], threads=job["threads"])
    figures: dict[str, float] = {"peak of load": _peak_bytes()}
    session.prefill(job["tokens"][:1])
    figures["load"] = time.perf_counter() - start
    if "prompt" in job:
        figures["first token"] = _first_token(session, job)
    for tokens in job["prefill"]:
        figures[f"prefill {tokens}"] = _prefill(session, job, tokens)
    for position in job["decode"]:
        figures[f"decode at {position}"] = _step(session, job, position)
        figures[f"resident at {position}"] = psutil.Process().memory_info().rss
    if "prompt" in job:
        figures.update(_driver(session, job))
    return figures


def stand_at(session: Session, tokens: Sequence[int], position: int, *, piece: int) -> None:
    """Fill the cache for a long sequence, computing only one piece of it.

    The other rows are copies of the piece's: how many rows are held follows from the number of
    tokens, and how long a step takes from that.

    Args:
        session: any; what it held is forgotten.
        tokens: of the piece, and of what is computed where the position is before its end.
        position: tokens that the session holds afterwards.
        piece: tokens that are computed.
    """
    session.reset()
    if position <= piece:
        session.prefill(tokens[:position])
        return
    session._reserve(position)
    session.prefill(tokens[:piece])
    layouts = session.manifest.geometry.layers
    for index, rows in enumerate(session._binding.cache):
        held = layouts[index // 2].held(position)
        for start in range(piece, held, piece):
            part = min(piece, held - start)
            rows[:, :, start : start + part] = rows[:, :, :part]
    session._tokens = position


def _first_token(session: Session, job: dict[str, Any]) -> float:
    session.reset()
    start = time.perf_counter()
    session.prefill(job["tokens"][: job["prompt"]]).argmax()
    return time.perf_counter() - start


def _prefill(session: Session, job: dict[str, Any], tokens: int) -> float:
    """Tokens per second from an empty cache; the median of some runs."""
    ids, seconds = _repeated(job["tokens"], tokens), []
    session.reset()
    session.prefill(ids[:32])
    for _ in range(max(1, job["prefill_tokens"] // tokens)):
        session.reset()
        start = time.perf_counter()
        session.prefill(ids)
        seconds.append(time.perf_counter() - start)
    return float(tokens / median(seconds))


def _step(session: Session, job: dict[str, Any], position: int) -> float:
    """Tokens per second from a position on, by the median step."""
    warm_up, seconds = job["warm_up"], []
    before = position - warm_up
    if job["computes_all"]:
        session.reset()
        session.prefill(_repeated(job["tokens"], before))
    else:
        stand_at(session, job["tokens"], before, piece=job["piece"])
    for token in job["tokens"][: warm_up + job["steps"]]:
        start = time.perf_counter()
        session.step(token)
        seconds.append(time.perf_counter() - start)
    return float(1 / median(seconds[warm_up:]))


def _driver(session: Session, job: dict[str, Any]) -> dict[str, float]:
    """Seconds of a step that are not spent in the graph, and their share of it.

    The run of each step's binding is subtracted, since runs vary by more than the driver takes.
    """
    session.reset()
    session.prefill(job["tokens"][: job["prompt"]])
    graph = session._graph
    timed = _TimedGraph(graph)
    session._graph = cast(Any, timed)
    beside, whole = [], []
    try:
        for token in job["tokens"][: 4 * job["steps"]]:
            start = time.perf_counter()
            session.step(token)
            whole.append(time.perf_counter() - start)
            beside.append(whole[-1] - timed.seconds)
    finally:
        session._graph = graph
    return {DRIVER: median(beside), f"{DRIVER}'s share": median(beside) / median(whole)}


class _TimedGraph:
    """A graph that records how long its last run took."""

    def __init__(self, graph: ort.InferenceSession) -> None:
        self._graph = graph
        self.seconds = 0.0

    def run_with_iobinding(self, binding: Any) -> None:
        """Run the graph and record its time."""
        start = time.perf_counter()
        self._graph.run_with_iobinding(binding)
        self.seconds = time.perf_counter() - start


def _repeated(tokens: Sequence[int], count: int) -> list[int]:
    """So many tokens, from the first again where they end."""
    return [tokens[number % len(tokens)] for number in range(count)]


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_BYTES


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
