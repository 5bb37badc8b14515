"""Log-probabilities of chosen tokens, and of the likeliest instead of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import ContractError
from ..untrusted.fields import whole_number


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogprobs:
    """Natural logarithms of the probabilities that the model gives, whatever the sampler does."""

    token: int
    logprob: float
    top: list[tuple[int, float]]  # the likeliest tokens and theirs, the likeliest first


def logprobs_of(logits: npt.NDArray[np.float32], token: int, *, top: int) -> TokenLogprobs:
    """Log-probabilities of a token and of the ``top`` likeliest; of equals the first.

    >>> found = logprobs_of(np.array([1, 2, 1], np.float32), 0, top=2)
    >>> round(found.logprob, 4), [(token, round(logprob, 4)) for token, logprob in found.top]
    (-1.5514, [(1, -0.5514), (0, -1.5514)])
    """
    scores = logits.astype(np.float64)
    scores -= scores.max()
    scores -= np.log(np.exp(scores).sum())
    # All at least as likely as the last, so that of equals the first ones are listed.
    least = np.partition(scores, -top)[-top] if 0 < top < len(scores) else -np.inf
    likely = np.flatnonzero(scores >= least) if top else np.zeros(0, np.intp)
    order = likely[np.argsort(-scores[likely], kind="stable")][:top]
    return TokenLogprobs(
        token=token,
        logprob=float(scores[token]),
        top=[(int(one), float(scores[one])) for one in order],
    )


def checked_top(logprobs: int | None, *, vocab_size: int) -> int | None:
    """How many likeliest tokens are asked for.

    Raises:
        ContractError: fewer than none, or more than there are.
    """
    if logprobs is None:
        return None
    expected = f"0 (of the chosen token alone) to {vocab_size}, or None for none"
    count = whole_number(logprobs, what="logprobs", expected=expected)
    if count > vocab_size:
        raise ContractError(f"logprobs is {count}; expected {expected}")
    return count
