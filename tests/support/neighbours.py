"""Tiny models of each architecture beside Mistral 7B, with the parts that its published models have."""

from __future__ import annotations

from typing import Any

from .ropes import LLAMA3, YARN

FULL, SLIDING = "full_attention", "sliding_attention"
W, LENGTH, BOUND = 8, 60, 1e-4  # past the window and its slack twice
MIXED = {"sliding_window": W, "layer_types": [FULL, SLIDING]}
KINDS: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {"rope_parameters": LLAMA3, "tie": True},  # as 3.2
    # As Nemo: heads smaller than hidden_size over their number, and no window.
    "MistralForCausalLM": {
        "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "sliding_window": None,
    },
    "MinistralForCausalLM": MIXED,
    "Ministral3ForCausalLM": {"rope_parameters": YARN, "bos_token_id": 1, "eos_token_id": 2},
    "Qwen2ForCausalLM": {**MIXED, "use_sliding_window": True},
    "Qwen3ForCausalLM": {"use_sliding_window": False, "tie": True},  # as up to 4B
    "SmolLM3ForCausalLM": {
        "use_sliding_window": True,
        "sliding_window": W,
        "no_rope_layers": [1, 0],
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
}
