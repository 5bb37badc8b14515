"""Tokens to measure activations on; parity is measured on others."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...runtime.errors import ConfigError
from ...runtime.sizes import counted
from ..config import MistralConfig
from ..formats.checkpoint import Checkpoint
from ..tokenizer.tokenizer import CheckpointTokenizer

TEXT = Path(__file__).with_name("calibration.txt")
_LENGTH = 512  # tokens of one sequence: what a channel does at its largest shows early
_MOST_SEQUENCES = 4  # of text
_FEWEST_TOKENS = 32
_SEED = (0x7472616D, 0x63616C)  # no whole number seeds the same tokens, and the gate's are those


def calibration_tokens(
    config: MistralConfig, checkpoint: Checkpoint, text: str
) -> list[np.ndarray]:
    """Sequences to calibrate on: a text, cut where it is long, and one of seeded random tokens.

    Static scales and smoothing that know text alone would be surprised by what is none, such as
    code in a language of no book; random tokens are the wildest that a model can be given.

    Returns:
        (T,) int64 each, every piece of the text beginning as a prompt does.

    Raises:
        ConfigError: the text has too few tokens.
        CheckpointError: the checkpoint's tokenizer is unreadable.
    """
    tokenizer = CheckpointTokenizer.read(checkpoint)
    start = tokenizer.vocabulary.prompt_start
    length = min(_LENGTH, config.max_position_embeddings)
    ids = tokenizer.codec.encode(text)[: _MOST_SEQUENCES * (length - len(start))]
    if len(ids) < _FEWEST_TOKENS:
        raise ConfigError(
            f"--calibration-text: {counted(len(ids), 'token')}, expected at least "
            f"{_FEWEST_TOKENS}; name a longer text like the model's training data"
        )
    step = length - len(start)
    cut = [[*start, *ids[i : i + step]] for i in range(0, len(ids), step)]
    random = np.random.default_rng(_SEED).integers(0, config.vocab_size, length)
    return [*(np.array(piece, dtype=np.int64) for piece in cut), random]
