"""Times with which every session makes all drafts that it can, and a count of a graph's runs."""

from __future__ import annotations

from typing import Any

from tramontane.runtime.session import Session
from tramontane.runtime.speculation.run_times import RunTimes


class Counted:
    """A graph that counts its runs."""

    def __init__(self, session: Session) -> None:
        """Take the place of a session's graph."""
        self.graph, self.runs = session._guarded.cached.graph, 0
        session._guarded.cached.graph = self

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.runs += 1
        self.graph.run_with_iobinding(binding, options)


class Free(RunTimes):
    """Runs of any length take no time, so that drafts are made wherever there is a prediction."""

    step_seconds: float | None = 1.0

    def __init__(self) -> None:
        """Know all."""

    def note_step(self, seconds: float) -> None:
        pass

    def in_steps(self, seconds: float) -> float:
        return 0.0

    def note_run(self, drafts: int, seconds: float) -> float:
        return 0.0

    def steps(self, drafts: int) -> float:
        return 0.01
