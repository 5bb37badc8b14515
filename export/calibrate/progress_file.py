"""How far a calibration is, so that an interrupted one resumes behind its last whole layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...graphs.quantization.activation_ranges import Calibration, LayerMaxima
from ...graphs.quantization.rounded_matrices import write_whole
from ...runtime.errors import TramontaneError
from ...runtime.untrusted.arrays import read_arrays

NAME = "progress.npz"


class Progress(NamedTuple):
    """What is known behind some whole layers."""

    layers: tuple[LayerMaxima, ...]  # of each layer that is done
    hidden: Sequence[Tensor]  # (T, M) float32 each: what leaves the last of them
    exact: Sequence[Tensor]  # of the sequences of text, the same in the float model


def save(folder: Path, progress: Progress) -> None:
    """Write it in place of what was there before; a file has its name only when it is whole."""
    write_whole(
        folder / NAME,
        maxima=np.frombuffer(Calibration(layers=progress.layers).to_bytes(), np.uint8),
        lengths=np.array([len(x) for x in progress.hidden]),
        hidden=torch.cat(list(progress.hidden)).numpy(),
        exact_lengths=np.array([len(x) for x in progress.exact]),
        exact=torch.cat(list(progress.exact)).numpy(),
    )


def load(folder: Path) -> Progress | None:
    """What ``save`` wrote; None where there is nothing that can be read."""
    try:
        arrays = read_arrays(folder / NAME)
        calibration = Calibration.from_bytes(arrays["maxima"].tobytes())
        hidden = split(arrays["hidden"], arrays["lengths"])
        exact = split(arrays["exact"], arrays["exact_lengths"])
    except (TramontaneError, ValueError, LookupError, TypeError):  # none, damaged, or edited
        return None
    return Progress(calibration.layers, hidden, exact)


def split(rows: np.ndarray, lengths: np.ndarray) -> list[Tensor]:
    """The sequences that lie one after the other."""
    return [torch.from_numpy(each) for each in np.split(rows, lengths.cumsum()[:-1])]
