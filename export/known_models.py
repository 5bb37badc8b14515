"""Architectures of known models, by name. (no torch)

Fields are those of the published config.json; where a comment names another file, that repeats
them in public. ``tests/export/test_known_models.py`` has a stated parameter count of each.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ..runtime.errors import ConfigError
from .architectures.ministral3 import MINISTRAL_3
from .config import MistralConfig, describe_windows

# Sources: Mistral 7B, arXiv:2310.06825, table 1; the model card of v0.2 (theta 1e6, no window);
# Megatron-Bridge, mistral_provider.py (v0.3).
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
# Sources: Llama 2, arXiv:2307.09288, Code Llama, arXiv:2308.12950; litgpt, config.py.
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

# Sources: config.json of Mistral-Nemo-Base-2407 as copied by thunder_model_blocks; the model card.
# Heads are smaller than hidden_size over their number. Positions are the 128k of the card: the
# first config.json of Base had 128000, that of Instruct 1024000.
_MISTRAL_NEMO = dataclasses.replace(
    _MISTRAL_7B_V2,
    hidden_size=5120,
    num_hidden_layers=40,
    vocab_size=131072,
    max_position_embeddings=131072,
)
# Sources: the model card of Ministral-8B-Instruct-2410: sizes, windows ("128k,32k,32k,32k") and
# positions; config.json: theta. There it has 32768 positions, and one window for all layers.
_MINISTRAL_8B = dataclasses.replace(
    _MISTRAL_7B_V2,
    architecture="MinistralForCausalLM",
    intermediate_size=12288,
    num_hidden_layers=36,
    vocab_size=131072,
    max_position_embeddings=131072,
    rope_theta=1e8,
    **describe_windows([None, 32768, 32768, 32768] * 9),
)
# Source: transformers 5.23, configuration_ministral3.py, whose defaults are those of the 8B; sizes
# of 3B and 14B: text_config of their config.json.
_MINISTRAL_3_8B = dataclasses.replace(
    _MISTRAL_7B_V2,
    architecture="Ministral3ForCausalLM",
    num_hidden_layers=34,
    vocab_size=131072,
    max_position_embeddings=262144,
    rope_scaling={name: one for name, one in MINISTRAL_3.rope.items() if name != "rope_theta"},
)

# Sources: SmolLM2, arXiv:2502.02737; litgpt, config.py (135M, 360M); config.json of 1.7B.
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
# Sources: config.json of Llama-3.2-1B as copied by thunder_model_blocks, of -3B by LLM-Prof.
_LLAMA_3_2_1B = dataclasses.replace(
    _LLAMA_2_7B,
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=16,
    num_key_value_heads=8,
    head_dim=64,
    vocab_size=128256,
    max_position_embeddings=131072,
    rope_theta=5e5,
    rope_scaling={
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    tie_word_embeddings=True,
)
# Source: config.json of SmolLM3-3B: one layer in four has no rope.
_SMOLLM3_3B = dataclasses.replace(
    _SMOLLM2_135M,
    architecture="SmolLM3ForCausalLM",
    hidden_size=2048,
    intermediate_size=11008,
    num_hidden_layers=36,
    num_attention_heads=16,
    num_key_value_heads=4,
    head_dim=128,
    vocab_size=128256,
    max_position_embeddings=65536,
    rms_norm_eps=1e-6,
    rope_theta=5e6,
    unrotated_layers=tuple(range(3, 36, 4)),
)
# Sources: Qwen3, arXiv:2505.09388, table 1; Megatron-Bridge, qwen_provider.py.
_QWEN3_0_6B = dataclasses.replace(
    _SMOLLM2_135M,
    architecture="Qwen3ForCausalLM",
    hidden_size=1024,
    intermediate_size=3072,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=151936,
    max_position_embeddings=40960,
    rms_norm_eps=1e-6,
    rope_theta=1e6,
    has_head_norms=True,
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
    "mistral-nemo": _MISTRAL_NEMO,
    # Source: text_config of its config.json; vision is another model. Theta was 1e8 in Small 3.
    "mistral-small-3.2": dataclasses.replace(
        _MISTRAL_NEMO, intermediate_size=32768, rope_theta=1e9
    ),
    "ministral-8b": _MINISTRAL_8B,
    "ministral-3-3b": dataclasses.replace(
        _MINISTRAL_3_8B,
        hidden_size=3072,
        intermediate_size=9216,
        num_hidden_layers=26,
        tie_word_embeddings=True,
    ),
    "ministral-3-8b": _MINISTRAL_3_8B,
    "ministral-3-14b": dataclasses.replace(
        _MINISTRAL_3_8B,
        hidden_size=5120,
        intermediate_size=16384,
        num_hidden_layers=40,
        rope_theta=1e9,
    ),
    "llama-3.2-1b": _LLAMA_3_2_1B,
    "llama-3.2-3b": dataclasses.replace(
        _LLAMA_3_2_1B,
        hidden_size=3072,
        num_hidden_layers=28,
        num_attention_heads=24,
        head_dim=128,
    ),
    "smollm2-135m": _SMOLLM2_135M,
    "smollm2-360m": dataclasses.replace(
        _SMOLLM2_135M,
        hidden_size=960,
        intermediate_size=2560,
        num_hidden_layers=32,
        num_attention_heads=15,
        num_key_value_heads=5,
    ),
    "smollm2-1.7b": dataclasses.replace(
        _SMOLLM2_135M,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=24,
        num_attention_heads=32,
        num_key_value_heads=32,
        rope_theta=130000.0,
    ),
    "smollm3-3b": _SMOLLM3_3B,
    "qwen3-0.6b": _QWEN3_0_6B,
    "qwen3-1.7b": dataclasses.replace(_QWEN3_0_6B, hidden_size=2048, intermediate_size=6144),
    "qwen3-4b": dataclasses.replace(
        _QWEN3_0_6B,
        hidden_size=2560,
        intermediate_size=9728,
        num_hidden_layers=36,
        num_attention_heads=32,
    ),
}

# A repository of each on the Hugging Face Hub; models of one geometry differ in weights.
HUB_NAMES = {
    "mistral-7b-v0.1": "mistralai/Mistral-7B-v0.1",
    "mistral-7b-v0.2": "mistralai/Mistral-7B-Instruct-v0.2",
    "mistral-7b-v0.3": "mistralai/Mistral-7B-v0.3",
    "llama-2-7b": "meta-llama/Llama-2-7b-hf",
    "llama-2-13b": "meta-llama/Llama-2-13b-hf",
    "codellama-7b": "codellama/CodeLlama-7b-hf",
    "codellama-13b": "codellama/CodeLlama-13b-hf",
    "mistral-nemo": "mistralai/Mistral-Nemo-Base-2407",
    "mistral-small-3.2": "mistralai/Mistral-Small-3.2-24B-Instruct-2506",
    "ministral-8b": "mistralai/Ministral-8B-Instruct-2410",
    "ministral-3-3b": "mistralai/Ministral-3-3B-Instruct-2512",
    "ministral-3-8b": "mistralai/Ministral-3-8B-Instruct-2512",
    "ministral-3-14b": "mistralai/Ministral-3-14B-Instruct-2512",
    "llama-3.2-1b": "meta-llama/Llama-3.2-1B-Instruct",
    "llama-3.2-3b": "meta-llama/Llama-3.2-3B-Instruct",
    "smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "smollm2-360m": "HuggingFaceTB/SmolLM2-360M-Instruct",
    "smollm2-1.7b": "HuggingFaceTB/SmolLM2-1.7B-Instruct",
    "smollm3-3b": "HuggingFaceTB/SmolLM3-3B",
    "qwen3-0.6b": "Qwen/Qwen3-0.6B",
    "qwen3-1.7b": "Qwen/Qwen3-1.7B",
    "qwen3-4b": "Qwen/Qwen3-4B",
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
