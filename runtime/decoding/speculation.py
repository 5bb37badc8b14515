"""Prompt lookup: drafts of the next tokens, copied from where the last ones occurred before.

One run computes the logits after a token and after each of its drafts. As long as the tokens that
are chosen are the drafts, their logits are there already. Each token is chosen as ever, by any
sampler: a draft decides only what is computed together. So the tokens are those of plain decoding,
up to the rounding of sums in another order, as with a prompt cut into other chunks: in recipes
that round activations to 8 bits, a token that is nearly as likely may be chosen. Drafts that were
not chosen leave rows beyond the end of the sequence, which the next run overwrites.

Source: Saxena, "Prompt Lookup Decoding" (2023), for the drafts; Leviathan et al.,
arXiv:2211.17192, for the verification: its rule for drafts of probability 1 is to sample and
compare.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

_MATCHED = 3  # tokens that must have occurred before
_FEWEST, _MOST = 2, 16  # drafts of one run
_FIRST_PAUSE, _LONGEST_PAUSE = 16, 1024  # plain steps after a run that was not worth its time
_PAUSE_GROWS = 4
_WEIGHT = 0.2  # of the newest plain step in their mean time


class Speculation:
    """Drafts of one generation, and whether they are worth their time."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._places: dict[tuple[int, ...], int] = {}  # after the last occurrence of some tokens
        self._indexed = 0  # tokens of the sequence whose ends are in ``_places``
        self._length, self._pause, self._left = _FEWEST, _FIRST_PAUSE, 0
        self._plain_seconds: float | None = None
        self._run_seconds = 0.0
        self._drafts: list[int] = []
        self._logits: Floats = np.empty((0, 0), np.float32)
        self._taken = 0  # drafts that were chosen
        self._since = -1

    def drafts(self, ids: Integers, *, most: int) -> list[int]:
        """Tokens that may follow, at most so many; none while drafts are not worth their time."""
        self._index(ids)
        if self._plain_seconds is None:  # the first step is plain: its time is compared with
            return []
        if self._left:
            self._left -= 1
            return []
        place = self._places.get(tuple(ids[-_MATCHED:].tolist()))
        count = min(self._length, most)
        if place is None:
            return []
        copied = [int(token) for token in ids[place : place + count]]
        # Where the text repeats itself, what comes next begins with the drafts themselves.
        while len(copied) < count:
            copied.append(copied[len(copied) - (len(ids) - place)])
        return copied

    def note_plain(self, seconds: float) -> None:
        """Note the time of a step without drafts."""
        mean = self._plain_seconds
        self._plain_seconds = seconds if mean is None else mean + _WEIGHT * (seconds - mean)

    def begin(self, drafts: list[int], logits: Floats, *, seconds: float, changes: int) -> None:
        """Note a run: logits (k + 1, V) after a token and its k drafts.

        ``changes`` is the guard's number, which every other change of the sequence increases.
        """
        self._drafts, self._logits, self._taken = drafts, logits, 0
        self._run_seconds, self._since = seconds, changes

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
        saved = (1 + self._taken) * (self._plain_seconds or 0.0) - self._run_seconds
        if saved > 0:
            self._pause = _FIRST_PAUSE
        else:
            self._left = self._pause
            self._pause = min(self._pause * _PAUSE_GROWS, _LONGEST_PAUSE)
        if self._taken == len(self._drafts):
            self._length = min(2 * self._length, _MOST)
        elif 2 * self._taken < len(self._drafts):
            self._length = max(self._length // 2, _FEWEST)
        self._drafts = []
        self._taken = 0

    def _index(self, ids: Integers) -> None:
        """Note what followed each few tokens; the last ones themselves have nothing after them."""
        tokens = ids[max(self._indexed - _MATCHED, 0) :].tolist()
        start = len(ids) - len(tokens)
        for end in range(max(self._indexed, _MATCHED), len(ids)):
            self._places[tuple(tokens[end - _MATCHED - start : end - start])] = end
        self._indexed = len(ids)
