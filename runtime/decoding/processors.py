"""Functions from logits to logits, which change what the next token may be.

Names, meaning and order are those of transformers (``generation/logits_process.py``), so that its
settings can be taken over. A token that is ruled out has the logit -inf. All arrays are (V,)
float64, and every function returns a new one.

>>> keep_top_k(np.log([0.1, 0.4, 0.2, 0.3]), 2).round(2).tolist()
[-inf, -0.92, -inf, -1.2]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from .history import History

Logits = npt.NDArray[np.float64]
Processor = Callable[[Logits, History], Logits]

_SORTED_FIRST, _SORTED_MORE = 256, 8  # tokens that are sorted, and times as many if too few


def add_bias(logits: Logits, bias: Mapping[int, float]) -> Logits:
    """Add a number to the logits of some tokens; -inf rules a token out."""
    changed = logits.copy()
    changed[list(bias)] += list(bias.values())
    return changed


def penalize_repetition(logits: Logits, history: History, penalty: float) -> Logits:
    """Divide logits above 0 by the penalty, multiply others, of all tokens of prompt and answer.

    Source: CTRL, arXiv:1909.05858, section 4.1; logits below 0 as in transformers.
    """
    changed, seen = logits.copy(), history.all_tokens
    score = logits[seen]
    changed[seen] = np.where(score < 0, score * penalty, score / penalty)
    return changed


def penalize_presence_and_frequency(
    logits: Logits, history: History, *, presence: float, frequency: float
) -> Logits:
    """Subtract for each token of the answer: once, and for as often as it is there.

    Source: OpenAI's API reference, "Frequency and presence penalties".
    """
    tokens, counts = np.unique(history.new_tokens, return_counts=True)
    changed = logits.copy()
    changed[tokens] -= presence + counts * frequency
    return changed


def divide_by_temperature(logits: Logits, temperature: float) -> Logits:
    """Make probabilities more equal (temperature above 1) or less (below 1)."""
    with np.errstate(over="ignore"):  # the choice refuses infinity
        return logits / temperature


def keep_top_k(logits: Logits, k: int) -> Logits:
    """Keep the k most likely tokens, and those as likely as the last of them."""
    if k >= len(logits):
        return logits
    least = np.partition(logits, -k)[-k]
    return np.where(logits >= least, logits, -np.inf)


def keep_top_p(logits: Logits, share: float) -> Logits:
    """Keep the fewest tokens whose probabilities reach a share together.

    Source: arXiv:1904.09751, section 3.1.
    """
    tokens, probabilities = distribution(logits)
    return _only(logits, tokens[fewest(probabilities, share)])


def keep_min_p(logits: Logits, share: float) -> Logits:
    """Keep tokens that have at least a share of the likeliest token's probability.

    Source: arXiv:2407.01082, section 3.
    """
    return np.where(logits >= logits.max() + np.log(share), logits, -np.inf)


def keep_typical(logits: Logits, share: float) -> Logits:
    """Keep the fewest tokens that reach a share, those of nearly average information first.

    Source: arXiv:2202.00666, section 4.
    """
    tokens, probabilities = distribution(logits)
    with np.errstate(divide="ignore"):
        information = -np.log(probabilities)
    average = np.sum(probabilities * information, where=probabilities > 0)
    distance = np.abs(information - average)
    order = np.argsort(distance, kind="stable")
    before = int((probabilities[order].cumsum() < share).sum())
    furthest = distance[order[min(before, len(order) - 1)]]
    return _only(logits, tokens[distance <= furthest])


def distribution(logits: Logits) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Tokens that are not ruled out, in order, and the probability of each (softmax)."""
    tokens = np.flatnonzero(logits > -np.inf)
    kept = logits[tokens]
    probabilities = np.exp(kept - kept.max())
    return tokens, probabilities / probabilities.sum()


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


def _only(logits: Logits, tokens: npt.NDArray[np.intp]) -> Logits:
    """Logits of some tokens, with all others ruled out."""
    kept = np.full_like(logits, -np.inf)
    kept[tokens] = logits[tokens]
    return kept
