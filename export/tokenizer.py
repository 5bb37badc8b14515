"""Which tokenizer goes with the checkpoint, and how does a prompt begin and an answer end?"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import sentencepiece

from ..errors import CheckpointError
from ..runtime.contract import TOKENIZER_FILE
from ..runtime.manifest import Vocabulary
from .config import MistralConfig

# Carried over as published, where the checkpoint has them.
_COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
)


def carry_tokenizer(checkpoint: Path, artifact: Path) -> None:
    """Copy the tokenizer's files into an artifact's folder."""
    for name in (TOKENIZER_FILE, *_COMPANIONS):
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, artifact / name)


def read_vocabulary(checkpoint: Path, config: MistralConfig) -> Vocabulary:
    """Read start and end tokens, and whether a prompt starts with the start token.

    Raises:
        CheckpointError: no tokenizer, an unreadable one, or one with more pieces than the model.

    Source: transformers' ``LlamaTokenizer``, which Mistral shares: ``add_bos_token`` is true
        where ``tokenizer_config.json`` does not say otherwise.
    """
    path = checkpoint / TOKENIZER_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{checkpoint}: holds no {TOKENIZER_FILE}; the driver needs a SentencePiece model"
        )
    try:
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not a SentencePiece model; download it again") from error
    if pieces.vocab_size() > config.vocab_size:
        raise CheckpointError(
            f"{path}: {pieces.vocab_size()} pieces, the model scores {config.vocab_size}; "
            "this is another model's tokenizer"
        )
    bos = config.bos_token_id
    adds_bos = _json(checkpoint / "tokenizer_config.json").get("add_bos_token", True)
    ends = config.eos_token_ids or ((pieces.eos_id(),) if pieces.eos_id() >= 0 else ())
    return Vocabulary(
        bos_token_id=bos, eos_token_ids=ends, add_bos_token=bool(adds_bos) and bos is not None
    )


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error}); download it again") from error
    return content if isinstance(content, dict) else {}
