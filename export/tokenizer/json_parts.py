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
