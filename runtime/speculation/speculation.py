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
expected, often none. What drafts lose where they are wrong all the same is bounded
(``draft_account.py``): after a loss they pause, and are not looked for, until plain steps have
earned it back.

Source: Leviathan et al., arXiv:2211.17192, for the verification (its rule for drafts of
probability 1 is to sample and compare) and for the expected number of tokens of a run.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .draft_account import DraftAccount
from .prompt_lookup import PromptLookup
from .run_times import RunTimes

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

# Share of right predictions after 0, 1, 2 to 3, 4 to 7, 8 to 15 and more matched tokens, before
# any is known: less than in copied text, more than in text that is not copied.
_FIRST_SHARES = (0.2, 0.6, 0.6, 0.75, 0.9, 0.95)
_SHARE_WEIGHT = 1 / 16  # of the newest prediction in a share
_COUNTS = (1, 2, 4, 8, 16)  # of drafts in a run
_LONGEST_SEARCH = 0.1  # of a step; in a longer one the machine did other work
_GAIN = 1.05  # tokens for the time of one, expected of a run; fewer are not worth it


class Speculation:
    """Drafts of one generation, and how many are worth their time."""

    def __init__(self, times: RunTimes, account: DraftAccount) -> None:
        """Begin with the times that were measured before, and what drafts may lose."""
        self._times = times
        self._account = account
        account.begin()
        self._lookup: PromptLookup | None = None
        self._shares = [*_FIRST_SHARES]
        self._drafts: list[int] = []
        self._logits: Floats = np.empty((0, 0), np.float32)
        self._buffer: Floats = np.empty((1, 0, 0), np.float32)
        self._taken = 0  # drafts that were chosen
        self._since = -1

    def append(self, token: int, *, after: Integers) -> None:
        """Note a chosen token and whether it was predicted.

        The first one reads the sequence, and the first one after a pause the tokens of the pause.
        """
        self._account.earn_token()
        if not self._account.is_open:
            return
        if self._lookup is None:
            self._lookup = PromptLookup(after)
        elif self._lookup.tokens < len(after):
            self._lookup.extend(after[self._lookup.tokens :])
        kind = _kind(self._lookup.matched) if self._lookup.predicts else None
        is_right = self._lookup.append(token)
        if kind is not None:
            self._shares[kind] += _SHARE_WEIGHT * (is_right - self._shares[kind])

    @property
    def is_searching(self) -> bool:
        """Whether drafts are looked for, or were computed; otherwise steps are plain ones."""
        return self._account.is_open or self._taken < len(self._drafts)

    def note_token(self) -> None:
        """Note a token of a plain step before which no drafts were looked for."""
        self._account.earn_token()

    @property
    def is_ready(self) -> bool:
        """Whether there may be drafts: a prediction, no pause, and a step to compare runs with."""
        lookup = self._lookup
        return bool(
            lookup is not None
            and self._account.is_open
            and lookup.predicts
            and self._times.step_seconds is not None
        )

    def drafts(self, *, most: int) -> list[int]:
        """Tokens that may follow, at most so many; none where they are not worth their time."""
        lookup = self._lookup
        if lookup is None or not self.is_ready or most < 1:
            return []
        return lookup.next(self._best_count(lookup.matched, most=most))

    def note_plain(self, seconds: float, *, search_seconds: float) -> None:
        """Note the time of a step without drafts, and that of looking for drafts."""
        self._drafts, self._taken = [], 0
        self._times.note_step(seconds)
        self.note_search(search_seconds)

    def note_search(self, seconds: float) -> None:
        """Note the time of looking for drafts, where it is not part of a run's."""
        self._account.pay(min(self._times.in_steps(seconds), _LONGEST_SEARCH))

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
        self._since = changes
        self._account.pay(self._times.note_run(len(drafts), seconds) - 1)

    def ahead(self, token: int, *, changes: int) -> Floats | None:
        """Logits (V,) after a token, if the last run computed them; None where it did not."""
        if self._taken == len(self._drafts):
            return None
        if self._since == changes and self._drafts[self._taken] == token:
            self._taken += 1
            self._since = changes + 1  # of appending it
            self._account.earn_draft()
            return np.asarray(self._logits[self._taken])
        return None

    def _best_count(self, matched: int, *, most: int) -> int:
        """The number of drafts by which most tokens a second are expected; 0: a plain step.

        Where times alone rule drafts out, these are trusted a little less from then on.
        """
        best, highest = 0, _GAIN
        tokens = reached = 1.0  # expected of the run; the chance that all drafts so far are right
        drafts, is_covered = 0, True
        for count in _COUNTS:
            if count > most:
                break
            while drafts < count:
                reached *= self._shares[_kind(matched + drafts)]
                tokens += reached
                drafts += 1
            steps = self._times.steps(count)
            gain = tokens / steps
            if gain > highest:
                is_covered = self._account.covers(steps - 1)
                if not is_covered:
                    break
                best, highest = count, gain
        if not best and is_covered:
            self._times.shrink()
        return best


def _kind(matched: int) -> int:
    """The index of a share by the number of matched tokens."""
    return min(matched.bit_length(), len(_FIRST_SHARES) - 1)
