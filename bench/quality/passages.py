"""Text that quantized models are scored on, cut into sequences."""

from __future__ import annotations

import runpy
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...console.text_file import read_text
from ...export.calibrate.tokens import TEXT as CALIBRATION_TEXT
from ...export.config import MistralConfig
from ...export.formats.checkpoint import Checkpoint
from ...export.tokenizer.tokenizer import CheckpointTokenizer
from ...runtime.errors import ConfigError
from ...runtime.sizes import counted
from ...validate.sequences.tokens import SAMPLE

BUNDLED = Path(__file__).parents[2] / "models" / "stdlib-5m"
SEQUENCE_LENGTH = 512  # at most
_HELD_OUT = "files of Python's standard library that the model was not trained on"


@dataclass(frozen=True, kw_only=True, slots=True)
class Passages:
    """Sequences of one length, spread evenly over a text."""

    sequences: np.ndarray  # (N, T) int64; each begins as a prompt does
    following: np.ndarray  # (N, T) int64: the token that follows each
    source: str  # what the text is

    @property
    def positions(self) -> int:
        """How many positions are scored: all."""
        return int(self.sequences.size)

    @property
    def targets(self) -> np.ndarray:
        """Tokens as ``validate.figures`` takes them for all logits (N * T, V) in a row.

        There, position t predicts token t + 1; the last position's is not known.
        """
        return np.append(0, self.following.reshape(-1)[:-1])


def read_passages(
    model: Path, checkpoint: Checkpoint, *, text: Path | None, positions: int
) -> Passages:
    """Cut a text; of the bundled model, by default what its training held out.

    Args:
        model: path of the checkpoint.
        checkpoint: that has the tokenizer.
        text: UTF-8; None: the default of the bundled model.
        positions: to score, at least.

    Raises:
        ConfigError: there is no default; the text is too short, or one that recipes are calibrated
            or measured on; no positions.
    """
    if positions < 1:
        raise ConfigError(f"--positions {positions}: expected 1 or more")
    source = _HELD_OUT if text is None else text.name
    words = held_out_text(model) if text is None else _read_other_text(text)
    tokenizer = CheckpointTokenizer.read(checkpoint)
    start = tokenizer.vocabulary.prompt_start
    sequences, following = cut(
        tokenizer.codec.encode(words),
        start,
        length=sequence_length(checkpoint.config),
        positions=positions,
    )
    return Passages(sequences=sequences, following=following, source=source)


def held_out_text(model: Path) -> str:
    """What the bundled model was not trained on, if it is the bundled model.

    Raises:
        ConfigError: it is another.
    """
    if model.resolve() != BUNDLED.resolve():
        raise ConfigError(
            f"{model}: no text to score it on, expected --text FILE; name a UTF-8 text like the "
            "model's training data, not the one that calibrates it"
        )
    corpus = runpy.run_path(str(BUNDLED.with_name("stdlib_corpus.py")))["read_corpus"]()
    return "\n".join(corpus.held_out)


def _read_other_text(path: Path) -> str:
    words = read_text(path, flag="--text")
    for seen, what in ((CALIBRATION_TEXT, "calibrates recipes"), (SAMPLE, "selects recipes")):
        if words == seen.read_text(encoding="utf-8"):
            raise ConfigError(
                f"--text {path}: the bundled text that {what}, expected one that neither saw; "
                "name another"
            )
    return words


def sequence_length(config: MistralConfig) -> int:
    """Tokens of a sequence: within all windows, as llama.cpp has none for this architecture."""
    windows = [window for window in config.windows if window is not None]
    return min(SEQUENCE_LENGTH, config.max_position_embeddings, *windows)


def cut(
    ids: list[int], start: list[int], *, length: int, positions: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cut sequences that do not overlap, spread evenly over a text.

    Args:
        ids: tokens of the text.
        start: tokens in front of each sequence.
        length: of a sequence, ``start`` included.
        positions: in all sequences, at least.

    Returns:
        The sequences, and the token that follows each position: (N, T) int64 each.

    Raises:
        ConfigError: the text is too short.
    """
    step, count = length - len(start), -(-positions // length)
    if step < 1 or len(ids) < step * count + 1:
        raise ConfigError(
            f"--text: {counted(len(ids), 'token')}, expected at least {step * count + 1} for "
            f"{positions} positions; name a longer text, or give fewer with --positions"
        )
    last = len(ids) - step - 1
    firsts = [number * last // max(count - 1, 1) for number in range(count)]
    sequences = np.array([[*start, *ids[i : i + step]] for i in firsts], dtype=np.int64)
    behind = np.array([ids[i + step] for i in firsts], dtype=np.int64)
    return sequences, np.hstack([sequences[:, 1:], behind[:, None]])
