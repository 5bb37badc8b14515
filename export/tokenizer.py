"""Which tokenizer goes with the checkpoint, and how does a prompt begin and an answer end?"""

from __future__ import annotations

import shutil
from pathlib import Path

import sentencepiece

from ..errors import CheckpointError
from ..runtime.contract import TOKENIZER_FILE
from ..runtime.manifest import Vocabulary
from .checkpoint import Checkpoint


def carry_tokenizer(checkpoint: Checkpoint, artifact: Path) -> None:
    """Write the SentencePiece model into an artifact's folder, and what was published beside it.

    Raises:
        CheckpointError: no tokenizer, or not one that the driver reads.
    """
    tokenizer = checkpoint.read_tokenizer()
    (artifact / TOKENIZER_FILE).write_bytes(tokenizer.model)
    for path in tokenizer.companions:
        shutil.copyfile(path, artifact / path.name)


def read_vocabulary(checkpoint: Checkpoint) -> Vocabulary:
    """Read start and end tokens, and whether a prompt starts with the start token.

    The config says which they are; where it does not, the SentencePiece model does.

    Raises:
        CheckpointError: no tokenizer, an unreadable one, or one with more pieces than the model.
    """
    config, tokenizer = checkpoint.config, checkpoint.read_tokenizer()
    pieces = sentencepiece.SentencePieceProcessor()
    try:
        pieces.LoadFromSerializedProto(tokenizer.model)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{tokenizer.path}: not a SentencePiece model ({error}); download it again"
        ) from error
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
