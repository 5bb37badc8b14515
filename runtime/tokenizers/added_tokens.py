"""Tokens that were added to a SentencePiece model, and how a text is split at them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# Which stretches of a text, between added tokens, get a space in front, where the model puts one.
# The words are those of ``prepend_scheme`` in ``tokenizer.json``.
ALWAYS, FIRST = "always", "first"
# Unicode's White_Space, which Rust's \s is; Python's has U+001C to U+001F as well.
_SPACES = (
    "\t\n\v\f\r \u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009"
    "\u200a\u2028\u2029\u202f\u205f\u3000"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class AddedToken:
    """One added token; its flags are those of ``tokenizer.json``."""

    token: int
    text: str
    special: bool  # only found in a text where special tokens are allowed; decoding leaves it out
    lstrip: bool = False  # it takes the whitespace before it
    rstrip: bool = False  # it takes the whitespace after it
    normalized: bool = False  # it is looked for after the tokens that are not


@dataclass(frozen=True, kw_only=True, slots=True)
class AddedTokens:
    """What an artifact adds to its SentencePiece model."""

    tokens: tuple[AddedToken, ...] = ()
    prepend_scheme: str = FIRST  # ``ALWAYS`` or ``FIRST``
    doubles_space: bool = True  # whether a stretch that begins with a space gets one more


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """A part of a text."""

    start: int
    text: str
    token: int | None  # None: text that has no added token


class Splitter:
    """Splits texts at added tokens, as Hugging Face's ``tokenizers`` does.

    Source: tokenizers 0.23, src/tokenizer/added_vocabulary.rs, ``find_matches``.
    """

    def __init__(self, tokens: Sequence[AddedToken]) -> None:
        """Look for these tokens alone."""
        self._passes = [
            _Pass([one for one in tokens if one.normalized is normalized])
            for normalized in (False, True)
        ]

    def split(self, text: str) -> list[Stretch]:
        """Stretches of a text in order; none of them is empty."""
        found = [Stretch(start=0, text=text, token=None)] if text else []
        for each in self._passes:
            if each.is_needed:
                found = [
                    part
                    for stretch in found
                    for part in (each.split(stretch) if stretch.token is None else [stretch])
                ]
        return found


class _Pass:
    """One search: of two tokens that begin at one place, the longer is found."""

    def __init__(self, tokens: Sequence[AddedToken]) -> None:
        self._tokens = {one.text: one for one in tokens}
        longest_first = sorted(self._tokens, key=len, reverse=True)
        self._search = re.compile("|".join(map(re.escape, longest_first)))

    @property
    def is_needed(self) -> bool:
        return bool(self._tokens)

    def split(self, stretch: Stretch) -> Iterator[Stretch]:
        text, done = stretch.text, 0
        for match in self._search.finditer(text):
            one, (start, end) = self._tokens[match[0]], match.span()
            if one.lstrip:
                start = max(len(text[:start].rstrip(_SPACES)), done)
            if one.rstrip:
                end = len(text) - len(text[end:].lstrip(_SPACES))
            if done < start:
                yield Stretch(start=stretch.start + done, text=text[done:start], token=None)
            yield Stretch(start=stretch.start + start, text=text[start:end], token=one.token)
            done = end
        if done < len(text):
            yield Stretch(start=stretch.start + done, text=text[done:], token=None)
