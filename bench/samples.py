"""One figure over all rounds: median, lowest and highest."""

from __future__ import annotations

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
