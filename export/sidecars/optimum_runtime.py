"""Says which models optimum's ``ORTModelForCausalLM`` cannot run, whatever their cache."""

from __future__ import annotations

from ..architectures.all_architectures import architecture_of
from ..config import MistralConfig

# Of those that we export; of other types it takes the query heads for key/value heads, and
# transformers 4.57, which optimum-onnx 0.1.0 needs, has no Ministral 3.
_TYPES = ("llama", "mistral", "qwen2", "qwen3", "smollm3")


def optimum_obstacle(config: MistralConfig) -> str:
    """Why ``ORTModelForCausalLM`` cannot run a model; empty where it can.

    Source: optimum-onnx 0.1.0, optimum/onnxruntime/modeling_decoder.py.
    """
    model_type = architecture_of(config).model_type
    if model_type not in _TYPES:
        return f"it does not support model type {model_type!r}, expected {' or '.join(_TYPES)}"
    size = config.hidden_size // config.num_attention_heads
    if size != config.head_dim:
        return (
            f"it takes hidden_size / num_attention_heads ({size}) for the numbers of a head, "
            f"the model has {config.head_dim}"
        )
    return ""
