"""Are all positions of one text scored alike, and is a text that was seen refused?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tramontane.bench.quality.passages import (
    Passages,
    cut,
    held_out_text,
    read_passages,
    sequence_length,
)
from tramontane.export.calibrate.tokens import TEXT
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.runtime.errors import ConfigError
from tramontane.validate.figures import compare
from tramontane.validate.sequences.tokens import SAMPLE


def test_sequences_begin_with_the_start_and_are_followed_by_the_next_token_of_the_text() -> None:
    sequences, following = cut(list(range(100, 200)), [1], length=4, positions=8)
    assert sequences.tolist() == [[1, 100, 101, 102], [1, 196, 197, 198]]
    assert following.tolist() == [[100, 101, 102, 103], [196, 197, 198, 199]]


@pytest.mark.parametrize("start", [[], [1]])
def test_a_text_that_just_suffices_is_used_whole_without_overlap(start: list[int]) -> None:
    step = 8 - len(start)
    ids = list(range(10, 10 + 3 * step + 1))
    sequences, _ = cut(ids, start, length=8, positions=24)
    assert sequences[:, len(start) :].reshape(-1).tolist() == ids[:-1]
    with pytest.raises(ConfigError, match=f"{3 * step} tokens, expected at least {3 * step + 1}"):
        cut(ids[:-1], start, length=8, positions=24)


def test_perplexity_counts_the_token_behind_each_sequence() -> None:
    following = np.array([[1, 2], [0, 2]])
    passages = Passages(sequences=np.zeros((2, 2), np.int64), following=following, source="")
    logits = 50.0 * np.eye(3)[following.reshape(-1)]  # certain of what follows, and right
    found = compare(logits, logits, passages.targets)
    assert found.reference_perplexity == pytest.approx(1)


def test_no_sequence_is_longer_than_the_window(tiny_checkpoint: Callable[..., Path]) -> None:
    for window, length in ((8, 8), (None, 256)):
        with Checkpoint.open(tiny_checkpoint(sliding_window=window)) as checkpoint:
            assert sequence_length(checkpoint.config) == length


def test_the_default_text_is_not_what_calibrates_or_selects(stdlib_5m: Path) -> None:
    def passages(text: str) -> set[tuple[str, ...]]:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return set(zip(lines, lines[1:], lines[2:], lines[3:], strict=False))  # fewer are idioms

    held_out = passages(held_out_text(stdlib_5m))
    for other in (TEXT, SAMPLE):
        assert not passages(other.read_text("utf-8")) & held_out


def test_the_bundled_model_has_a_text_long_enough(stdlib_5m: Path) -> None:
    with Checkpoint.open(stdlib_5m) as checkpoint:
        found = read_passages(stdlib_5m, checkpoint, text=None, positions=8192)
    assert found.positions == 8192
    assert found.sequences.shape == (128, 64)


def test_another_model_needs_a_text(tiny_checkpoint: Callable[..., Path]) -> None:
    model = tiny_checkpoint()
    with (
        Checkpoint.open(model) as checkpoint,
        pytest.raises(ConfigError, match="no text to score it on, expected --text FILE"),
    ):
        read_passages(model, checkpoint, text=None, positions=64)


@pytest.mark.parametrize(("text", "what"), [(TEXT, "calibrates"), (SAMPLE, "selects")])
def test_a_text_that_was_seen_is_refused(stdlib_5m: Path, text: Path, what: str) -> None:
    with (
        Checkpoint.open(stdlib_5m) as checkpoint,
        pytest.raises(ConfigError, match=f"the bundled text that {what} recipes"),
    ):
        read_passages(stdlib_5m, checkpoint, text=text, positions=64)


def test_no_positions_are_refused(stdlib_5m: Path) -> None:
    with (
        Checkpoint.open(stdlib_5m) as checkpoint,
        pytest.raises(ConfigError, match="--positions 0: expected 1 or more"),
    ):
        read_passages(stdlib_5m, checkpoint, text=None, positions=0)
