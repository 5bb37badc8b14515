"""The tokenizer of the bundled demo model, opened in some ways."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tramontane.runtime.tokenizers.sentencepiece import SentencePiece
from tramontane.runtime.tokenizers.tokenizer import Tokenizer
from tramontane.runtime.tokenizers.vocabulary import Vocabulary

MODEL = Path(__file__).parents[3] / "models/stdlib-5m/tokenizer.model"


def make(*, bos: int | None = 1, adds: bool = True, vocab_size: int | None = None) -> Tokenizer:
    return Tokenizer(
        SentencePiece(MODEL.read_bytes()),
        Vocabulary(bos_token_id=bos, eos_token_ids=(2,), add_bos_token=adds),
        path=MODEL,
        vocab_size=vocab_size,
    )


@pytest.fixture(scope="session")
def tokenizer() -> Callable[..., Tokenizer]:
    """Open it with some start token that prompts begin with or not, for some number of tokens."""
    return make


@pytest.fixture
def padded() -> Tokenizer:
    """Of a model that scores 64 tokens beyond the 2048 pieces."""
    return make(vocab_size=2048 + 64)
