"""Operators of the reference, each on given inputs.

Each is applied to what the artifact's own operator read, so that errors do not add up from one
operator to the next.
"""

from __future__ import annotations

import numpy as np
import torch

from ...export.config import MistralConfig
from ...export.formats.rope_layout import RopeLayout
from ...export.model import rope as model_rope
from ...export.model.attention import sliding_window_attention
from ...export.model.query_scale import scales_at
from ...export.model.rope import Tables
from ..figures import row_parts

_SCORE_BYTES = 128 << 20  # of attention scores at once
_FEWEST_QUERIES = 128  # of a piece, where the window is smaller


def norm(x: np.ndarray, weight: np.ndarray, epsilon: float) -> np.ndarray:
    """Root-mean-square norm of (..., M) by a weight (M,), in float64."""
    found = np.empty(x.shape)
    for part in row_parts(x):
        wide = np.float64(x[part])
        mean_square = (wide * wide).mean(axis=-1, keepdims=True)
        found[part] = wide / np.sqrt(mean_square + epsilon) * weight
    return found


def norm_heads(x: np.ndarray, weight: np.ndarray, epsilon: float) -> np.ndarray:
    """The same norm of each head of (T, heads * D), by a weight (D,)."""
    heads = x.reshape(len(x), -1, len(weight))
    return norm(heads, weight, epsilon).reshape(x.shape)


def divisors_between(plain: np.ndarray, smoothed: np.ndarray) -> np.ndarray:
    """The power of two by which each channel of (T, M) was divided, as far as one fits: (M,).

    >>> plain = np.array([[3.0, 1.0, 0.0], [1.0, 2.0, 0.0]])
    >>> divisors_between(plain, plain / [4, 0.5, 2]).tolist()
    [4.0, 0.5, 1.0]
    """
    size, common = np.zeros(plain.shape[1]), np.zeros(plain.shape[1])
    for part in row_parts(plain):
        wide = np.float64(plain[part])
        size += (wide * wide).sum(axis=0)
        common += (wide * smoothed[part]).sum(axis=0)
    fits = (size > 0) & (common > 0)
    exponents = np.zeros(plain.shape[1])
    exponents[fits] = np.rint(np.log2(size[fits] / common[fits]))
    return np.exp2(exponents).astype(np.float32)


def multiply(x: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(T, K) by a matrix (N, K): (T, N) float32."""
    return np.asarray(x @ matrix.T)


def activate(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    """SwiGLU of two (T, F), in float64."""
    found = np.empty(gate.shape)
    for part in row_parts(gate):
        wide = np.float64(gate[part])
        found[part] = wide / (1 + np.exp(-wide)) * up[part]
    return found


def split_heads(x: np.ndarray, head_dim: int) -> np.ndarray:
    """(T, heads * D) to (heads, T, D)."""
    return x.reshape(len(x), -1, head_dim).swapaxes(0, 1)


def scale_queries(x: np.ndarray, config: MistralConfig, *, first: int = 0) -> np.ndarray:
    """Queries (T, H * D) of positions from ``first`` on, as the model scales them, if it does."""
    if config.query_scale is None:
        return x
    scales = scales_at(config.query_scale, torch.arange(first, first + len(x)).float())
    return np.asarray(x * scales.numpy()[:, None], x.dtype)


def rotate(
    x: np.ndarray,
    rope: Tables,
    *,
    layout: RopeLayout = "halves",
    back: bool = False,
    first: int = 0,
) -> np.ndarray:
    """Apply rope tables to queries or keys (heads, T, D) of the positions from ``first`` on.

    ``back`` undoes it: cosines and sines have rope's attention factor, so both ways together
    multiply by its square, which is the first cosine's.
    """
    cos, sin = (table[first : first + x.shape[1]] for table in rope)
    square = rope[0][0, 0] ** 2
    tables = (cos / square, -sin / square) if back else (cos, sin)
    return model_rope.rotate(torch.from_numpy(x), tables, layout=layout).numpy()


def in_bytes(rows: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Rows as an int8 cache gives them back: rounded half to even, and clipped."""
    return np.asarray(np.clip(np.rint(rows / scales), -128, 127) * scales, np.float32)


def in_half(rows: np.ndarray) -> np.ndarray:
    """Rows as a cache in half precision gives them back; infinite beyond 65504."""
    with np.errstate(over="ignore"):
        return rows.astype(np.float16).astype(np.float32)


def attend(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    *,
    config: MistralConfig,
    rope: Tables,
    window: int | None,
    before: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Attention of a whole sequence, in pieces whose scores fit in memory.

    With a window, a piece reads only the keys that its queries can see.

    Args:
        query: (T, H * D) float32, before rope.
        key, value: (T, G * D) float32, before rope.
        config: for the sizes.
        rope: cosines and sines of at least T positions, (P, D / 2) each.
        window: keys that a query sees; None: all before it.
        before: keys, rope applied, and values of n positions before these: (G, n, D) float32.

    Returns:
        (T, H * D) float32.
    """
    T, G, D = len(query), config.num_key_value_heads, config.head_dim
    n = 0 if before is None else before[0].shape[1]
    piece = T if window is None else min(T, max(window, _FEWEST_QUERIES))
    reach = n + T if n else min(T, (window or 0) + piece)  # rows, with none evicted before T
    rows = n if window is None else max(window, reach)
    past = torch.zeros(1, G, rows, D), torch.zeros(1, G, rows, D)
    for held, known in zip(past, before or (), strict=False):
        held[0, :, :n] = torch.from_numpy(np.array(known))
    keys = n + T if window is None else min(n + T, rows + piece)  # of the scores of one query
    at_once = max(1, min(piece, _SCORE_BYTES // (4 * config.num_attention_heads * keys)))
    q, k, v = (torch.from_numpy(np.ascontiguousarray(x))[None] for x in (query, key, value))
    out = []
    for start in range(0, T, at_once):
        part = slice(start, min(start + at_once, T))
        seen = torch.ones(1, n + part.stop, dtype=torch.int64)
        attended, *past_now = sliding_window_attention(
            q[:, part], k[:, part], v[:, part], *past, seen, *rope, window
        )
        past = past_now[0], past_now[1]
        out.append(attended[0])
    return torch.cat(out).numpy()
