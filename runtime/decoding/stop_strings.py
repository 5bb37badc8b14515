"""Finds stop strings in text that comes in pieces; no part of one is handed on."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ContractError


class StopStrings:
    """Holds back text that may become a stop string until it has, or cannot any more.

    >>> stops = StopStrings(["END", "NEVER"])
    >>> [stops.push(piece) for piece in ("an E", "EN", "emy, E", "ND of it")]
    ['an ', 'E', 'ENemy, ', '']
    >>> stops.found
    'END'
    """

    def __init__(self, strings: str | Sequence[str]) -> None:
        """Look for one string or for several; none is empty.

        Raises:
            ContractError: a string is empty, or is no string.
        """
        self._strings = (strings,) if isinstance(strings, str) else tuple(strings)
        for string in self._strings:
            if not isinstance(string, str) or not string:
                raise ContractError(
                    f"stop has {string!r}; expected strings of one character or more"
                )
        self._held = ""
        self.found: str | None = None  # that ends first in the text; of several the longest

    def push(self, text: str) -> str:
        """Text that is no part of a stop string, up to the first of them.

        However the text is cut into pieces, what is handed on and what is found are the same.
        """
        if self.found is not None:
            return ""
        held = self._held + text
        found = [
            (place + len(string), place)
            for string in self._strings
            if (place := held.find(string)) >= 0
        ]
        if found:
            end, start = min(found)
            self._held, self.found = "", held[start:end]
            return held[:start]
        kept = self._may_begin(held)
        self._held = held[len(held) - kept :]
        return held[: len(held) - kept]

    def flush(self) -> str:
        """What is held back, at the end of the text."""
        held, self._held = self._held, ""
        return held

    def _may_begin(self, text: str) -> int:
        """Characters at the end of a text that may be the beginning of a stop string."""
        longest = max((len(string) for string in self._strings), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(string.startswith(text[-length:]) for string in self._strings):
                return length
        return 0
