"""Random weights with the scales of a trained model.

Normal ones, scaled so that activations and logits stay where a trained model's are, with the few
outlier channels and columns that make trained models hard to quantize.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config import MistralConfig
from ..formats.tensor_names import EMBEDDING, HEAD, is_bias, is_head_norm, parameters

Floats = np.ndarray[Any, np.dtype[np.float32]]

_SLICE_ELEMENTS = 1 << 20  # 4 MiB of float32: several fit beside each other in any machine
# About what all layers add together, so that rounding a layer moves a part of the sum alone. With
# less, noise grows from layer to layer, which it does not in a trained model.
_EMBEDDING_STD = 1.0
_NORM_STD = 0.1  # around 1
_BIAS_STD = 0.3  # a part of what a projection gives
# One hidden channel in 1024 is written this much larger, by embedding and layers alike, and then
# read this much larger by each norm. Source of the kind, not of the numbers: LLM.int8(),
# arXiv:2208.07339, section 4.
_CHANNELS_PER_OUTLIER = 1024
_WRITTEN, _READ = 6.0, 2.0
# The head scores one successor of each token this many times as high as chance scores the best of
# all others: without favourites most tops are near ties, which any rounding decides.
_FAVOURITE = 1.2
# One column in 2048 of what a layer projects is this much larger; small models have none.
_COLUMNS_PER_OUTLIER = 2048
_COLUMN = 8.0
# Standard deviation of what a projection gives for an input of root mean square 1. Those of query
# and key multiply to that of the scores: with less, attention would be an even mean of its window.
_OUTPUT_STD = {
    "attention.query.weight": 1.2,
    "attention.key.weight": 1.2,
    "attention.value.weight": 1.0,
    "mlp.gate.weight": 1.0,
    "mlp.up.weight": 1.0,
    HEAD: 2.5,
}
_WRITES_TO_RESIDUAL = ("attention.output.weight", "mlp.down.weight")


@dataclass(frozen=True, kw_only=True)
class RandomTensor:
    """One parameter, computed slice by slice.

    It is ``(mean + normal * column_scale) * row_scale``, and in the head ``favourite`` times
    the embedding's normal numbers of the row before.
    """

    parameter: str
    shape: tuple[int, ...]
    seed: int
    rows_per_slice: int
    mean: float
    column_scale: Floats  # (K,), or (1,) for a vector, as norms are
    row_scale: Floats  # (R, 1), or (R,) for a vector
    favourite: float = 0.0

    @property
    def num_slices(self) -> int:
        """How many slices there are; all but the last are equally large."""
        return -(-self.shape[0] // self.rows_per_slice)

    def compute(self, index: int) -> Floats:
        """One slice: (at most ``rows_per_slice``, K) float32.

        Its numbers depend on seed, parameter and index alone, so slices may be computed in any
        order and by any thread. numpy may change its normal generator between versions.
        """
        first = index * self.rows_per_slice
        row_scale = self.row_scale[first : first + self.rows_per_slice]
        shape = (len(row_scale), *self.shape[1:])
        values = _normal(shape, self.seed, self.parameter, str(index))
        values *= self.column_scale
        if self.mean:
            values += np.float32(self.mean)
        values *= row_scale
        if self.favourite:
            embedding = _normal(shape, self.seed, EMBEDDING, str(index))
            values += np.roll(embedding, 1, axis=0) * np.float32(self.favourite)
        return values


def random_tensor(parameter: str, *, config: MistralConfig, seed: int) -> RandomTensor:
    """Describe the numbers of one parameter of ``Mistral``.

    Args:
        parameter: its name, such as ``layers.0.mlp.gate.weight``.
        config: the whole geometry, also where only its first layers are wanted: what a layer adds
            is scaled by how many there are.
        seed: another one gives other numbers, and outliers elsewhere.

    Source: the scaling of what layers add by ``1 / sqrt(2 * num_layers)``: Language Models are
        Unsupervised Multitask Learners (GPT-2), section 2.3.
    """
    shape, M = parameters(config)[parameter], config.hidden_size
    hidden = _outliers("hidden channels", M, max(1, M // _CHANNELS_PER_OUTLIER), seed)
    kind = parameter.split(".", 2)[2] if parameter.startswith("layers.") else parameter
    mean, row_scale = 0.0, np.ones((shape[0], *(1 for _ in shape[1:])), np.float32)
    if is_bias(parameter):
        column_scale = np.full(1, _BIAS_STD, np.float32)
    elif len(shape) == 1:
        mean, column_scale = 1.0, np.full(1, _NORM_STD, np.float32)
        if not is_head_norm(parameter):
            row_scale[hidden] = _READ
    elif kind == EMBEDDING:
        column_scale = np.full(M, _EMBEDDING_STD, np.float32)
        column_scale[hidden] *= _WRITTEN
    elif kind in _WRITES_TO_RESIDUAL:
        target = 1 / math.sqrt(2 * config.num_hidden_layers)
        column_scale = _projection(parameter, np.ones(shape[1], np.float32), seed, target)
        row_scale[hidden] = _WRITTEN
    else:
        column_scale = _projection(parameter, _normed(M, hidden), seed, _OUTPUT_STD[kind])
    # Whole heads, so that the rows of a slice can be put in another order head by head.
    heads = max(1, _SLICE_ELEMENTS // (config.head_dim * math.prod(shape[1:])))
    return RandomTensor(
        parameter=parameter,
        shape=shape,
        seed=seed,
        rows_per_slice=heads * config.head_dim if len(shape) > 1 else shape[0],
        mean=mean,
        column_scale=column_scale,
        row_scale=row_scale,
        favourite=_favourite(config) if parameter == HEAD else 0.0,
    )


def _favourite(config: MistralConfig) -> float:
    """Source: the largest of V normal numbers is about ``sqrt(2 * log(V))`` deviations."""
    best_by_chance = _OUTPUT_STD[HEAD] * math.sqrt(2 * math.log(config.vocab_size))
    return _FAVOURITE * best_by_chance / config.hidden_size


def _normed(M: int, outliers: Any) -> Floats:
    """(M,) root mean square of what a norm hands on, channel by channel."""
    written = np.ones(M, np.float32)
    written[outliers] = _WRITTEN
    normed: Floats = written / np.float32(np.sqrt(np.mean(written**2)))
    normed[outliers] *= _READ
    return normed


def _projection(parameter: str, input_rms: Floats, seed: int, output_std: float) -> Floats:
    """(K,) standard deviation of each column, such that outputs have ``output_std``."""
    scale = np.ones_like(input_rms)
    if parameter != HEAD:
        large = _outliers(parameter, len(scale), len(scale) // _COLUMNS_PER_OUTLIER, seed)
        # Where the input is an outlier already, the weight is not: one column would be the output.
        scale[large] = np.where(input_rms[large] > 1, 1, _COLUMN)
    return scale * np.float32(output_std / np.linalg.norm(scale * input_rms))


def _outliers(what: str, size: int, count: int, seed: int) -> Any:
    """``count`` of ``size`` indices, ascending."""
    generator = _generator(seed, "outliers", what)
    return np.sort(generator.choice(size, size=count, replace=False))


def _normal(shape: tuple[int, ...], seed: int, *words: str) -> Floats:
    return _generator(seed, *words).standard_normal(shape, dtype=np.float32)


def _generator(seed: int, *words: str) -> np.random.Generator:
    digest = hashlib.sha256("/".join((str(seed), *words)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
