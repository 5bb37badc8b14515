"""Tokens to measure activations on; parity is measured on others."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...runtime.errors import ConfigError
from ...runtime.sizes import counted
from ..config import MistralConfig
from ..formats.checkpoint import Checkpoint
from ..tokenizer.tokenizer import CheckpointTokenizer

TEXT = Path(__file__).with_name("calibration.txt")
# Of a text, for recipes that observe the largest activations alone: those show early.
TOKENS_FOR_MAXIMA = 2048
# For those that round matrices by their inputs. More are closer to the float model, but hardly
# beyond this.
DEFAULT_TOKENS = 16384
SEQUENCE_LENGTH = 512  # of one sequence
_FEWEST_TOKENS = 32
_SEED = (0x7472616D, 0x63616C)  # no whole number seeds the same tokens, and the gate's are those


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationTokens:
    """Sequences (T,) int64, every one beginning as a prompt does but the random one."""

    text: list[np.ndarray]
    random: np.ndarray  # seeded: the wildest that a model can be given

    def all(self) -> list[np.ndarray]:
        """The text's, then the random one."""
        return [*self.text, self.random]


def digest_of(texts: Sequence[str]) -> str:
    """SHA-256 of a text; of several, that of their digests in this order."""
    found = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    return found[0] if len(found) == 1 else hashlib.sha256("".join(found).encode()).hexdigest()


def calibration_tokens(
    config: MistralConfig, checkpoint: Checkpoint, texts: tuple[str, ...], *, most: int
) -> CalibrationTokens:
    """Sequences to calibrate on: texts, cut where they are long, and one of seeded random tokens.

    Static scales and smoothing that know text alone would be surprised by what is none, such as
    code in a language of no book.

    Args:
        config: of the model.
        checkpoint: that has the tokenizer.
        texts: each is cut into sequences; they are taken in turn, one from each text.
        most: tokens of all texts, at most; of 512, so many sequences, or as many shorter ones
            where the model has fewer positions.

    Raises:
        ConfigError: a text has too few tokens.
        CheckpointError: the checkpoint's tokenizer is unreadable.
    """
    tokenizer = CheckpointTokenizer.read(checkpoint)
    start = tokenizer.vocabulary.prompt_start
    length = min(SEQUENCE_LENGTH, config.max_position_embeddings)
    step = length - len(start)
    sequences, by_text = max(most // SEQUENCE_LENGTH, 1), []
    for number, text in enumerate(texts, 1):
        ids = tokenizer.codec.encode(text)[: sequences * step]
        if len(ids) < _FEWEST_TOKENS:
            which = f" {number} of {len(texts)}" if len(texts) > 1 else ""
            raise ConfigError(
                f"--calibration-text{which}: {counted(len(ids), 'token')}, expected at least "
                f"{_FEWEST_TOKENS}; name a longer text like the model's training data"
            )
        by_text.append([[*start, *ids[i : i + step]] for i in range(0, len(ids), step)])
    in_turn = (piece for turn in itertools.zip_longest(*by_text) for piece in turn if piece)
    cut = list(itertools.islice(in_turn, sequences))
    random = np.random.default_rng(_SEED).integers(0, config.vocab_size, length)
    return CalibrationTokens(
        text=[np.array(piece, dtype=np.int64) for piece in cut], random=random
    )
