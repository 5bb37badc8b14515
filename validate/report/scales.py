"""Formats numbers, and places them on a logarithmic axis."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_FEWEST_TICKS = 3
_FACTORS = (
    (1,),
    (1, 3),
    (1, 2, 5),
    (1, 1.5, 2, 3, 5, 7),
    np.arange(1, 10, 0.5),
    np.arange(1, 10, 0.1),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LogScale:
    """A logarithmic axis that also has a place for what has no logarithm."""

    low: float  # of the positive and finite values
    high: float
    has_zero: bool
    has_nan: bool

    @classmethod
    def over(cls, values: np.ndarray, *, margin: float = 0.06) -> LogScale:
        """An axis that holds all values, with a share of its length free at both ends."""
        seen = values[np.isfinite(values) & (values > 0)]
        low, high = (seen.min(), seen.max()) if seen.size else (0.1, 10.0)
        room = 10 ** max(0.1, margin * math.log10(high / low))
        return cls(
            low=float(low / room),
            high=float(high * room),
            has_zero=bool((values <= 0).any()),
            has_nan=bool(np.isnan(values).any()),
        )

    @property
    def step(self) -> float:
        """Factor between the axis's end and the row of zeros, or of what is not a number."""
        return float((self.high / self.low) ** 0.09)

    @property
    def limits(self) -> tuple[float, float]:
        """Both ends, rows of zeros and of what is not a number included."""
        return (
            self.low / self.step ** (1.6 if self.has_zero else 0),
            self.high * self.step ** (1.6 if self.has_nan else 0),
        )

    def place(self, values: np.ndarray) -> np.ndarray:
        """Where on the axis each value is drawn."""
        placed = np.where(values <= 0, self.low / self.step, values)
        return np.where(np.isnan(placed), self.high * self.step, placed)

    def ticks(self) -> dict[float, str]:
        """Text by place: some decades, or finer steps where there are few."""
        first, last = math.log10(self.low), math.log10(self.high)
        stride = max(1, math.ceil((last - first) / 7))
        exponents = [e for e in range(math.floor(first), math.ceil(last) + 1) if e % stride == 0]
        found: dict[float, str] = {}
        for factors in _FACTORS:
            places = [factor * 10.0**exponent for exponent in exponents for factor in factors]
            found = {p: write_number(p) for p in places if self.low <= p <= self.high}
            if len(found) >= _FEWEST_TICKS:
                break
        rows = [(self.has_zero, self.low / self.step, "0")]
        rows += [(self.has_nan, self.high * self.step, "NaN")]
        return found | {place: text for is_there, place, text in rows if is_there}


def write_number(value: float | None, *, digits: int = 3, keeps_zeros: bool = False) -> str:
    """Write a figure for people; zeros at its end are kept where columns should align.

    >>> [write_number(value) for value in (6.4840e-4, 0.9679, 18.64, 256, 1.36e6, 0.0, None)]
    ['6.48e-4', '0.968', '18.6', '256', '1.36e6', '0', 'not a number']
    """
    if value is None or not math.isfinite(value):
        return "not a number"
    if isinstance(value, int) or 1e3 <= abs(value) < 1e5:
        return f"{round(value):,}".replace(",", "\u202f")  # a narrow space that doesn't break
    if value and not 1e-2 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa if keeps_zeros else format(float(mantissa), 'g')}e{int(exponent)}"
    return f"{value:#.{digits}g}".rstrip(".") if keeps_zeros and value else f"{value:.{digits}g}"
