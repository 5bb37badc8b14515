"""The sliding-window attention operator, as an eager reference in PyTorch.

A plain function, which ``torch.export`` sees as one opaque operator. Elsewhere it is called as it
is: calling an operator of one's own imports PyTorch's compiler, which takes seconds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...runtime.cache import CacheLayout
from ...runtime.errors import TraceError
from .rope import rotate


def sliding_window_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    past_key: Tensor,
    past_value: Tensor,
    attention_mask: Tensor,
    cos_cache: Tensor,
    sin_cache: Tensor,
    window: int | None = None,
    grows: bool = False,
    rotates: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend from new tokens to the last ``window`` keys, and return the updated cache.

    A query at position i reads keys j with ``i - window < j <= i``: ``window`` keys, its own
    included. Query head h reads key/value head ``h // (H / G)``. Rope is applied inside, in
    ``halves``, where the layer has it. Sequences of one batch may differ in length: each has its
    new tokens first and padding after them. The mask has that padding on the right, in the first
    call only, or on the left of the new columns, in any call: only the number of tokens is read
    from it, not where they are (``graphs/passes/allow_left_padding.py`` moves them). Outputs of
    padded queries are unspecified.

    Args:
        query: (B, T, H * D) float32; the T newest positions, before rope.
        key: (B, T, G * D) as query. G divides H.
        value: (B, T, G * D) as query.
        past_key: (B, G, C, D) as query; rows as ``CacheLayout`` says, rope applied.
        past_value: (B, G, C, D) as query.
        attention_mask: (B, S) int64; 1 for each token so far, with the new ones in the last T
            columns.
        cos_cache: (P, D / 2) as query; the rope table of cosines.
        sin_cache: (P, D / 2) as query; the rope table of sines.
        window: keys visible to one query, at least 1; None for all before it.
        grows: keep the rows of keys that the window hides; without a window all are kept.
        rotates: apply rope; the tables are not read without it.

    Returns:
        attention (B, T, H * D), present key and present value: (B, G, C, D) where C is bounded,
        (B, G, max(C, S), D) where it grows; unused rows are zero. Scores and softmax
        are float32.

    Raises:
        TraceError: shapes do not match, or a position is beyond the rope tables.

    Source: Mistral 7B, arXiv:2310.06825, section 2; rope: RoFormer, arXiv:2104.09864, 3.4.2.
    """
    B, T, _ = query.shape
    _, G, C, D = past_key.shape
    S = attention_mask.shape[1]
    is_bounded = window is not None and not grows
    _refuse_misfits(query=query, key=key, past_key=past_key, tokens=S)
    if window is not None and not 1 <= window <= (C if is_bounded else window):
        raise TraceError(f"window is {window}; expected 1 to C = {C}, the rows of the cache")
    if len(cos_cache) < S:
        raise TraceError(f"position {S - 1} is beyond the rope tables of {len(cos_cache)} rows")
    layout = CacheLayout(window=window, rows=C if is_bounded else None)
    attended = torch.empty_like(query)
    rows = C if is_bounded else max(C, S)
    present_key, present_value = (query.new_zeros(B, G, rows, D) for _ in "kv")
    for b in range(B):
        total = int(attention_mask[b].sum())
        padded = int(attention_mask[b, S - T :].argmax())  # columns before the first new token
        past = max(total - T + padded, 0)
        held = layout.held(past)
        positions = torch.arange(past, past + T, device=query.device)
        q, k = _split_heads(query[b], D), _split_heads(key[b], D)
        if rotates:
            q, k = (rotate(x, (cos_cache[positions], sin_cache[positions])) for x in (q, k))
        k = torch.cat([past_key[b, :, :held], k], 1)
        v = torch.cat([past_value[b, :, :held], _split_heads(value[b], D)], 1)
        attended[b] = _attend(q, k, v, window).transpose(0, 1).flatten(1)
        kept = slice(layout.first(total) - layout.first(past), held + total - past)
        present_key[b, :, : layout.held(total)] = k[:, kept]
        present_value[b, :, : layout.held(total)] = v[:, kept]
    return attended, present_key, present_value


traced_attention = torch.library.custom_op(
    "tramontane::sliding_window_attention", sliding_window_attention, mutates_args=()
)


@traced_attention.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    past_key: Tensor,
    past_value: Tensor,
    attention_mask: Tensor,
    cos_cache: Tensor,
    sin_cache: Tensor,
    window: int | None = None,
    grows: bool = False,
    rotates: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output shapes for tracing; a growing past has one row for each past token."""
    B, G, C, D = past_key.shape
    rows = attention_mask.shape[1] if window is None or grows else C
    present = past_key.new_empty(B, G, rows, D)
    return torch.empty_like(query), present, torch.empty_like(present)


def _split_heads(x: Tensor, head_dim: int) -> Tensor:
    """(T, heads * D) to (heads, T, D)."""
    return x.view(len(x), -1, head_dim).transpose(0, 1)


def _attend(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
    """(H, T, D) queries over (G, S, D) keys and values; the last T keys are the queries' own."""
    group = q.shape[0] // k.shape[0]
    k, v = k.repeat_interleave(group, dim=0), v.repeat_interleave(group, dim=0)
    T, S = q.shape[1], k.shape[1]
    i = torch.arange(S - T, S, device=q.device)[:, None]
    j = torch.arange(S, device=q.device)[None, :]
    is_visible = j <= i if window is None else (j <= i) & (j > i - window)
    scores = (q @ k.transpose(1, 2)).float() * q.shape[-1] ** -0.5
    weights = scores.masked_fill(~is_visible, float("-inf")).softmax(dim=-1)
    return torch.matmul(weights.to(q.dtype), v)


def _refuse_misfits(*, query: Tensor, key: Tensor, past_key: Tensor, tokens: int) -> None:
    _, G, _, D = past_key.shape
    H, remainder = divmod(query.shape[-1], D)
    if remainder or H % G:
        raise TraceError(f"G = {G} key/value heads of {D} do not divide {query.shape[-1]}")
    if key.shape[-1] != G * D:
        raise TraceError(f"key has {key.shape[-1]} columns; expected G * D = {G * D}")
    if tokens < query.shape[1]:
        raise TraceError(f"attention_mask covers {tokens} tokens, {query.shape[1]} are new")
