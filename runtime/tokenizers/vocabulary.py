"""The kind of an artifact's tokenizer, its start and end tokens, and the tokens added to it."""

from __future__ import annotations

from dataclasses import dataclass, field

from .added_tokens import AddedTokens

# Kinds of tokenizer; manifests that name none have the first.
SENTENCEPIECE, TOKENIZERS = "sentencepiece", "tokenizers"


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """The kind of the tokenizer, and its start and end tokens."""

    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    add_bos_token: bool  # whether a prompt starts with the start token
    kind: str = SENTENCEPIECE  # as in ``tokenizers.kinds``
    # To the SentencePiece model; a tokenizer.json has its own.
    added_tokens: AddedTokens = field(default_factory=AddedTokens)

    @property
    def prompt_start(self) -> list[int]:
        """Tokens in front of the first prompt of a sequence: the start token, or none."""
        bos = self.bos_token_id
        return [bos] if self.add_bos_token and bos is not None else []
