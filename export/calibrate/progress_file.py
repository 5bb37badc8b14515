"""How far a calibration is, so that an interrupted one resumes behind its last whole layer."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...graphs.quantization.activation_ranges import Calibration, LayerMaxima
from ...graphs.quantization.rounded_matrices import write_whole

_NAME = "progress.npz"


class Progress(NamedTuple):
    """What is known behind some whole layers."""

    layers: tuple[LayerMaxima, ...]  # of each layer that is done
    hidden: list[Tensor]  # (T, M) float32 each: what leaves the last of them


def save(folder: Path, progress: Progress) -> None:
    """Write it in place of what was there before; a file has its name only when it is whole."""
    write_whole(
        folder / _NAME,
        maxima=np.frombuffer(Calibration(layers=progress.layers).to_bytes(), np.uint8),
        lengths=np.array([len(x) for x in progress.hidden]),
        hidden=torch.cat(progress.hidden).numpy(),
    )


def load(folder: Path) -> Progress | None:
    """What ``save`` wrote; None where there is nothing that can be read."""
    try:
        with np.load(folder / _NAME) as arrays:
            calibration = Calibration.from_bytes(arrays["maxima"].tobytes())
            hidden = np.split(arrays["hidden"], arrays["lengths"].cumsum()[:-1])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return Progress(calibration.layers, [torch.from_numpy(each) for each in hidden])
