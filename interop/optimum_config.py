"""What optimum reads in an artifact's config, and whether its runtime can run the artifact.

optimum reads a model's config through one class per type, under names that are the same for all
types. Its runtime makes the first, empty past from these numbers, never from the graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

from ..export.config import MistralConfig
from ..export.formats.huggingface import to_hugging_face
from ..export.sidecars.optimum_runtime import optimum_obstacle
from ..runtime.cache import by_layer
from ..runtime.contract import Geometry


def describe(config: MistralConfig) -> str:
    """One line on the model, as optimum reads its config."""
    from optimum.utils import NormalizedConfigManager

    published = SimpleNamespace(**to_hugging_face(config))
    try:
        read = NormalizedConfigManager.get_normalized_config_class(published.model_type)(published)
    except KeyError:  # it knows no such type
        return f"{published.model_type}, a model type that optimum does not read"
    return (
        f"{read.model_type}, {read.num_layers} layers of {read.num_attention_heads} heads over "
        f"{read.num_key_value_heads}, hidden {read.hidden_size}, vocabulary {read.vocab_size}"
    )


def obstacles(config: MistralConfig, geometry: Geometry) -> Iterator[str]:
    """Why ``ORTModelForCausalLM`` cannot run the artifact; empty if it can.

    Source: optimum-onnx 0.1.0, optimum/onnxruntime/modeling_decoder.py.
    """
    if any(geometry.rows):
        yield (
            "its past starts without rows, the artifact's has "
            f"{by_layer(geometry.rows, none='none')}; --cache growing writes one that starts so"
        )
    if geometry.has_quantized_cache:
        yield (
            f"it feeds a past of float32, the artifact's is {geometry.cache_dtype}; --kv float32 "
            "writes one of that"
        )
    if obstacle := optimum_obstacle(config):
        yield obstacle
