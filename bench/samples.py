"""Times several runs of one piece of work; one figure over all rounds: median, lowest, highest."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """One figure over all rounds."""

    values: tuple[float, ...]  # in the order of the rounds
    way: str = ""  # mode of the runtime, if it has several

    @property
    def median(self) -> float:
        """The median."""
        return float(median(self.values))

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        found: dict[str, Any] = {
            "median": self.median,
            "low": min(self.values),
            "high": max(self.values),
            "runs": len(self.values),
        }
        return {**found, "way": self.way} if self.way else found


def seconds_of_runs(work: Callable[[], object], *, runs: int) -> list[float]:
    """Seconds of each of some runs, after one warm-up run."""
    work()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return seconds
