"""How much queries grow with their position, where a model scales them (Ministral 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import MistralConfig


def query_scale(config: MistralConfig, attention_mask: Tensor, num_new: int) -> Tensor | None:
    """Factors of the new tokens' queries; None where the model has none.

    Scaling commutes with rope, so queries are scaled before it and rotated behind it.

    Args:
        config: of the model.
        attention_mask: (B, S) int64, as attention reads it.
        num_new: T.

    Returns:
        (B, T, 1) float32.
    """
    if config.query_scale is None:
        return None
    new = attention_mask[:, attention_mask.shape[1] - num_new :]
    padded = new.argmax(dim=1, keepdim=True)  # columns before the first new token
    total = attention_mask.sum(dim=1, keepdim=True)
    past = (total - num_new + padded).clamp(min=0)
    positions = past + torch.arange(num_new, device=attention_mask.device)
    return scales_at(config.query_scale, positions.float())[:, :, None]


def scales_at(query_scale: tuple[float, float], positions: Tensor) -> Tensor:
    """``1 + beta * ln(1 + floor(position / original))``: float32, as positions.

    Args:
        query_scale: beta and the original length.
        positions: float32.

    Source: transformers 5.23, ``get_llama_4_attn_scale`` of modeling_ministral3.py.
    """
    beta, original = query_scale
    return 1 + beta * torch.log(1 + torch.floor(positions / original))
