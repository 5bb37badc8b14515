"""The Mistral decoder in PyTorch; the KV cache is an input and an output."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..cache_choice import WINDOWED, CacheChoice, geometry_of
from ..config import MistralConfig
from .attention import sliding_window_attention, traced_attention
from .query_scale import query_scale
from .rope import Tables, rope_tables

# One layer's keys and values, each (B, G, C, D) float32.
KeyValue = tuple[Tensor, Tensor]


class Mistral(nn.Module):
    """Decoders of Mistral's kind; Llama is Mistral with ``sliding_window = None``.

    The reference that parity is measured against. Source: Mistral 7B, arXiv:2310.06825; biases,
    norms of heads, layers without rope and scaled queries: transformers 5.23, modeling_qwen2.py,
    modeling_qwen3.py, modeling_smollm3.py and modeling_ministral3.py.
    """

    def __init__(self, config: MistralConfig, cache: CacheChoice = WINDOWED) -> None:
        super().__init__()
        self.config, self.cache = config, cache
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            Layer(config, number, grows=cache.grows) for number in range(config.num_hidden_layers)
        )
        self.norm = RmsNorm(config)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.head.weight = self.embedding.weight
        cos, sin = rope_tables(config)
        self.register_buffer("cos_cache", cos, persistent=False)
        self.register_buffer("sin_cache", sin, persistent=False)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, past: Sequence[KeyValue]
    ) -> tuple[Tensor, list[KeyValue]]:
        """Compute the logits after each new token.

        Args:
            input_ids: (B, T) int64; the new tokens.
            attention_mask: (B, S) int64; 1 for each token so far, new ones included.
            past: one (key, value) per layer, as ``empty_cache`` makes them.

        Returns:
            logits (B, T, V) float32 and the updated cache.
        """
        x = self.embedding(input_ids)
        scale = query_scale(self.config, attention_mask, input_ids.shape[1])
        rope, present = (self.cos_cache, self.sin_cache), []
        for layer, key_value in zip(self.layers, past, strict=True):
            x, carried = layer(x, attention_mask, key_value, rope, scale)
            present.append(carried)
        return self.head(self.norm(x)), present

    def empty_cache(self, batch_size: int = 1) -> list[KeyValue]:
        """A cache that holds no tokens: C rows where they are bounded, none where they grow."""
        empty = []
        for rows in geometry_of(self.config, self.cache).rows:
            shape = (batch_size, self.config.num_key_value_heads, rows or 0, self.config.head_dim)
            empty.append((torch.zeros(shape), torch.zeros(shape)))
        return empty


class Layer(nn.Module):
    """Attention and MLP, each with an RMS norm before it and a residual addition after it."""

    def __init__(self, config: MistralConfig, number: int, *, grows: bool = False) -> None:
        super().__init__()
        self.attention_norm = RmsNorm(config)
        self.attention = Attention(config, number, grows=grows)
        self.mlp_norm = RmsNorm(config)
        self.mlp = Mlp(config)

    def forward(
        self,
        x: Tensor,
        attention_mask: Tensor,
        past: KeyValue,
        rope: Tables,
        scale: Tensor | None,
    ) -> tuple[Tensor, KeyValue]:
        """(B, T, M) to (B, T, M), and the layer's updated cache.

        ``scale`` is what ``query_scale`` returns.
        """
        normed = self.attention_norm(x)
        attended, present = self.attention(normed, attention_mask, past, rope, scale)
        x = x + attended
        return x + self.mlp(self.mlp_norm(x)), present


class Attention(nn.Module):
    """Grouped-query attention over a sliding window."""

    def __init__(self, config: MistralConfig, number: int, *, grows: bool) -> None:
        super().__init__()
        self.window, self.grows = config.windows[number], grows
        self.rotates = number not in config.unrotated_layers
        M, D, has_bias = config.hidden_size, config.head_dim, config.has_qkv_bias
        H, G = config.num_attention_heads, config.num_key_value_heads
        self.query = nn.Linear(M, H * D, bias=has_bias)
        self.key = nn.Linear(M, G * D, bias=has_bias)
        self.value = nn.Linear(M, G * D, bias=has_bias)
        if config.has_head_norms:
            self.query_norm, self.key_norm = (RmsNorm(config, size=D) for _ in range(2))
        self.has_head_norms = config.has_head_norms
        self.output = nn.Linear(H * D, M, bias=False)

    def forward(
        self,
        x: Tensor,
        attention_mask: Tensor,
        past: KeyValue,
        rope: Tables,
        scale: Tensor | None,
    ) -> tuple[Tensor, KeyValue]:
        """(B, T, M) to (B, T, M), and the layer's updated cache."""
        attended, *present = self.attend(*self.project(x), past, attention_mask, rope, scale)
        return self.output(attended), (present[0], present[1])

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, M) to queries (B, T, H * D), keys and values (B, T, G * D), before rope."""
        query, key = self.query(x), self.key(x)
        if self.has_head_norms:
            query, key = self.query_norm.of_heads(query), self.key_norm.of_heads(key)
        return query, key, self.value(x)

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        past: KeyValue,
        attention_mask: Tensor,
        rope: Tables,
        scale: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attention (B, T, H * D) of what ``project`` returns, and the updated cache."""
        query = query if scale is None else query * scale
        compute = traced_attention if torch.compiler.is_exporting() else sliding_window_attention
        attended, key, value = compute(
            query, key, value, *past, attention_mask, *rope, self.window, self.grows, self.rotates
        )
        return attended, key, value


class Mlp(nn.Module):
    """SwiGLU. Source: GLU Variants Improve Transformer, arXiv:2002.05202."""

    def __init__(self, config: MistralConfig) -> None:
        super().__init__()
        M, hidden = config.hidden_size, config.intermediate_size
        self.gate = nn.Linear(M, hidden, bias=False)
        self.up = nn.Linear(M, hidden, bias=False)
        self.down = nn.Linear(hidden, M, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, M) to (B, T, M)."""
        projected: Tensor = self.down(functional.silu(self.gate(x)) * self.up(x))
        return projected


class RmsNorm(nn.Module):
    """Scale by the root mean square, in float32. Source: arXiv:1910.07467."""

    def __init__(self, config: MistralConfig, *, size: int | None = None) -> None:
        super().__init__()
        self.epsilon = config.rms_norm_eps
        self.weight = nn.Parameter(torch.ones(size or config.hidden_size))

    def of_heads(self, x: Tensor) -> Tensor:
        """Each head of (B, T, heads * D), by a weight (D,)."""
        B, T, _ = x.shape
        normed: Tensor = self(x.view(B, T, -1, len(self.weight)))
        return normed.flatten(2)

    def forward(self, x: Tensor) -> Tensor:
        """(..., N) to (..., N)."""
        mean_square = x.pow(2).mean(dim=-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(mean_square + self.epsilon))
