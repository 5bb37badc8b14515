"""The tokenizer of a checkpoint: text to tokens, and its files in an artifact."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from ...console.progress import say
from ...runtime.contract import TOKENIZER_FILE
from ...runtime.errors import CheckpointError
from ...runtime.manifest import Vocabulary, to_json
from ...runtime.tokenizers.sentencepiece import SentencePiece
from ..formats.checkpoint import Checkpoint
from ..formats.held_files import HeldFile
from ..formats.metadata_fields import read_json_object
from ..formats.tokenizer_files import JSON_FILE, SETTINGS_FILE, PublishedTokenizer
from .special_tokens import end_tokens, read_around, start_token
from .tokenizer_json import NotExpressible, TokenizerJson, first_difference
from .tokenizer_settings import correct_settings

AS_PUBLISHED, MADE, LEFT_OUT = "as published", f"made from {TOKENIZER_FILE}", "left out: "
# The format has two ways to put a space in front of the first stretch alone. transformers and
# transformers.js read both; onnxruntime-genai 0.18.0 reads neither.
SPACED = (
    f"{MADE}; text after a control token gets a space in front, as with legacy: true, though the "
    "checkpoint's settings have legacy: false"
)


def write_tokenizer(checkpoint: Checkpoint, artifact: Path, vocabulary: Vocabulary) -> str:
    """Write the tokenizer into an artifact's folder: for our driver, and for other runtimes.

    ``tokenizer.json`` is the published one if it encodes and decodes the probe texts, and every
    piece, as the SentencePiece model does. Otherwise it is made from that model and compared with
    it on the same texts.

    Returns:
        Where ``tokenizer.json`` comes from, or why it was left out: ``AS_PUBLISHED``, ``MADE``,
        ``SPACED`` or ``LEFT_OUT`` with the reason.

    Raises:
        CheckpointError: no tokenizer, or not one that the driver reads.
    """
    tokenizer = checkpoint.read_tokenizer()
    pieces = _open(tokenizer)
    (artifact / TOKENIZER_FILE).write_bytes(tokenizer.model)
    for name, file in tokenizer.companions.items():
        (artifact / name).write_bytes(file.read_bytes())
    correct_settings(artifact, vocabulary, pieces, source=tokenizer.path)
    published, settings = (tokenizer.companions.get(n) for n in (JSON_FILE, SETTINGS_FILE))
    if published is not None:
        difference = _difference(published, pieces, vocabulary)
        if difference is None and settings is not None:
            return AS_PUBLISHED
        say(f"{published}: {difference or 'has no settings beside it'}; it is made anew")
    own = {} if settings is None else read_json_object(artifact / SETTINGS_FILE)
    try:
        made = TokenizerJson(
            tokenizer.model, vocabulary, reads_control=own.get("chat_template") is not None
        )
        difference = first_difference(made.tokenizer(), pieces)
        if difference is not None:
            raise NotExpressible(difference)
    except NotExpressible as why:
        say(f"{tokenizer.path}: {JSON_FILE} is left out, since {why}")
        (artifact / JSON_FILE).unlink(missing_ok=True)
        return f"{LEFT_OUT}{why}"
    (artifact / JSON_FILE).write_text(made.tokenizer().to_str() + "\n", encoding="utf-8")
    ours = made.settings(max_positions=checkpoint.config.max_position_embeddings)
    end = {"eos_token": own["eos_token"]} if own.get("eos_token") is not None else {}
    (artifact / SETTINGS_FILE).write_text(to_json({**own, **ours, **end}), encoding="utf-8")
    if made.reads_control and own.get("legacy") is False:
        say(f"{tokenizer.path.with_name(JSON_FILE)}: {SPACED}")
        return SPACED
    return MADE


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointTokenizer:
    """Text to tokens exactly as the driver does it with the exported artifact."""

    codec: SentencePiece
    vocabulary: Vocabulary

    @classmethod
    def read(cls, checkpoint: Checkpoint) -> CheckpointTokenizer:
        """Read a checkpoint's tokenizer, and its start and end tokens by ``special_tokens``.

        Raises:
            CheckpointError: no tokenizer, an unreadable one, one with more pieces than the model,
                or a start token that the tokenizer or the model does not have.
            ConfigError: end tokens that are no token ids, or that the model does not score.
        """
        config, tokenizer = checkpoint.config, checkpoint.read_tokenizer()
        pieces = _open(tokenizer)
        if len(pieces) > config.vocab_size:
            raise CheckpointError(
                f"{tokenizer.path}: {len(pieces)} pieces, the model scores "
                f"{config.vocab_size}; this is another model's tokenizer"
            )
        start, adds_start = start_token(tokenizer, pieces)
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
            eos_token_ids=end_tokens(checkpoint, tokenizer, pieces),
            add_bos_token=adds_start,
        )
        return cls(codec=pieces, vocabulary=vocabulary)


def read_vocabulary(checkpoint: Checkpoint) -> Vocabulary:
    """Read start and end tokens, and whether a prompt starts with the start token.

    It reads no weights, and refuses every tokenizer that an export would refuse.

    Raises:
        CheckpointError, ConfigError: as ``CheckpointTokenizer.read``.
    """
    return CheckpointTokenizer.read(checkpoint).vocabulary


# A line of tiktoken's files: bytes in base64, and a rank.
_TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")


def _open(tokenizer: PublishedTokenizer) -> SentencePiece:
    if _TIKTOKEN.match(tokenizer.model):
        raise CheckpointError(
            f"{tokenizer.path}: is a tiktoken BPE file (as Llama 3 has), expected a SentencePiece "
            "model; such tokenizers are not supported by this version, so export a model with a "
            "SentencePiece tokenizer, such as Mistral 7B or Llama 2"
        )
    try:
        return SentencePiece(tokenizer.model)
    except ValueError as error:
        raise CheckpointError(
            f"{tokenizer.path}: not a SentencePiece model ({error}); {tokenizer.remedy}"
        ) from error


def _difference(published: HeldFile, pieces: SentencePiece, vocabulary: Vocabulary) -> str | None:
    """How a published ``tokenizer.json`` differs from SentencePiece; None where it does not."""
    try:
        found = Tokenizer.from_str(published.read_bytes().decode())
    except Exception as error:  # what tokenizers raises has no type of its own
        return f"cannot be read ({error})"
    start = vocabulary.prompt_start
    before, after = read_around(published) or ([], [])
    if before != start:
        return f"begins a text with {before}, the settings beside it say {start}"
    if after:
        return f"ends a text with {after}, which a prompt must not"
    return first_difference(found, pieces)
