"""Likely causes of wrong rope: the artifact's own keys, rotated in every known wrong way."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...export.config import MistralConfig
from ...export.formats.rope_layout import RopeLayout
from ...export.model.rope import Rope, Tables, rope_of
from ...export.rope_parameters import KIND
from ..layer_checks.findings import IN_HALF, SCALES, ComparedTensor
from ..reference.operators import in_bytes, in_half, rotate
from .rank_causes import Cause

_THETAS = (1e4, 1e5, 5e5, 1e6, 1e7)
_TABLE_ROWS = (64, 128, 256, 512, 1024, 2048)


@dataclass(frozen=True, slots=True)
class WrongRope:
    """A change to the model's rope, in words, and its tables."""

    text: str
    tables: Tables  # cosines and sines of all positions, (T, D / 2) float32 each
    layout: RopeLayout = "halves"


def causes_of_rope(
    compared: ComparedTensor, config: MistralConfig, cuts: Sequence[int]
) -> Iterator[Cause]:
    """Yield the rows that the cache would hold with each wrong rope.

    Args:
        compared: the rows (G, L, D) that were held after so many tokens.
        config: of the reference.
        cuts: sizes of the pieces in which the tokens were fed.
    """
    L, D = compared.found.shape[1], config.head_dim
    total = int(compared.inputs["tokens"])
    held = slice(total - L, total)
    keys = compared.inputs["key"][held].reshape(L, -1, D).swapaxes(0, 1)
    scales = compared.inputs.get(SCALES)

    def cause(text: str, rows: np.ndarray) -> Cause:
        if IN_HALF in compared.inputs:
            return Cause(text, in_half(rows))
        return Cause(text, rows if scales is None else in_bytes(rows, scales))

    if compared.finding.layer in config.unrotated_layers:
        cos, sin = rope_of(config).tables(L, start=total - L)
        yield cause("rope rotates keys, expected none in this layer", rotate(keys, (cos, sin)))
        return
    for wrong in wrong_ropes(config, total, cuts):
        cos, sin = wrong.tables
        rows = rotate(keys, (cos[held], sin[held]), layout=wrong.layout)
        yield cause(wrong.text, rows)
    yield cause("keys are cached before rope", keys)
    cos, sin = rope_of(config).tables(L, start=total - L)
    halved = cos.half().float(), sin.half().float()
    yield cause("rope's tables are rounded to 16 bits", rotate(keys, halved))


def own_rows(compared: ComparedTensor) -> np.ndarray:
    """The rows (G, L, D) that should have been held after so many tokens."""
    total = int(compared.inputs["tokens"])
    return compared.expected[:, total - compared.found.shape[1] : total]


def wrong_ropes(config: MistralConfig, length: int, cuts: Sequence[int]) -> Iterator[WrongRope]:
    """Yield the model's rope with one change each, for positions 0 to length - 1."""
    own = rope_of(config)
    positions = torch.arange(length).float()
    yield WrongRope("rope rotates pairs, expected halves", own.tables(length), "pairs")
    for theta in _THETAS:
        if theta != config.rope_theta:
            other = rope_of(dataclasses.replace(config, rope_theta=theta))
            text = f"rope's theta is {theta:g}, expected {config.rope_theta:g}"
            yield WrongRope(text, other.tables(length))
    yield from _wrongly_scaled(config, length)
    yield WrongRope("rope counts positions from 1, expected from 0", own.tables(length, start=1))
    previous = own.tables_at((positions - 1).clamp(min=0))
    yield WrongRope("rope is one position behind", previous)
    yield WrongRope("rope rotates in the opposite direction", own.tables_at(-positions))
    for rows in _TABLE_ROWS:
        if rows < length:
            text = f"rope stops at position {rows - 1}: its tables have {rows} rows"
            yield WrongRope(text, own.tables_at(positions.clamp(max=rows - 1)))
    half = own.inverse_frequencies.clone()
    half[len(half) // 2 :] = 0
    partial = dataclasses.replace(own, inverse_frequencies=half)
    yield WrongRope("rope rotates only half of the dimensions", partial.tables(length))
    ends = torch.tensor(cuts).cumsum(0)
    starts = (ends - torch.tensor(cuts)).repeat_interleave(torch.tensor(cuts))[:length]
    yield WrongRope("rope restarts positions in each chunk", own.tables_at(positions - starts))
    last = (ends - 1).repeat_interleave(torch.tensor(cuts))[:length]
    text = "positions and rope's frequencies are rounded to 8 bits"
    yield WrongRope(text, _rounded_to_8_bits(own, positions, last))


def _wrongly_scaled(config: MistralConfig, length: int) -> Iterator[WrongRope]:
    """Ropes of a model that scales rope, unscaled or by other factors."""
    scaling = config.rope_scaling
    if not scaling:
        return
    plain = rope_of(dataclasses.replace(config, rope_scaling={}))
    yield WrongRope(f"rope is not scaled, expected {scaling[KIND]}", plain.tables(length))
    if scaling[KIND] == "yarn":
        truncates = scaling.get("truncate", True)
        rounded = {**scaling, "truncate": not truncates}
        found = "not rounded" if truncates else "rounded"
        text = f"yarn's first and last blended dimension are {found} to whole ones, expected the "
        other = rope_of(dataclasses.replace(config, rope_scaling=rounded))
        yield WrongRope(f"{text}opposite (truncate)", other.tables(length))
    for times in (0.5, 2, 0.25, 4):
        factor = times * scaling["factor"]
        other = rope_of(dataclasses.replace(config, rope_scaling={**scaling, "factor": factor}))
        text = f"rope's factor is {factor:g}, expected {scaling['factor']:g}"
        yield WrongRope(text, other.tables(length))


def _rounded_to_8_bits(rope: Rope, positions: Tensor, last: Tensor) -> Tables:
    """Tables of positions and frequencies in 255 steps each, positions anew in each piece.

    Args:
        rope: the model's.
        positions: (T,) float32.
        last: (T,); the last position of each one's piece.
    """
    step = rope.inverse_frequencies.max() / 255
    frequencies = (rope.inverse_frequencies / step).round() * step
    steps = last.clamp(min=1).float() / 255
    coarse = dataclasses.replace(rope, inverse_frequencies=frequencies)
    return coarse.tables_at((positions / steps).round() * steps)
