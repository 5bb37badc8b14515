"""Which tokenizer goes with the checkpoint, and how does a prompt begin and an answer end?"""

from __future__ import annotations

import shutil
from pathlib import Path

import sentencepiece
from tokenizers import Tokenizer

from ..errors import CheckpointError
from ..runtime.contract import TOKENIZER_FILE
from ..runtime.manifest import Vocabulary, to_json
from .checkpoint import Checkpoint
from .config import read_json_object
from .progress import say
from .tokenizer_files import JSON_FILE, SETTINGS_FILE, PublishedTokenizer
from .tokenizer_json import TokenizerJson, Unsayable, first_difference

AS_PUBLISHED, MADE = "as published", f"made from {TOKENIZER_FILE}"


def write_tokenizer(checkpoint: Checkpoint, artifact: Path, vocabulary: Vocabulary) -> str:
    """Write the tokenizer into an artifact's folder: for our driver, and for other runtimes.

    ``tokenizer.json`` is the published one where it reads hard strings, and every piece, as the
    SentencePiece model does; else it is made from that model, and proved equal to it on the same.

    Returns:
        Where ``tokenizer.json`` comes from, or why it was left out: ``AS_PUBLISHED``, ``MADE`` or
        ``left out: ...``.

    Raises:
        CheckpointError: no tokenizer, or not one that the driver reads.
    """
    tokenizer = checkpoint.read_tokenizer()
    pieces = _processor(tokenizer)
    (artifact / TOKENIZER_FILE).write_bytes(tokenizer.model)
    for path in tokenizer.companions.values():
        shutil.copyfile(path, artifact / path.name)
    published, settings = (tokenizer.companions.get(n) for n in (JSON_FILE, SETTINGS_FILE))
    if published is not None:
        difference = _difference(published, pieces, vocabulary)
        if difference is None and settings is not None:
            return AS_PUBLISHED
        say(f"{published}: {difference or 'has no settings beside it'}; it is made anew")
    own = {} if settings is None else read_json_object(settings)
    try:
        made = TokenizerJson(
            tokenizer.model, vocabulary, reads_control=own.get("chat_template") is not None
        )
        difference = first_difference(made.tokenizer(), pieces)
        if difference is not None:
            raise Unsayable(difference)
    except Unsayable as why:
        say(f"{tokenizer.path}: {JSON_FILE} is left out, since {why}")
        (artifact / JSON_FILE).unlink(missing_ok=True)
        return f"left out: {why}"
    (artifact / JSON_FILE).write_text(made.tokenizer().to_str() + "\n", encoding="utf-8")
    ours = made.settings(max_positions=checkpoint.config.max_position_embeddings)
    (artifact / SETTINGS_FILE).write_text(to_json({**own, **ours}), encoding="utf-8")
    return MADE


def read_vocabulary(checkpoint: Checkpoint) -> Vocabulary:
    """Read start and end tokens, and whether a prompt starts with the start token.

    The config says which they are; where it does not, the SentencePiece model does.

    Raises:
        CheckpointError: no tokenizer, an unreadable one, or one with more pieces than the model.
    """
    config, tokenizer = checkpoint.config, checkpoint.read_tokenizer()
    pieces = _processor(tokenizer)
    if pieces.vocab_size() > config.vocab_size:
        raise CheckpointError(
            f"{tokenizer.path}: {pieces.vocab_size()} pieces, the model scores "
            f"{config.vocab_size}; this is another model's tokenizer"
        )
    bos = config.bos_token_id
    if bos is None and pieces.bos_id() >= 0:
        bos = pieces.bos_id()
    ends = config.eos_token_ids or ((pieces.eos_id(),) if pieces.eos_id() >= 0 else ())
    return Vocabulary(
        bos_token_id=bos,
        eos_token_ids=ends,
        add_bos_token=tokenizer.adds_bos and bos is not None,
    )


def _processor(tokenizer: PublishedTokenizer) -> sentencepiece.SentencePieceProcessor:
    pieces = sentencepiece.SentencePieceProcessor()
    try:
        pieces.LoadFromSerializedProto(tokenizer.model)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{tokenizer.path}: not a SentencePiece model ({error}); download it again"
        ) from error
    return pieces


def _difference(
    published: Path, pieces: sentencepiece.SentencePieceProcessor, vocabulary: Vocabulary
) -> str | None:
    """How a published ``tokenizer.json`` differs from SentencePiece; None where it does not."""
    try:
        found = Tokenizer.from_file(str(published))
    except Exception as error:  # what tokenizers raises has no type of its own
        return f"cannot be read ({error})"
    start = [vocabulary.bos_token_id] if vocabulary.add_bos_token else []
    if (first := found.encode("a").ids[: -len(pieces.encode("a"))]) != start:
        return f"begins a text with {first}, the settings beside it say {start}"
    return first_difference(found, pieces)
