"""What would make rope turn keys and queries as they were turned?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ...export.config import MistralConfig
from ..layer_checks.findings import SCALES, Exhibit
from ..reference.operators import in_bytes
from .rank_causes import Cause

_THETAS = (1e4, 1e5, 5e5, 1e6, 1e7)


def causes_of_rope(
    exhibit: Exhibit, config: MistralConfig, cuts: Sequence[int]
) -> Iterator[Cause]:
    """The artifact's own keys, turned in every known way.

    Args:
        exhibit: the rows (G, L, D) that were held after so many tokens.
        config: of the reference.
        cuts: sizes of the pieces in which the tokens were fed.
    """
    L, D = exhibit.found.shape[1], config.head_dim
    total = int(exhibit.inputs["tokens"])
    held = slice(total - L, total)
    keys = exhibit.inputs["key"][held].reshape(L, -1, D).swapaxes(0, 1)
    scales = exhibit.inputs.get(SCALES)

    def cause(text: str, rows: np.ndarray) -> Cause:
        return Cause(text, rows if scales is None else in_bytes(rows, scales))

    for text, angles, pairs in ropes(config, total, cuts):
        yield cause(text, rotate(keys, angles[held], pairs=pairs))
    yield cause("keys are cached before rope", keys)
    angles = np.arange(total)[held, None] * config.rope_theta ** (-np.arange(0, D, 2) / D)
    cos, sin = (f(angles).astype(np.float16).astype(np.float64) for f in (np.cos, np.sin))
    yield cause("rope's tables are rounded to 16 bits", _turn(keys, cos, sin, pairs=False))


def own_rows(exhibit: Exhibit) -> np.ndarray:
    """The rows (G, L, D) that should have been held after so many tokens."""
    total = int(exhibit.inputs["tokens"])
    return exhibit.expected[:, total - exhibit.found.shape[1] : total]


def ropes(
    config: MistralConfig, length: int, cuts: Sequence[int]
) -> Iterator[tuple[str, np.ndarray, bool]]:
    """Ways to turn: in words, the angles (T, D / 2) float64, and whether rows turn in pairs."""
    D, theta = config.head_dim, config.rope_theta
    positions = np.arange(length, dtype=np.float64)[:, None]

    def frequencies(base: float) -> np.ndarray:
        return np.asarray(base ** (-np.arange(0, D, 2) / D))

    own = frequencies(theta)
    yield "rope rotates pairs, expected halves", positions * own, True
    for other in _THETAS:
        if other != theta:
            yield (
                f"rope's theta is {other:g}, expected {theta:g}",
                positions * frequencies(other),
                False,
            )
    yield "rope counts positions from 1, expected from 0", (positions + 1) * own, False
    yield "rope is one position behind", np.maximum(positions - 1, 0) * own, False
    yield "rope rotates in the opposite direction", -positions * own, False
    for rows in sorted({64, 128, 256, 512, 1024, 2048} & set(range(length))):
        text = f"rope stops at position {rows - 1}: its tables have {rows} rows"
        yield text, np.minimum(positions, rows - 1) * own, False
    half = np.where(np.arange(len(own)) < len(own) // 2, own, 0)
    yield "rope rotates only half of the dimensions", positions * half, False
    starts = np.repeat(np.cumsum([0, *cuts[:-1]]), cuts)[:length, None]
    yield "rope restarts positions in each chunk", (positions - starts) * own, False
    last = np.repeat(np.cumsum(cuts) - 1, cuts)[:length, None]
    yield (
        "positions and rope's frequencies are rounded to 8 bits",
        _coarse(own, positions, last),
        False,
    )


def _coarse(frequencies: np.ndarray, positions: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Angles of factors that are rounded to 255 steps each, positions anew in each piece."""
    narrow = np.float32(frequencies)
    step = narrow.max() / np.float32(255)
    steps = np.float32(np.maximum(last, 1)) / np.float32(255)
    rounded = np.rint(np.float32(positions) / steps) * steps
    return np.asarray(rounded * (np.rint(narrow / step) * step), np.float64)


def rotate(x: np.ndarray, angles: np.ndarray, *, pairs: bool) -> np.ndarray:
    """Turn (heads, T, D) by angles (T, D / 2)."""
    return _turn(x, np.cos(angles), np.sin(angles), pairs=pairs)


def _turn(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, *, pairs: bool) -> np.ndarray:
    if pairs:
        first, second = x[..., ::2], x[..., 1::2]
        turned = np.stack([first * cos - second * sin, second * cos + first * sin], axis=-1)
        return np.asarray(turned.reshape(x.shape))
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
