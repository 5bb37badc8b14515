"""Two tokenizers of one checkpoint: do they encode and decode alike?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tokenizers import Tokenizer

from ..probe_texts import PROBE_TEXTS

# Texts that the split regexes of Llama 3 and of Mistral's tekken split differently.
MIXED_CASE = ("eBay", "mL of NaOH at pH 7", "McDonald's iPhone", "it's WE'LL", "12345", "a//\n\nb")
_TEXTS = (*PROBE_TEXTS, *MIXED_CASE)


def first_other_token(found: Tokenizer, ids: Mapping[str, int]) -> str | None:
    """Describe the first token that a tokenizer has with another id; None: no token."""
    for text, token in ids.items():
        own = found.token_to_id(text)
        if own != token:
            return f"{text!r} is token {own}, and {token}"
    return None


def first_other_text(
    found: Tokenizer, expected: Tokenizer, texts: Iterable[str] = _TEXTS
) -> str | None:
    """Describe the first text that two tokenizers encode differently; None: no text.

    Texts that spell an added token are left out: its name may differ.
    """
    added = [
        token.content
        for each in (found, expected)
        for token in each.get_added_tokens_decoder().values()
    ]
    for text in texts:
        if any(token in text for token in added):
            continue
        own, wanted = (
            each.encode(text, add_special_tokens=False).ids for each in (found, expected)
        )
        if own != wanted:
            return f"{text!r} is {own}, and {wanted}"
    return None
