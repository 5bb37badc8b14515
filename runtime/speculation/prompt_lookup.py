"""Prompt lookup: the next tokens of a sequence, predicted by where its last ones occurred before.

A prediction follows one earlier place of the sequence for as long as its tokens come again, so a
token costs microseconds, however long the sequence is. Where one token differs, the place after it
is followed: an edited copy goes on after the edit.

Source: Saxena, "Prompt Lookup Decoding" (2023).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

FEWEST = 3  # tokens that must have occurred before


class PromptLookup:
    """The tokens of a sequence, and the earlier place that they repeat.

    >>> lookup = PromptLookup(np.array([5, 6, 7, 8, 9, 5, 6, 7]))
    >>> lookup.matched, lookup.next(2)
    (3, [8, 9])
    >>> lookup.append(8)
    True
    >>> lookup.matched, lookup.next(6)  # it goes on as it did from there
    (4, [9, 5, 6, 7, 8, 9])
    """

    def __init__(self, ids: Integers) -> None:
        """Read a sequence; tokens below 0 are unknown ones."""
        self._tokens: list[int] = []
        self._places: dict[tuple[int, int, int], int] = {}  # what follows; of several the last
        self._place: int | None = None  # of the token that is predicted
        self.matched = 0  # tokens before it that are also the last ones of the sequence
        self.extend(ids)

    @property
    def tokens(self) -> int:
        """Tokens of the sequence."""
        return len(self._tokens)

    @property
    def predicts(self) -> bool:
        """Whether there is a prediction."""
        return self._place is not None

    def extend(self, ids: Integers) -> None:
        """Add several tokens, whatever was predicted; takes less time than one after the other."""
        tokens = self._tokens
        first = max(len(tokens) - FEWEST, 0)
        tokens.extend(ids.tolist())
        # The last key of the sequence has nothing after it yet.
        keys = zip(tokens[first:], tokens[first + 1 :], tokens[first + 2 : -1], strict=False)
        self._places.update(zip(keys, range(first + FEWEST, len(tokens)), strict=False))
        self._find()

    def append(self, token: int) -> bool:
        """Add a token; returns whether it was the one predicted."""
        tokens, place = self._tokens, self._place
        end = len(tokens)
        if end >= FEWEST:
            self._places[tokens[-3], tokens[-2], tokens[-1]] = end
        tokens.append(token)
        if place is not None and tokens[place] == token:
            self._place = place + 1
            self.matched += 1
            return True
        was_long = self.matched > FEWEST
        self._find()
        if self._place is None and place is not None and was_long:
            self._place = place + 1
        return False

    def next(self, count: int) -> list[int]:
        """Up to so many predicted tokens; none where the last ones are new."""
        place = self._place
        if place is None:
            return []
        found = self._tokens[place : place + count]
        # Where the text repeats itself, what comes next begins with the prediction itself.
        period = len(self._tokens) - place
        while len(found) < count:
            found.append(found[len(found) - period])
        unknown = next((index for index, token in enumerate(found) if token < 0), None)
        return found[:unknown]

    def _find(self) -> None:
        """Find the last place before which the last tokens stand."""
        tokens = self._tokens
        place = self._places.get((tokens[-3], tokens[-2], tokens[-1])) if len(tokens) > 2 else None
        self._place, self.matched = place, 0
        if place is not None:
            self.matched = FEWEST
