"""Parts of a ``tokenizer.json``: its bytes, its start token, what it puts around a text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from tokenizers import Tokenizer, processors

from ...runtime.tokenizers.hugging_face import parse_tokenizer_json
from ...runtime.tokenizers.panics import panics_as
from .probe_texts import PROBE_TEXTS

SHORT_TEXTS = ("a", "0", ".", "\n")
_MOST_PIECES = 1000  # tried where no such text has a token


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
    """Tokens that a file puts before and after a text; None: it cannot be read, or has no text."""
    try:
        tokenizer = parse_tokenizer_json(content)
    except ValueError:
        return None
    return around_text(lambda text: _encoded(tokenizer, text), _texts(tokenizer))


def around_text(
    encode: Callable[[str], tuple[list[int], list[int | None]]], texts: Iterable[str]
) -> tuple[list[int], list[int]] | None:
    """Tokens that a tokenizer puts before and after a text; None: no text has tokens.

    Args:
        encode: gives the ids of a text's tokens, and the sequence that each belongs to: None for
            those around the text, whatever their ids.
        texts: tried until one has tokens.
    """
    for text in texts:
        ids, sequences = encode(text)
        own = [place for place, sequence in enumerate(sequences) if sequence is not None]
        if own:
            return ids[: own[0]], ids[own[-1] + 1 :]
    return None


def _encoded(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[int | None]]:
    try:
        with panics_as(ValueError, "{said}"):
            found = tokenizer.encode(text)
    except ValueError:
        return [], []  # the vocabulary lacks a character, and has no unknown token
    return list(found.ids), list(found.sequence_ids)


def _texts(tokenizer: Tokenizer) -> Iterator[str]:
    """Texts of which one has tokens in nearly every vocabulary, then pieces of this one."""
    yield from SHORT_TEXTS
    yield from PROBE_TEXTS
    yield from sorted(tokenizer.get_vocab(with_added_tokens=False))[:_MOST_PIECES]
