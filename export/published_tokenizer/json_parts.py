"""Parts of a ``tokenizer.json``: its bytes, its start token, what it puts around a text."""

from __future__ import annotations

from tokenizers import Tokenizer, processors

from ...runtime.tokenizers.hugging_face import parse_tokenizer_json
from ...runtime.tokenizers.panics import panics_as


def to_bytes(tokenizer: Tokenizer) -> bytes:
    """The content of the file; the same tokenizer gives the same bytes."""
    return f"{tokenizer.to_str()}\n".encode()


def starts_with(text: str, token: int) -> processors.PostProcessor:
    """Puts a start token in front of a text."""
    return processors.TemplateProcessing(
        single=[text, "$A"], pair=[text, "$A", "$B"], special_tokens=[(text, token)]
    )


def without_ends(content: bytes) -> tuple[bytes, list[str]]:
    """The same file, which puts no token behind a text, and the tokens that it put there.

    A text that is continued has no end. The start token, if the file has one, is kept.
    """
    before, after = read_around(content) or ([], [])
    if not after:
        return content, []
    tokenizer = parse_tokenizer_json(content)
    starts = [(str(tokenizer.id_to_token(token)), token) for token in before]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*(text for text, _ in starts), "$A"],
        pair=[*(text for text, _ in starts), "$A", "$B"],
        special_tokens=starts,
    )
    return to_bytes(tokenizer), [str(tokenizer.id_to_token(token)) for token in after]


def read_around(content: bytes) -> tuple[list[int], list[int]] | None:
    """Tokens that a file puts before and after a text; None: it cannot be read."""
    try:
        tokenizer = parse_tokenizer_json(content)
        with panics_as(ValueError, "{said}"):
            text = tokenizer.encode("a", add_special_tokens=False).ids
            whole = tokenizer.encode("a").ids
    except ValueError:
        return None
    for start in range(len(whole) - len(text) + 1):
        if text and whole[start : start + len(text)] == text:
            return whole[:start], whole[start + len(text) :]
    return None
