"""Chooses the next token: greedy, or by temperature, top-k and top-p."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import ContractError

Floats = npt.NDArray[np.floating]

_SORTED_FIRST, _SORTED_MORE = 256, 8  # tokens that top_p sorts, and times as many if too few


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampler:
    """How one token is chosen from logits; the same seed and logits give the same tokens.

    First ``top_k`` keeps the likeliest, then ``top_p`` the fewest of those that reach its share.

    Raises:
        ContractError: a setting outside its range.
    """

    temperature: float = 0.0  # 0: greedy; other settings are ignored
    top_k: int = 0  # 0: all
    top_p: float = 1.0  # 1: all
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ContractError(f"temperature is {self.temperature}; expected 0 or more")
        if self.top_k < 0:
            raise ContractError(f"top_k is {self.top_k}; expected 0 (all) or more")
        if not 0 < self.top_p <= 1:
            raise ContractError(f"top_p is {self.top_p}; expected more than 0 and at most 1")
        if self.seed < 0:
            raise ContractError(f"seed is {self.seed}; expected 0 or more")

    def start(self) -> Callable[[Floats], int]:
        """Begin a sequence of choices: a function from logits (V,) to a token, seeded anew."""
        draw = np.random.Generator(np.random.PCG64(self.seed)).random
        return lambda logits: self._choose(logits, draw)

    def _choose(self, logits: Floats, draw: Callable[[], float]) -> int:
        best = int(logits.argmax())  # the first of equals; the first NaN if there is any
        if np.isnan(logits[best]):
            raise ContractError(f"logits: entry {best} is not a number; check the artifact")
        if self.temperature == 0:
            return best
        tokens, probabilities = self._likeliest(logits)
        cumulated = probabilities.cumsum()
        # Rounding may leave the sum short of 1, hence the scale; a token of share 0 is never hit.
        place = np.searchsorted(cumulated, draw() * cumulated[-1], side="right")
        return int(tokens[min(int(place), len(tokens) - 1)])

    def _likeliest(self, logits: Floats) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
        """Tokens that may be chosen, with their probabilities, of sum 1 or less."""
        tokens = np.arange(len(logits))
        if 0 < self.top_k < len(logits):
            # Partition, not sort: a vocabulary is large and top_k small.
            tokens = np.sort(np.argpartition(logits, -self.top_k)[-self.top_k :])
        kept = logits[tokens].astype(np.float64)
        probabilities = np.exp((kept - kept.max()) / self.temperature)
        probabilities /= probabilities.sum()
        if self.top_p < 1:
            order = fewest(probabilities, self.top_p)
            tokens, probabilities = tokens[order], probabilities[order]
        return tokens, probabilities


def fewest(probabilities: npt.NDArray[np.float64], share: float) -> npt.NDArray[np.intp]:
    """Indices of the fewest that reach a share together, likeliest first, of equals the first.

    Only as many as may be needed are sorted: few tokens hold most of the probability.
    """
    count = _SORTED_FIRST
    while True:
        # All at least as likely as the last of so many, so that equals are never parted.
        n = len(probabilities)
        least = np.partition(probabilities, n - count)[n - count] if count < n else 0.0
        likely = np.flatnonzero(probabilities >= least)
        order = likely[np.argsort(-probabilities[likely], kind="stable")]
        sums = probabilities[order].cumsum()
        if count >= n or sums[-1] >= share:
            return np.asarray(order[sums - probabilities[order] < share])
        count *= _SORTED_MORE
