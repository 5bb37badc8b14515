"""The tokenizer of a checkpoint: text to tokens as the driver does it with the artifact."""

from __future__ import annotations

from dataclasses import dataclass

from ...runtime.errors import CheckpointError
from ...runtime.tokenizers.added_tokens import AddedTokens
from ...runtime.tokenizers.kinds import KINDS
from ...runtime.tokenizers.protocol import Codec
from ...runtime.tokenizers.vocabulary import SENTENCEPIECE, Vocabulary
from ..formats.checkpoint import Checkpoint
from ..published_tokenizer.tokenizer_files import SETTINGS_FILE, PublishedTokenizer
from .added_tokens import added_ids, with_added_tokens
from .special_tokens import end_tokens, start_token
from .streamed import refuse_other_stream


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointTokenizer:
    """Text to tokens exactly as the driver does it with the exported artifact."""

    codec: Codec
    vocabulary: Vocabulary

    @classmethod
    def read(cls, checkpoint: Checkpoint) -> CheckpointTokenizer:
        """Read a checkpoint's tokenizer, and its start and end tokens by ``special_tokens``.

        Raises:
            CheckpointError: no tokenizer, an unreadable one, one with more tokens than the model,
                or a start token that the tokenizer or the model does not have.
            ConfigError: end tokens that are no token ids, or that the model does not score.
        """
        config, tokenizer = checkpoint.config, checkpoint.read_tokenizer()
        tokenizer = with_added_tokens(tokenizer, config)
        codec = open_codec(tokenizer)
        beyond = set(range(config.vocab_size, len(codec)))
        if not beyond <= added_ids(tokenizer):
            raise CheckpointError(
                f"{tokenizer.path}: {len(codec)} tokens, the model scores "
                f"{config.vocab_size}; this is another model's tokenizer"
            )
        start, adds_start = start_token(tokenizer, codec)
        if start is not None and not 0 <= start < config.vocab_size:
            if adds_start:
                raise CheckpointError(
                    f"{tokenizer.path.with_name(SETTINGS_FILE)}: the start token is {start}, "
                    f"expected a token below {config.vocab_size}, as many as the model scores; "
                    "correct bos_token, or set add_bos_token to false"
                )
            start = None
        vocabulary = Vocabulary(
            bos_token_id=start,
            eos_token_ids=end_tokens(checkpoint, tokenizer, codec),
            add_bos_token=adds_start,
            kind=tokenizer.kind,
            added_tokens=tokenizer.added_tokens or AddedTokens(),
        )
        return cls(codec=codec, vocabulary=vocabulary)


def read_vocabulary(checkpoint: Checkpoint) -> Vocabulary:
    """Read start and end tokens, and whether a prompt starts with the start token.

    It reads no weights, and refuses every tokenizer that an export would refuse.

    Raises:
        CheckpointError, ConfigError: as ``CheckpointTokenizer.read``; or the text of tokens that
            come one by one is not that of all of them.
    """
    own = CheckpointTokenizer.read(checkpoint)
    published = with_added_tokens(checkpoint.read_tokenizer(), checkpoint.config)
    refuse_other_stream(own.codec, model=published.model, path=published.path)
    return own.vocabulary


def open_codec(tokenizer: PublishedTokenizer) -> Codec:
    """Open a published tokenizer as the driver does.

    Raises:
        CheckpointError: it is not of the kind that it is published as.
    """
    try:
        return KINDS[tokenizer.kind].parse(
            tokenizer.model, tokenizer.added_tokens or AddedTokens()
        )
    except ValueError as error:
        what = "a SentencePiece model" if tokenizer.kind == SENTENCEPIECE else "a tokenizer.json"
        raise CheckpointError(
            f"{tokenizer.path}: not {what} ({error}), expected one; {tokenizer.remedy}"
        ) from error
