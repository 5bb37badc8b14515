"""Orders of the rows of query and key matrices, and the permutation from one to the other.

Rope rotates two rows of each head together: rows i and i + D / 2 in ``halves`` (Hugging Face, and
our model), rows 2 i and 2 i + 1 in ``pairs`` (Mistral's own files and GGUF).

Source: RoFormer, arXiv:2104.09864, section 3.4.2 (pairs); transformers' ``rotate_half`` (halves)
and ``convert_mistral_weights_to_hf.py`` (the permutation).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from .weight_files.stored_tensor import Floats

RopeLayout = Literal["halves", "pairs"]


def pairs_to_halves(rows: Floats, *, head_dim: int, out: Floats | None = None) -> Floats:
    """Move row 2 i + j of each head to row j D / 2 + i, where j is 0 or 1.

    Args:
        rows: (heads * D, K); whole heads.
        head_dim: D.
        out: as rows, contiguous; where the result goes instead of a new array.

    >>> pairs_to_halves(np.float32([[0], [1], [2], [3]]), head_dim=4)[:, 0].tolist()
    [0.0, 2.0, 1.0, 3.0]
    """
    columns = rows.shape[1]
    if out is None:
        out = np.empty(rows.shape, rows.dtype)
    pairs = rows.reshape(-1, head_dim // 2, 2, columns)
    out.reshape(-1, 2, head_dim // 2, columns)[...] = pairs.swapaxes(1, 2)
    return out


def halves_to_pairs(rows: Floats, *, head_dim: int) -> Floats:
    """Undo ``pairs_to_halves``: a new array (heads * D, K)."""
    columns = rows.shape[1]
    out = np.empty(rows.shape, rows.dtype)
    halves = rows.reshape(-1, 2, head_dim // 2, columns)
    out.reshape(-1, head_dim // 2, 2, columns)[...] = halves.swapaxes(1, 2)
    return out
