"""Write what onnxruntime-genai reads of an artifact: genai_config.json."""

from __future__ import annotations

from typing import Any

from ...graphs.targets.target import Target
from ...runtime import contract
from ...runtime.errors import ConfigError
from ...runtime.ort.cpu_features import EXACT_INT8
from ...runtime.tokenizers.vocabulary import Vocabulary
from ..architectures.all_architectures import architecture_of
from ..cache_choice import WINDOWED, CacheChoice, geometry_of
from ..config import MistralConfig
from ..published_tokenizer.spelling import write_ids

GENAI_CONFIG_FILE = "genai_config.json"
# Tokens of a sequence unless an app asks for more: onnxruntime-genai allocates a cache that grows
# for all of them at once, 4.3 GB for the 128000 positions of a Mistral NeMo.
DEFAULT_LENGTH = 4096
_TYPES = {
    "LlamaForCausalLM": "llama",
    "Ministral3ForCausalLM": "mistral",  # what differs is in the graph
    "MinistralForCausalLM": "mistral",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "SmolLM3ForCausalLM": "smollm3",
}


def genai_config(
    config: MistralConfig,
    vocabulary: Vocabulary,
    *,
    target: Target,
    cache: CacheChoice = WINDOWED,
    pad_token_id: int | None = None,
    multiplies_int8: bool = False,
) -> dict[str, Any]:
    """Describe an artifact to onnxruntime-genai; it decodes greedily unless an app asks for more.

    A bounded cache has the rows that the graph has: the window's, and the slack beyond it. One
    that grows lies in a buffer for ``max_length`` tokens where the kernel takes one, and is handed
    back and forth where it does not.

    Args:
        config: the architecture as exported.
        vocabulary: start and end tokens.
        target: whose graph it is.
        cache: how keys and values are held.
        pad_token_id: the token that fills up a batch; None: the first end token.
        multiplies_int8: whether the graph multiplies int8 by int8, exactly on every processor
            only if the session is asked to.

    Raises:
        ConfigError: as ``genai_obstacle`` says.

    Source: onnxruntime-genai 0.18, src/config.cpp; how it counts rows was found by trying.
    """
    geometry = geometry_of(config, cache)
    if obstacle := genai_obstacle(geometry, target):
        raise ConfigError(f"{GENAI_CONFIG_FILE}: {obstacle}")
    names = {kind: contract.past(0, kind).replace(".0.", ".%d.") for kind in ("key", "value")}
    presents = {kind: contract.present(0, kind).replace(".0.", ".%d.") for kind in names}
    decoder: dict[str, Any] = {
        "session_options": {
            "log_id": "onnxruntime-genai",
            "provider_options": [],
            # A name that onnxruntime-genai does not know becomes an entry of the configuration.
            **(dict([EXACT_INT8]) if multiplies_int8 else {}),
        },
        "filename": contract.MODEL_FILE,
        "head_size": config.head_dim,
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "inputs": {
            "input_ids": contract.INPUT_IDS,
            "attention_mask": contract.ATTENTION_MASK,
            "past_key_names": names["key"],
            "past_value_names": names["value"],
        },
        "outputs": {
            "logits": contract.LOGITS,
            "present_key_names": presents["key"],
            "present_value_names": presents["value"],
        },
    }
    bounded = {number: one for number, one in enumerate(geometry.layers) if one.rows is not None}
    for layout in list(bounded.values())[:1]:
        assert layout.window is not None, "a bounded cache has a window"
        assert layout.rows is not None, "as it was chosen"
        decoder["sliding_window"] = {
            "window_size": layout.window,
            "cache_slack": layout.rows - layout.window,
            "slide_key_value_cache": False,
            "slide_inputs": False,
            "layers": list(bounded),  # the caches of the others have rows for all tokens
        }
    ends = vocabulary.eos_token_ids
    tokens = {
        **write_ids(bos=vocabulary.bos_token_id, eos=ends),
        "pad_token_id": next(iter(ends), 0) if pad_token_id is None else pad_token_id,
    }
    return {
        "model": {
            "type": _TYPES[architecture_of(config).name],
            "context_length": config.max_position_embeddings,
            "vocab_size": config.vocab_size,
            "decoder": decoder,
            **{name: value for name, value in tokens.items() if value is not None},
        },
        "search": {
            "do_sample": False,
            "max_length": default_length(geometry),
            "past_present_share_buffer": geometry.is_bounded or target.shares_growing_cache,
        },
    }


def genai_obstacle(geometry: contract.Geometry, target: Target) -> str:
    """Why onnxruntime-genai cannot run an artifact; empty where it can.

    It allocates one size of bounded caches, and buffers for all tokens for the other layers.
    """
    sizes = {layout for layout in geometry.layers if layout.rows is not None}
    if least_length(geometry) > geometry.max_positions:
        return (
            f"the KV cache has {least_length(geometry)} rows, expected at most the model's "
            f"{geometry.max_positions} positions; onnxruntime-genai allocates no more"
        )
    if len(sizes) > 1:
        return (
            "layers have fixed-size KV caches of several sizes, expected one size; "
            "onnxruntime-genai allocates one"
        )
    if sizes and not geometry.is_bounded and not target.shares_growing_cache:
        return (
            f"some layers' KV caches grow, and --target {target.name} does not update those in "
            "place, expected all to be updated in place; onnxruntime-genai does one or the other"
        )
    return ""


def default_length(geometry: contract.Geometry) -> int:
    """Tokens of a sequence that ``genai_config.json`` allows unless an app asks for others.

    A bounded cache takes as much memory for all positions as for one.
    """
    if geometry.is_bounded:
        return geometry.max_positions
    return min(geometry.max_positions, max(DEFAULT_LENGTH, least_length(geometry)))


def least_length(geometry: contract.Geometry) -> int:
    """The least ``max_length`` that onnxruntime-genai runs; 0 where any will do.

    It allocates as many rows as the graph has, but never more than ``max_length``, and its run
    fails on other rows than the graph's.
    """
    return max((layout.rows for layout in geometry.layers if layout.rows is not None), default=0)
