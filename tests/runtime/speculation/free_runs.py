"""Times with which every session makes all drafts that it can."""

from __future__ import annotations

from tramontane.runtime.speculation.run_times import RunTimes


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
