"""Runs the model on tokens, a layer in memory at a time: maxima, divisors, rounded matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...console.processes.ask_module import answer_asked
from ...console.progress import track
from ...graphs.quantization.activation_ranges import Calibration
from ...graphs.quantization.codes import dequantize
from ...graphs.quantization.methods.all_methods import find_method
from ...graphs.quantization.rounded_matrices import RoundedMatrices
from ...graphs.quantization.scheme import Scheme
from ...graphs.quantization.shared_scales import SharedScales
from ...runtime.errors import ContractError
from ..config import MistralConfig, config_from_json
from ..formats.checkpoint import Checkpoint
from ..formats.tensor_names import EMBEDDING, HEAD, LAST_NORM
from ..model.load import load_last_norm, load_layer
from ..model.rope import rope_tables
from . import progress_file
from .calibrate_subprocess import Rounding
from .layer_walk import LayerWalk, Visitors, walk_layer
from .maxima import Maxima
from .progress_file import Progress
from .round_layer import RoundLayer, with_same_weights
from .smoothing import ChooseDivisors, Reader, choose_divisors
from .tokens import CalibrationTokens, calibration_tokens


@torch.no_grad()
def calibrate(
    config: MistralConfig,
    checkpoint: Checkpoint,
    tokens: CalibrationTokens,
    rounding: Rounding | None = None,
    smoothing: Mapping[str, SharedScales] | None = None,
) -> Calibration:
    """Run sequences in float32 through all layers, in one walk, and keep channels' maxima.

    Args:
        config: the checkpoint's own, or that with another window.
        checkpoint: what the parameters are read from.
        tokens: sequences no longer than the positions that the model has.
        rounding: to round each layer's matrices too, so that the next layer sees its error.
        smoothing: to choose divisors for the matrices of these parameters; not beside rounding.

    Raises:
        CheckpointError: a tensor is unreadable or holds a NaN or infinity.
        GraphError: activations are not finite.
    """
    rope = rope_tables(config)
    progress = None if rounding is None else progress_file.load(rounding.folder)
    if progress is None:
        progress = _begun(checkpoint, tokens, rounding)
    layers, hidden, exact = progress
    del progress  # which would keep what entered the first layer
    numbers = range(len(layers), config.num_hidden_layers)
    divisors: dict[str, np.ndarray] = {}
    for number in track(numbers, "calibrating, layer by layer"):
        layer = load_layer(config, checkpoint, number, grows=True)  # a row for every position
        maxima = Maxima()
        if rounding is None:
            choose = ChooseDivisors(layer, number, smoothing or {})
            hidden = walk_layer(layer, config, rope, hidden, Visitors([maxima, choose]))
            layers = (*layers, maxima.done())
            divisors |= choose.found
            del choose
        else:
            beside = LayerWalk(with_same_weights(layer), config, rope, exact)
            keep = RoundedMatrices(rounding.folder).write
            rounder = RoundLayer(layer, number, rounding.schemes, beside, keep)
            hidden = walk_layer(layer, config, rope, hidden, Visitors([maxima, rounder]))
            layers, exact = (*layers, maxima.done()), rounder.leaving_exact()
            progress_file.save(rounding.folder, Progress(layers, hidden, exact))
            del beside, rounder  # before the next is loaded
        del layer
    if smoothing and HEAD in smoothing:
        divisors |= _of_head(config, checkpoint, hidden, smoothing[HEAD])
    return Calibration(layers=layers, divisors=divisors)


def _of_head(
    config: MistralConfig,
    checkpoint: Checkpoint,
    hidden: Sequence[Tensor],
    scales: SharedScales,
) -> dict[str, np.ndarray]:
    """Divisors of the last norm."""
    norm = load_last_norm(config, checkpoint)
    head = Reader(weight=checkpoint.read(HEAD), scales=scales)
    found = choose_divisors(lambda: (norm(x) for x in hidden), [head])
    return {LAST_NORM: found} if (found != 1).any() else {}


def _begun(
    checkpoint: Checkpoint, tokens: CalibrationTokens, rounding: Rounding | None
) -> Progress:
    """What enters the first layer: the tokens' rows of the embedding, rounded as the graph's."""
    embedding = checkpoint.read(EMBEDDING)
    rows = [embedding[sequence] for sequence in tokens.all()]
    exact: list[Tensor] = []
    if rounding is not None:
        exact = [torch.from_numpy(each) for each in rows[: len(tokens.text)]]
    scheme = None if rounding is None else rounding.schemes.get(EMBEDDING)
    if scheme is not None:
        rounder, columns = find_method(scheme.method).rounder(None), embedding.shape[1]
        rows = [
            dequantize(rounder(each, scheme, EMBEDDING), scheme, columns=columns) for each in rows
        ]
    return Progress((), [torch.from_numpy(each) for each in rows], exact)


def main() -> int:
    """Read what to calibrate as JSON from standard input, write the npz to standard output."""
    return answer_asked(_answer)


def _answer(asked: Any) -> bytes:
    config = config_from_json(asked["config"])
    rounding = None
    if asked["rounding"] is not None:
        schemes = {name: Scheme(**scheme) for name, scheme in asked["rounding"]["schemes"].items()}
        rounding = Rounding(schemes=schemes, folder=Path(asked["rounding"]["folder"]))
    smoothing = {name: SharedScales(*scales) for name, scales in asked["smoothing"].items()}
    try:
        with Checkpoint.open(
            Path(asked["checkpoint"]), [Path(one) for one in asked["adapters"]]
        ) as checkpoint:
            tokens = calibration_tokens(
                config, checkpoint, tuple(asked["texts"]), most=asked["tokens"]
            )
            checkpoint.refuse_others(asked["files"])
            return calibrate(config, checkpoint, tokens, rounding, smoothing).to_bytes()
    except OSError as error:  # a full disk, most likely: what is whole is kept
        raise ContractError(
            f"calibration: cannot be written ({error}); free some disk space and try again"
        ) from error


if __name__ == "__main__":
    raise SystemExit(main())
