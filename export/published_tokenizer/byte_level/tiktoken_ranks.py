"""tiktoken's files, such as the ``tokenizer.model`` of Llama 3: recognized, read and compared.

Such a file lists ordinary tokens alone: neither special tokens nor the split regex.
The ``tokenizer.json`` of the same checkpoint has all three.

Source: openai/tiktoken, tiktoken/load.py, ``load_tiktoken_bpe``.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path

from tokenizers import Tokenizer

from ....runtime.errors import CheckpointError
from .agreement import first_other_text, first_other_token
from .bpe import ByteLevelBpe, merges_of, spell

_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")  # bytes in base64, and a rank


def is_tiktoken(content: bytes) -> bool:
    """Whether a file's content is tiktoken's."""
    return _LINE.match(content) is not None


def refuse_alone(path: Path) -> None:
    """Refuse a file that has no ``tokenizer.json`` beside it.

    Raises:
        CheckpointError: always.
    """
    raise CheckpointError(
        f"{path}: is a tiktoken file (as Llama 3 has), which lacks the special tokens and the "
        "split regex, expected a tokenizer.json beside it; copy the tokenizer.json of the "
        "same model into the folder"
    )


def refuse_other(content: bytes, published: Tokenizer, path: Path) -> None:
    """Refuse a file that does not encode as the ``tokenizer.json`` beside it.

    Raises:
        CheckpointError: a line is not tiktoken's, a token has another id, or a text is encoded
            differently.
    """
    ranks = _read(content, path)
    ids = {spell(token): rank for token, rank in ranks.items()}
    difference = first_other_token(published, ids)
    if difference is None:
        alone = ByteLevelBpe(
            vocabulary=ids,
            merges=merges_of(ranks),
            pre_tokenizer=published.pre_tokenizer,
            is_whole_first=True,
        )
        difference = first_other_text(published, alone.tokenizer())
    if difference is not None:
        raise CheckpointError(
            f"{path.with_name('tokenizer.json')}: {difference} in {path.name} beside it, expected "
            f"one tokenizer in both files; remove {path.name} if it is another model's"
        )


def _read(content: bytes, path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), 1):
        if not line:
            continue
        try:
            text, rank = line.split()
            ranks[base64.b64decode(text, validate=True)] = int(rank)
        except ValueError as error:
            raise CheckpointError(
                f"{path}: line {number} is {line[:40]!r} ({error}), expected bytes in base64 and "
                "a rank; download it again"
            ) from error
    return ranks
