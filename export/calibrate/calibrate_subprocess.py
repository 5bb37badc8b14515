"""Calibration in a process of its own, so that torch's memory does not stay."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...console.processes.ask_module import ask_module
from ...graphs.quantization.activation_ranges import Calibration
from ...graphs.quantization.rounded_matrices import RoundedMatrices
from ...graphs.quantization.scheme import Scheme
from ...graphs.quantization.shared_scales import SharedScales
from ..config import MistralConfig
from ..formats.checkpoint import Checkpoint

_MODULE = "tramontane.export.calibrate.calibrate"
# How torch's threads wait for each other after each step. By default they do so busily, and on a
# machine with other work to do they take each other's turns: several times as slow.
_WAIT_POLICY = "PASSIVE"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rounding:
    """How matrices are rounded while the model is observed, and where they are kept."""

    schemes: Mapping[str, Scheme]  # by parameter: of all matrices that do not stay in float
    folder: Path  # of the rounded matrices, and of how far the calibration is


def calibrate_in_subprocess(
    config: MistralConfig,
    checkpoint: Checkpoint,
    texts: tuple[str, ...],
    *,
    tokens: int,
    rounding: Rounding | None = None,
    smoothing: Mapping[str, SharedScales] | None = None,
) -> Calibration:
    """Calibrate on texts as ``calibrate`` does; its progress goes to standard error.

    Args:
        config: of the model.
        checkpoint: what the parameters are read from.
        texts: to run the model on.
        tokens: of all texts, at most.
        rounding: to round matrices too; what an earlier run has rounded in its folder is kept.
        smoothing: to choose divisors for the matrices of these parameters too.

    Raises:
        ConfigError: a text has too few tokens.
        CheckpointError: a weight is unreadable or no number, or a file is another than the
            checkpoint holds.
        GraphError: activations are not finite.
        TraceError: torch could not run the model; its own words stand on standard error.
    """
    asked = {
        "config": dataclasses.asdict(config),
        "checkpoint": str(checkpoint.path.resolve()),
        "adapters": [str(one.folder.resolve()) for one in checkpoint.adapters],
        "files": checkpoint.identities(),
        "texts": texts,
        "tokens": tokens,
        "rounding": None
        if rounding is None
        else {
            "folder": str(rounding.folder.resolve()),
            "schemes": {
                name: dataclasses.asdict(scheme) for name, scheme in rounding.schemes.items()
            },
        },
        "smoothing": dict(smoothing or {}),
    }
    answer = ask_module(
        _MODULE,
        json.dumps(asked).encode(),
        what="calibrating",
        shows_progress=True,
        env={"OMP_WAIT_POLICY": _WAIT_POLICY, **os.environ},
    )
    found = Calibration.from_bytes(answer)
    return found.with_rounded(None if rounding is None else RoundedMatrices(rounding.folder))
