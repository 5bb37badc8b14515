"""Texts on which two tokenizers are compared, and where their tokens differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

_WHITESPACE = (
    "", "a", " a", "  a", "a ", "a  b", " ", "   ", " " * 40, "\t", "\n", "\n\n", "\r\n",
    "a\n b\n\tc", " \n ", "x\u00a0y", "x\u200by", "\ufeffx", "x\u3000 y", "tail \n\n  ",
)  # fmt: skip
_SCRIPTS = (
    "Grüße aus Köln", "日本語のテキスト", "العربية من اليمين", "हिन्दी", "Ελληνικά", "ᚠᛇᚻ", "𐍈𐍉",
    "e\u0301 is not é", "à\u0301\u0302", "\ufb01 \uff46\uff55\uff4c\uff4c ①②③",
    "\u202eabc", "Ω≈ç√∫",
)  # fmt: skip
_EMOJI = ("🤗", "👩\u200d👩\u200d👧\u200d👦", "🏳\ufe0f\u200d🌈 🇩🇪", "a🙂b", "1\ufe0f\u20e3")
_BYTES = ("\x01\x1f\x7f", "\ud7ff\ue000\uffff", "<0x41>", "<0xE2><0x82>", "\U0010ffff")
_CONTROL = (
    "<s>", "</s>", "<unk>", "<s>hello</s>", " <s> x", "say </s> now", "[INST] x [/INST]",
)  # fmt: skip
_SPACE_SIGN = ("\u2581", "\u2581a", "a\u2581b", "\u2581 \u2581")
_CODE = (
    "def fibonacci(n):\n    return n\n", "'''\"\"\"```", "1234567890 0x1F 3.14e-10",
    "http://a.b/c?d=e&f=g", "if x:\n\t\tpass  # twice", "a" * 300, "([{<>}])" * 9,
    "Once upon a time, there was a little girl named Lily.",
)  # fmt: skip

PROBE_TEXTS = (*_WHITESPACE, *_SCRIPTS, *_EMOJI, *_BYTES, *_CONTROL, *_SPACE_SIGN, *_CODE)


def around(added: Iterable[str]) -> Iterator[str]:
    """Each added token alone, between letters, after one space and two, and doubled.

    >>> list(around(["<x>"]))
    ['<x>', 'a<x>b', 'a <x> b', '  <x>', '<x><x>']
    """
    for one in added:
        yield from (one, f"a{one}b", f"a {one} b", f"  {one}", one * 2)


def first_other(own: Sequence[int], other: Sequence[int]) -> tuple[int, int | None, int | None]:
    """Place and ids of the first token that differs; None: the text has ended there.

    >>> first_other([5, 6], [5, 6, 7])
    (2, None, 7)
    """
    pairs = enumerate(zip_longest(own, other))
    return next((place, one, two) for place, (one, two) in pairs if one != two)
