"""Likely causes of wrong attention: changes to what it reads and how it computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from ...export.config import MistralConfig
from ...export.model.query_scale import scales_at
from ...export.model.rope import rope_of, unrotated
from ...runtime.cache import CacheLayout
from ..figures import relative_errors
from ..layer_checks.findings import ComparedTensor
from ..reference.operators import rotate
from .of_rope import wrong_ropes
from .rank_causes import Cause

_MOST_QUERIES = 192  # computed of a long sequence: the worst, and some of all


def causes_of_attention(
    compared: ComparedTensor, config: MistralConfig, layout: CacheLayout, cuts: Sequence[int]
) -> Iterator[Cause]:
    """Yield attention of the artifact's own queries, keys and values with one change each.

    Only some queries of a long sequence are computed, since all would not fit in memory; the
    others are taken as found.

    Args:
        compared: query (T, H * D), scaled where the model scales it, key and value (T, G * D)
            float32, before rope, and what was found and expected, (T, H * D).
        config: of the reference.
        layout: which rows the artifact's cache holds.
        cuts: sizes of the pieces in which the tokens were fed.
    """
    query, key, value = (compared.inputs[name] for name in ("query", "key", "value"))
    at = _chosen_queries(compared)
    T, D, G = len(query), config.head_dim, config.num_key_value_heads
    H, W = config.num_attention_heads, _window(compared, config)
    rope = rope_of(config)
    plain = [x.reshape(T, -1, D).swapaxes(0, 1).astype(np.float64) for x in (query, key, value)]
    has_rope = compared.finding.layer not in config.unrotated_layers
    own_tables = rope.tables(T) if has_rope else unrotated(rope.tables(T))
    q, k = (rotate(x, own_tables) for x in plain[:2])
    groups = np.arange(H) // (H // G)
    i, j = at[:, None], np.arange(T)[None]
    own = (j <= i) if W is None else (j <= i) & (j > i - W)

    def result(
        *,
        q: np.ndarray = q,
        seen: np.ndarray = own,
        of: np.ndarray = groups,
        scale: float = D**-0.5,
        cap: float = 0.0,
    ) -> np.ndarray:
        scores = np.einsum("htd,hsd->hts", q[:, at], k[of]) * scale
        scores = np.where(seen, cap * np.tanh(scores / cap) if cap else scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        made = compared.found.astype(np.float64)
        made[at] = (weights @ plain[2][of]).swapaxes(0, 1).reshape(len(at), -1)
        return made

    if W is not None:
        yield Cause(f"the window is dropped, expected {W}", result(seen=j <= i))
        held = (j <= i) & (j >= _oldest_seen(layout, T, cuts, lost=0)[at, None])
        text = f"the window is dropped, expected {W}: all cached rows are read"
        yield Cause(text, result(seen=held))
        for other in dict.fromkeys((W + 1, W - 1, W + 2, W - 2, W // 2, 2 * W, 4 * W)):
            if other > 0:
                seen = (j <= i) & (j > i - other)
                yield Cause(f"the window is {other}, expected {W}", result(seen=seen))
    for other in sorted({one for one in config.windows if one is not None} - {W}):
        text = f"the window is {other}, as in another layer, expected {W or 'none'}"
        yield Cause(text, result(seen=(j <= i) & (j > i - other)))
    for lost in (1, 2):
        seen = own & (j >= _oldest_seen(layout, T, cuts, lost=lost)[at, None])
        text = f"rows are evicted early: each eviction drops {lost} too many"
        yield Cause(text, result(seen=seen))
    yield Cause(
        "query head h reads key/value head h % G, expected h // (H / G)",
        result(of=np.arange(H) % G),
    )
    yield Cause("scores are not scaled", result(scale=1.0))
    yield Cause("scores are divided by D, expected its square root", result(scale=1 / D))
    for cap in (20.0, 30.0, 50.0):
        yield Cause(f"scores are capped at {cap:g}", result(cap=cap))
    yield Cause("later keys are not masked", result(seen=np.ones_like(own)))
    yield Cause("a query doesn't read its own key", result(seen=own & ((j < i) | (i == 0))))
    if has_rope:
        yield Cause("queries are not rotated by rope", result(q=plain[0]))
    else:
        text = "rope rotates queries, expected none in this layer"
        yield Cause(text, result(q=rotate(plain[0], rope.tables(T))))
    for text, queries in _wrong_queries(plain[0], q, config, cuts):
        yield Cause(text, result(q=queries))
    starts = np.repeat(np.cumsum([0, *cuts[:-1]]), cuts)[:T]
    yield Cause("the cache is not read", result(seen=own & (j >= starts[at, None])))


def _wrong_queries(
    plain: np.ndarray, rotated: np.ndarray, config: MistralConfig, cuts: Sequence[int]
) -> Iterator[tuple[str, np.ndarray]]:
    """Queries (H, T, D) that are rotated or scaled in a wrong way, before and after rope."""
    T = plain.shape[1]
    later = rope_of(config).tables(T, start=1)
    yield "queries are rotated by one position too many", rotate(plain, later)
    for text, times in _wrong_scales(config, T):
        yield text, rotated * times[:, None]
    for wrong in wrong_ropes(config, T, cuts):
        yield f"of queries: {wrong.text}", rotate(plain, wrong.tables, layout=wrong.layout)


def _wrong_scales(config: MistralConfig, length: int) -> Iterator[tuple[str, np.ndarray]]:
    """What queries of a model that scales them were multiplied by beside their scale: (T,)."""
    if config.query_scale is None:
        return
    beta, original = config.query_scale
    positions = torch.arange(length).float()
    own = scales_at((beta, original), positions)
    yield "queries are not scaled by their position", (1 / own).numpy()
    for other in (0.5 * beta, 2 * beta, 10 * beta, 1.0):
        text = f"queries are scaled by beta {other:g}, expected {beta:g}"
        yield text, (scales_at((other, original), positions) / own).numpy()
    for other in (original / 2, 2 * original):
        text = f"queries are scaled per {other:g} positions, expected {original:g}"
        yield text, (scales_at((beta, other), positions) / own).numpy()


def _window(compared: ComparedTensor, config: MistralConfig) -> int | None:
    """The window of the layer that the tensor is of."""
    assert compared.finding.layer is not None, "attention is in a layer"
    return config.windows[compared.finding.layer]


def _chosen_queries(compared: ComparedTensor) -> np.ndarray:
    """Positions of the queries to compute, ascending; all of a short sequence."""
    T = len(compared.found)
    if T <= _MOST_QUERIES:
        return np.arange(T)
    errors = np.nan_to_num(relative_errors(compared.expected, compared.found), nan=np.inf)
    worst = np.argsort(-errors, kind="stable")[: _MOST_QUERIES // 2]
    return np.union1d(worst, np.linspace(0, T - 1, _MOST_QUERIES // 2).astype(np.int64))


def _oldest_seen(
    layout: CacheLayout, length: int, cuts: Sequence[int], *, lost: int
) -> np.ndarray:
    """Oldest position in reach of each query, if every eviction took some rows too many: (T,)."""
    oldest = []
    total = 0
    for size in cuts:
        first = layout.first(total)
        oldest += [first + (lost if first else 0)] * size
        total += size
    return np.array(oldest[:length])
