"""Architectures of known models, by name. (no torch)"""

from __future__ import annotations

import dataclasses
from typing import Any

from ..runtime.errors import ConfigError
from .config import MistralConfig, describe_windows

# Sources: Mistral 7B, arXiv:2310.06825, table 1, and the config.json of its three releases.
_MISTRAL_7B = MistralConfig(
    architecture="MistralForCausalLM",
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=32000,
    max_position_embeddings=32768,
    rms_norm_eps=1e-5,
    rope_theta=1e4,
    sliding_window=4096,
    tie_word_embeddings=False,
    bos_token_id=1,
    eos_token_ids=(2,),
)
_MISTRAL_7B_V2 = dataclasses.replace(_MISTRAL_7B, sliding_window=None, rope_theta=1e6)
# Sources: Llama 2, arXiv:2307.09288, and Code Llama, arXiv:2308.12950, with their config.json.
_LLAMA_2_7B = dataclasses.replace(
    _MISTRAL_7B,
    architecture="LlamaForCausalLM",
    intermediate_size=11008,
    num_key_value_heads=32,
    max_position_embeddings=4096,
    sliding_window=None,
)
_LLAMA_2_13B = dataclasses.replace(
    _LLAMA_2_7B,
    hidden_size=5120,
    intermediate_size=13824,
    num_hidden_layers=40,
    num_attention_heads=40,
    num_key_value_heads=40,
)
# Its 16 further tokens mark the prefix, middle and suffix of code to fill in.
_CODE: dict[str, Any] = {"vocab_size": 32016, "rope_theta": 1e6, "max_position_embeddings": 16384}

# Source: SmolLM2, arXiv:2502.02737, and its config.json: heads in threes, embeddings tied.
_SMOLLM2_135M = dataclasses.replace(
    _LLAMA_2_7B,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    head_dim=64,
    vocab_size=49152,
    max_position_embeddings=8192,
    rope_theta=1e5,
    tie_word_embeddings=True,
)

GEOMETRIES = {
    "stdlib-5m": dataclasses.replace(
        _MISTRAL_7B,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,
        vocab_size=2048,
        max_position_embeddings=4096,
        sliding_window=64,
    ),
    "mistral-7b-v0.1": _MISTRAL_7B,
    "mistral-7b-v0.2": _MISTRAL_7B_V2,
    "mistral-7b-v0.3": dataclasses.replace(_MISTRAL_7B_V2, vocab_size=32768),
    "llama-2-7b": _LLAMA_2_7B,
    "llama-2-13b": _LLAMA_2_13B,
    "codellama-7b": dataclasses.replace(_LLAMA_2_7B, **_CODE),
    "codellama-13b": dataclasses.replace(_LLAMA_2_13B, **_CODE),
    "smollm2-135m": _SMOLLM2_135M,
}


def find_geometry(name: str) -> MistralConfig:
    """Look up an architecture by the name of the model that it was published with.

    Raises:
        ConfigError: the name is not known; the message has those that are.
    """
    if name not in GEOMETRIES:
        raise ConfigError(
            f"{name}: no geometry of that name is known, expected one of "
            f"{', '.join(GEOMETRIES)}; take the one that is nearest"
        )
    return GEOMETRIES[name]


def shorten(config: MistralConfig, num_layers: int) -> MistralConfig:
    """Keep the first layers alone, and all else as it is.

    Raises:
        ConfigError: there are not that many layers, or it is not at least one.
    """
    if not 1 <= num_layers <= config.num_hidden_layers:
        raise ConfigError(
            f"--layers {num_layers}: expected 1 to {config.num_hidden_layers}, the layers that "
            "the geometry has; leave it out for all of them"
        )
    return dataclasses.replace(
        config,
        num_hidden_layers=num_layers,
        **describe_windows(config.windows[:num_layers]),
        unrotated_layers=tuple(one for one in config.unrotated_layers if one < num_layers),
    )
