"""Measure our driver on an artifact: ``session_speed.py job.json`` prints one line of JSON."""

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
from ...runtime import Model, Session
from ...runtime.ort.ort_session import ort
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


def seek(session: Session, tokens: Sequence[int], position: int, *, computed: int) -> None:
    """Go to a position of a new sequence; at most ``computed`` of its tokens are computed."""
    session.reset()
    session.prefill(tokens[: min(position, computed)])
    session.seek(position)


def _first_token(session: Session, job: dict[str, Any]) -> float:
    session.reset()
    start = time.perf_counter()
    session.prefill(job["tokens"][: job["prompt"]]).argmax()
    return time.perf_counter() - start


def _prefill(session: Session, job: dict[str, Any], tokens: int) -> float:
    """Tokens per second of a prefill into an empty cache; the median of some runs."""
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
        seek(session, job["tokens"], before, computed=job["piece"])
    for token in job["tokens"][: warm_up + job["steps"]]:
        start = time.perf_counter()
        session.step(token)
        seconds.append(time.perf_counter() - start)
    return float(1 / median(seconds[warm_up:]))


def _driver(session: Session, job: dict[str, Any]) -> dict[str, float]:
    """Seconds of a step outside the graph, and their share of the step.

    The graph's time is subtracted step by step, since it varies by more than the driver takes.
    """
    model = session.model
    graph = _TimedGraph(model.graph)
    timed = Session(Model(folder=model.folder, manifest=model.manifest, graph=cast(Any, graph)))
    timed.prefill(job["tokens"][: job["prompt"]])
    outside, whole = [], []
    for token in job["tokens"][: 4 * job["steps"]]:
        start = time.perf_counter()
        timed.step(token)
        whole.append(time.perf_counter() - start)
        outside.append(whole[-1] - graph.seconds)
    return {DRIVER: median(outside), f"{DRIVER}'s share": median(outside) / median(whole)}


class _TimedGraph:
    """A graph that records how long its last run took."""

    def __init__(self, graph: ort.InferenceSession) -> None:
        self._graph = graph
        self.seconds = 0.0
        self.io_binding = graph.io_binding

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        """Run the graph and record its time."""
        start = time.perf_counter()
        self._graph.run_with_iobinding(binding, options)
        self.seconds = time.perf_counter() - start


def _repeated(tokens: Sequence[int], count: int) -> list[int]:
    """So many tokens; the list starts again where it ends."""
    return [tokens[number % len(tokens)] for number in range(count)]


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_BYTES


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
