"""The importance matrix of llama.cpp's quantizer, measured on our calibration text.

It is the mean square of each column's inputs, of all matrices inside the layers, as llama-imatrix
collects it by default. The tokens are those that our ``int4`` is rounded by, and the model is not
quantized.

Source: llama.cpp, tools/imatrix/imatrix.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...console.progress import track
from ...export.calibrate.layer_walk import Inputs, walk_layer
from ...export.calibrate.tokens import DEFAULT_TOKENS, TEXT, calibration_tokens
from ...export.formats.checkpoint import Checkpoint
from ...export.formats.tensor_names import GGUF
from ...export.model.load import load_layer
from ...validate.reference.reference import Reference


class MeanSquares:
    """A visitor of one layer: the mean square of each column's inputs, by name of matrix."""

    def __init__(self) -> None:
        self.found: dict[str, np.ndarray] = {}  # (K,) float32

    def see_inputs(self, names: Sequence[str], inputs: Inputs) -> None:
        """Add up the squares over all positions."""
        total, positions = np.zeros(1), 0
        for x in inputs():
            rows = x.numpy().astype(np.float64)
            total = total + np.square(rows).sum(axis=0)
            positions += len(rows)
        self.found |= dict.fromkeys(names, (total / positions).astype(np.float32))

    def see_cache(self, keys: Any, values: Any) -> None:
        """Keys and values are no inputs of a matrix."""


def write_importance(checkpoint: Checkpoint, reference: Reference, path: Path) -> None:
    """Run the model on the calibration text, and write an npz by the matrices' names in GGUF.

    Raises:
        CheckpointError: a tensor is unreadable or holds a NaN or infinity.
    """
    config, texts = checkpoint.config, (TEXT.read_text(encoding="utf-8"),)
    tokens = calibration_tokens(config, checkpoint, texts, most=DEFAULT_TOKENS).text
    hidden = [reference.embed(sequence) for sequence in tokens]
    found: dict[str, np.ndarray] = {}
    numbers = range(config.num_hidden_layers)
    for number in track(numbers, "measuring the importance matrix, layer by layer"):
        layer = load_layer(config, checkpoint, number, grows=True)  # a row for every position
        squares = MeanSquares()
        hidden = walk_layer(layer, config, reference.rope, hidden, squares)
        for name, columns in squares.found.items():
            found[GGUF.published(f"layers.{number}.{name}.weight")] = columns
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **found)
