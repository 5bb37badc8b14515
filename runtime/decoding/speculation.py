"""Drafts of the next tokens, computed in one run where that is expected to save time.

One run computes the logits after a token and after each of its drafts. As long as the tokens that
are chosen are the drafts, their logits are there already. Each token is chosen as ever, by any
sampler: a draft decides only what is computed together. So the tokens are those of plain decoding,
up to the rounding of sums in another order, as with a prompt cut into other chunks: in recipes
that round activations to 8 bits, a token that is nearly as likely may be chosen. Drafts that were
not chosen leave rows beyond the end of the sequence, which the next run overwrites.

Whether drafts pay is known without trying: each chosen token, also of plain steps, is compared
with the prediction, which gives the share that is right by how many tokens were matched before.
With the measured times of runs this gives the number of drafts by which most tokens a second are
expected, often none. If runs cost more than they saved all the same, drafts pause, twice as long
each time.

Source: Leviathan et al., arXiv:2211.17192, for the verification (its rule for drafts of
probability 1 is to sample and compare) and for the expected number of tokens of a run.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .prompt_lookup import PromptLookup
from .run_times import RunTimes

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

# Share of right predictions after 0, 1, 2 to 3, 4 to 7, 8 to 15 and more matched tokens, before
# any is known: less than in copied text, more than in text that is not copied.
_FIRST_SHARES = (0.2, 0.6, 0.6, 0.75, 0.9, 0.95)
_SHARE_WEIGHT = 1 / 16  # of the newest prediction in a share
_COUNTS = (1, 2, 4, 8, 16)  # of drafts in a run
_GAIN = 1.05  # tokens for the time of one, expected of a run; fewer are not worth it
_FIRST_PAUSE, _LONGEST_PAUSE = 32, 2048  # plain steps after runs that cost more than they saved
_MOST_SAVED = 4.0  # steps that runs are credited with, before others that cost more


class Speculation:
    """Drafts of one generation, and how many are worth their time."""

    def __init__(self, times: RunTimes | None = None) -> None:
        """Begin with the times that were measured before, if any."""
        self._times = times or RunTimes()
        self._lookup: PromptLookup | None = None
        self._shares = [*_FIRST_SHARES]
        self._saved = 0.0  # steps, by the last runs
        self._pause, self._left = _FIRST_PAUSE, 0
        self._drafts: list[int] = []
        self._logits: Floats = np.empty((0, 0), np.float32)
        self._buffer: Floats = np.empty((1, 0, 0), np.float32)
        self._run_steps = 0.0
        self._taken = 0  # drafts that were chosen
        self._since = -1

    def append(self, token: int, *, after: Integers) -> None:
        """Note a chosen token and whether it was predicted; the first one reads the sequence."""
        if self._lookup is None:
            self._lookup = PromptLookup(after)
        kind = _kind(self._lookup.matched) if self._lookup.predicts else None
        is_right = self._lookup.append(token)
        if kind is not None:
            self._shares[kind] += _SHARE_WEIGHT * (is_right - self._shares[kind])

    @property
    def is_ready(self) -> bool:
        """Whether there may be drafts: a prediction, no pause, and a step to compare runs with."""
        lookup = self._lookup
        return bool(
            lookup is not None
            and lookup.predicts
            and not self._left
            and self._times.step_seconds is not None
        )

    def drafts(self, *, most: int) -> list[int]:
        """Tokens that may follow, at most so many; none where they are not worth their time."""
        lookup = self._lookup
        if lookup is None or not self.is_ready or most < 1:
            return []
        count = self._best_count(lookup.matched, most=most)
        if not count:
            self._times.shrink()
            return []
        return lookup.next(count)

    def note_plain(self, seconds: float) -> None:
        """Note the time of a step without drafts."""
        self._times.note_step(seconds)
        self._left = max(self._left - 1, 0)

    def buffer(self, *, drafts: int, V: int) -> Floats:
        """Memory (1, k + 1, V) for the logits of a run, which the next run overwrites."""
        if self._buffer.shape[1] <= drafts:
            self._buffer = np.empty((1, drafts + 1, V), np.float32)
        return self._buffer[:, : drafts + 1]

    def begin(self, drafts: list[int], logits: Floats, *, seconds: float, changes: int) -> None:
        """Note a run: logits (k + 1, V) after a token and its k drafts.

        ``changes`` is the guard's number, which every other change of the sequence increases.
        """
        self._drafts, self._logits, self._taken = drafts, logits, 0
        self._run_steps, self._since = self._times.note_run(len(drafts), seconds), changes

    def ahead(self, token: int, *, changes: int) -> Floats | None:
        """Logits (V,) after a token, if the last run computed them; None where it did not."""
        if self._taken == len(self._drafts):
            return None
        if self._since == changes and self._drafts[self._taken] == token:
            self._taken += 1
            self._since = changes + 1  # of appending it
            return np.asarray(self._logits[self._taken])
        return None

    def settle(self) -> None:
        """Judge the last run, of which no more drafts will be chosen."""
        if not self._drafts:
            return
        self._saved = min(self._saved + 1 + self._taken - self._run_steps, _MOST_SAVED)
        if self._saved < 0:
            self._left, self._saved = self._pause, 0.0
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        elif self._saved == _MOST_SAVED:
            self._pause = _FIRST_PAUSE
        self._drafts = []
        self._taken = 0

    def _best_count(self, matched: int, *, most: int) -> int:
        """The number of drafts by which most tokens a second are expected; 0: a plain step."""
        best, highest = 0, _GAIN
        tokens = reached = 1.0  # expected of the run; the chance that all drafts so far are right
        drafts = 0
        for count in _COUNTS:
            if count > most:
                break
            while drafts < count:
                reached *= self._shares[_kind(matched + drafts)]
                tokens += reached
                drafts += 1
            gain = tokens / self._times.steps(count)
            if gain > highest:
                best, highest = count, gain
        return best


def _kind(matched: int) -> int:
    """The index of a share by the number of matched tokens."""
    return min(matched.bit_length(), len(_FIRST_SHARES) - 1)
