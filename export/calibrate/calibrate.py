"""Measures the largest activations on tokens, one layer in memory at a time."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...console.progress import track
from ...graphs.quantization.activation_ranges import Calibration, LayerMaxima
from ...runtime.errors import TramontaneError
from ..config import MistralConfig, config_from_json
from ..formats.checkpoint import Checkpoint
from ..formats.tensor_names import EMBEDDING
from ..model.load import load_layer
from ..model.model import Layer
from ..model.rope import Tables, rope_tables
from .calibrate_subprocess import REFUSED
from .tokens import calibration_tokens


@torch.no_grad()
def calibrate(
    config: MistralConfig, checkpoint: Checkpoint, sequences: Sequence[np.ndarray]
) -> Calibration:
    """Run sequences in float32 through all layers, in one walk, and keep channels' maxima.

    Args:
        config: the checkpoint's own, or that with another window.
        checkpoint: what the parameters are read from.
        sequences: (T,) int64 each, T no more than the positions that the model has.

    Raises:
        CheckpointError: a tensor is unreadable or holds a NaN or infinity.
    """
    rope = rope_tables(config)
    embedding = checkpoint.read(EMBEDDING)
    hidden = [torch.from_numpy(embedding[tokens]) for tokens in sequences]
    del embedding
    layers = []
    for number in track(range(config.num_hidden_layers), "calibrating, layer by layer"):
        layer = load_layer(config, checkpoint, number, grows=True)  # a row for every position
        watch = _Watch(layer, config)
        for i, x in enumerate(hidden):
            hidden[i] = watch.run(x, rope)
        layers.append(watch.done())
        del layer, watch  # before the next is loaded
    return Calibration(layers=tuple(layers))


class _Watch:
    """One layer, and the largest magnitudes that went through it."""

    def __init__(self, layer: Layer, config: MistralConfig) -> None:
        self._layer = layer
        shape = (1, config.num_key_value_heads, 0, config.head_dim)
        self._past = torch.zeros(shape), torch.zeros(shape)
        self._found: dict[str, np.ndarray] = {}
        readers = {
            "attention_input": layer.attention.query,
            "mlp_input": layer.mlp.gate,
        }
        self._hooks = [
            reader.register_forward_pre_hook(self._on(kind)) for kind, reader in readers.items()
        ]

    def run(self, x: Tensor, rope: Tables) -> Tensor:
        """Run a whole sequence, (T, M) to (T, M)."""
        mask = torch.ones(1, len(x), dtype=torch.int64)
        out, (keys, values) = self._layer(x[None], mask, self._past, rope)
        for kind, rows in (("keys", keys), ("values", values)):
            self._note(kind, rows[0].transpose(0, 1))
        return torch.as_tensor(out[0])

    def done(self) -> LayerMaxima:
        """What was found; the hooks are removed, so the layer can be freed."""
        for hook in self._hooks:
            hook.remove()
        return LayerMaxima(**self._found)

    def _on(self, kind: str) -> Any:
        def note(_: nn.Module, inputs: tuple[Tensor]) -> None:
            self._note(kind, inputs[0][0])

        return note

    def _note(self, kind: str, rows: Tensor) -> None:
        found = _maxima(rows)
        self._found[kind] = np.maximum(found, self._found.get(kind, 0))


def _maxima(rows: Tensor) -> np.ndarray:
    """The largest magnitudes over (T, ...) float32."""
    return np.asarray(rows.abs().amax(dim=0).numpy())


def main() -> int:
    """Read what to calibrate as JSON from standard input, write the npz to standard output."""
    asked = json.load(sys.stdin)
    config = config_from_json(asked["config"])
    # What torch may print is not part of the numbers.
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        try:
            with Checkpoint.open(
                Path(asked["checkpoint"]), [Path(one) for one in asked["adapters"]]
            ) as checkpoint:
                tokens = calibration_tokens(config, checkpoint, asked["text"])
                checkpoint.refuse_others(asked["files"])
                out.write(calibrate(config, checkpoint, tokens).to_bytes())
        except TramontaneError as error:
            out.write(json.dumps([type(error).__name__, str(error)]).encode())
            return REFUSED
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
