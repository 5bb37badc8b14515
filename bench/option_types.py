"""Types of the numbers that benchmarks take on the command line."""

from __future__ import annotations

from ..console.option_numbers import whole
from ..runtime.ort.ort_session import MOST_THREADS

THREADS = whole(least=1, most=MOST_THREADS)
ROUNDS = whole(least=1, most=10_000)
TOKENS = whole(least=1, most=10_000_000)
