"""Architectures that are not supported, and what each would need that is not computed here."""

from __future__ import annotations

from dataclasses import dataclass

EXPERTS = "experts and their router"
LATENT = "keys and values that are cached compressed (multi-head latent attention)"
INDEXER = "an indexer that chooses the keys of each query (sparse attention)"
SINKS = "attention sinks"
CHUNKED = "attention within chunks of positions"
RECURRENT = "layers with a recurrent state instead of keys and values"
SHARED_CACHE = "layers that read the keys and values of an earlier layer"
HEADS_AFTER_ROPE = "norms of heads after rope"
WHOLE_NORMS = "norms over all heads of queries and keys together"
ROPE_BY_KIND = "another rope in layers with a window"
PARTIAL_ROPE = "rope on a part of each head (partial_rotary_factor)"
LONGROPE = "longrope, whose frequencies change past the original length"
OFFSET_NORMS = "norms that multiply by 1 + weight"
LAYER_NORMS = "norms that subtract the mean (LayerNorm)"
NORMS_AFTER = "norms of what attention and perceptron add"
SCALED_EMBEDDING = "embeddings that are multiplied by a constant"
MULTIPLIERS = "multipliers of residuals and logits"
SOFT_CAPS = "soft caps of logits"
SIDE_BY_SIDE = "attention and perceptron on the same input (parallel residual)"
PER_LAYER_INPUT = "an embedding of each token for each layer"
FUSED = "matrices that hold queries, keys and values in one, gate and up in one"
NOT_SILU = "another activation than silu"
BIASES = "biases of all matrices"


@dataclass(frozen=True, kw_only=True, slots=True)
class NotSupported:
    """A family, the names that its files have, and what it needs."""

    name: str
    # ``model_type`` of config.json without ``_text``, and ``general.architecture`` of GGUF where
    # that is another.
    types: tuple[str, ...]
    needs: tuple[str, ...]

    def explain(self, what: str) -> str:
        """What a message says of a file that names this family."""
        return f"{what} ({self.name}) is not supported: it would need {'; '.join(self.needs)}"


_MIXTRAL = NotSupported(name="Mixtral", types=("mixtral",), needs=(EXPERTS,))
_MISTRAL_4 = NotSupported(name="Mistral 4", types=("mistral4",), needs=(EXPERTS, LATENT))
_MAMBA = NotSupported(name="Mamba", types=("mamba", "mamba2"), needs=(RECURRENT,))
# Source: transformers 5.23, modeling_*.py and configuration_*.py of each ``model_type``;
# gguf 0.19, constants.py (``MODEL_ARCH_NAMES``).
NOT_SUPPORTED = (
    _MIXTRAL,
    _MISTRAL_4,
    NotSupported(
        name="Mistral Large 4",
        types=("mistral_large4",),
        needs=(EXPERTS, LATENT, INDEXER, SOFT_CAPS),
    ),
    _MAMBA,
    NotSupported(name="Gemma", types=("gemma",), needs=(OFFSET_NORMS, SCALED_EMBEDDING, NOT_SILU)),
    NotSupported(
        name="Gemma 2",
        types=("gemma2",),
        needs=(OFFSET_NORMS, NORMS_AFTER, SCALED_EMBEDDING, SOFT_CAPS, NOT_SILU),
    ),
    NotSupported(
        name="Gemma 3",
        types=("gemma3",),
        needs=(OFFSET_NORMS, NORMS_AFTER, SCALED_EMBEDDING, ROPE_BY_KIND, NOT_SILU),
    ),
    NotSupported(
        name="Gemma 3n",
        types=("gemma3n",),
        needs=(PER_LAYER_INPUT, SHARED_CACHE, NORMS_AFTER, SCALED_EMBEDDING, NOT_SILU),
    ),
    NotSupported(
        name="Gemma 4",
        types=("gemma4", "gemma4_unified"),
        needs=(NORMS_AFTER, SCALED_EMBEDDING, ROPE_BY_KIND, SHARED_CACHE, NOT_SILU),
    ),
    NotSupported(
        name="Phi 1 and 2",
        types=("phi", "phi2"),
        needs=(LAYER_NORMS, SIDE_BY_SIDE, PARTIAL_ROPE, NOT_SILU, BIASES),
    ),
    NotSupported(name="Phi 3 and 4", types=("phi3",), needs=(FUSED, PARTIAL_ROPE, LONGROPE)),
    NotSupported(
        name="Phi 4 multimodal",
        types=("phi4_multimodal",),
        needs=(FUSED, PARTIAL_ROPE, LONGROPE),
    ),
    NotSupported(name="Phi 3.5 MoE", types=("phimoe",), needs=(EXPERTS, LAYER_NORMS)),
    NotSupported(name="Llama 4", types=("llama4",), needs=(EXPERTS, CHUNKED, HEADS_AFTER_ROPE)),
    NotSupported(
        name="DeepSeek V2 and V3",
        types=("deepseek_v2", "deepseek_v3", "deepseek2"),
        needs=(EXPERTS, LATENT),
    ),
    NotSupported(name="DeepSeek V3.2", types=("deepseek_v32",), needs=(EXPERTS, LATENT, INDEXER)),
    NotSupported(name="DeepSeek V4", types=("deepseek_v4",), needs=(EXPERTS, INDEXER)),
    NotSupported(name="Qwen MoE", types=("qwen2_moe", "qwen3_moe"), needs=(EXPERTS,)),
    NotSupported(
        name="Qwen3 Next",
        types=("qwen3_next", "qwen3_5_moe", "qwen35moe"),
        needs=(EXPERTS, RECURRENT, PARTIAL_ROPE, OFFSET_NORMS),
    ),
    NotSupported(
        name="Qwen3.5",
        types=("qwen3_5", "qwen35"),
        needs=(RECURRENT, PARTIAL_ROPE, OFFSET_NORMS),
    ),
    NotSupported(name="gpt-oss", types=("gpt_oss",), needs=(EXPERTS, SINKS, BIASES)),
    NotSupported(name="Granite", types=("granite",), needs=(SCALED_EMBEDDING, MULTIPLIERS)),
    NotSupported(
        name="Granite MoE",
        types=("granitemoe",),
        needs=(EXPERTS, SCALED_EMBEDDING, MULTIPLIERS),
    ),
    NotSupported(name="OLMo 2 and 3", types=("olmo2", "olmo3"), needs=(NORMS_AFTER, WHOLE_NORMS)),
    NotSupported(
        name="Cohere Command",
        types=("cohere", "cohere2", "command-r"),
        needs=(LAYER_NORMS, SIDE_BY_SIDE, MULTIPLIERS),
    ),
    NotSupported(name="GLM 4", types=("glm4",), needs=(NORMS_AFTER, PARTIAL_ROPE, FUSED)),
    NotSupported(name="StarCoder 2", types=("starcoder2",), needs=(LAYER_NORMS, NOT_SILU, BIASES)),
    NotSupported(name="StableLM", types=("stablelm",), needs=(LAYER_NORMS, PARTIAL_ROPE)),
    NotSupported(
        name="Nemotron",
        types=("nemotron",),
        needs=(LAYER_NORMS, PARTIAL_ROPE, NOT_SILU),
    ),
)
# Keys of params.json that name a family; the first that is there decides.
BY_PARAMS_KEY = {"kv_lora_rank": _MISTRAL_4, "moe": _MIXTRAL}
# Key of GGUF's ``llama``, which Mixtral's files have as well.
BY_GGUF_KEY = {"expert_count": _MIXTRAL}

_CLASSES = ("forcausallm", "forconditionalgeneration", "lmheadmodel", "model")


def not_supported(name: object) -> NotSupported | None:
    """The family that a ``model_type``, a class or a ``general.architecture`` names.

    >>> [one.name for one in map(not_supported, ("gemma3_text", "PhimoeForCausalLM")) if one]
    ['Gemma 3', 'Phi 3.5 MoE']
    """
    if not isinstance(name, str):
        return None
    plain = _plain(name)
    for ending in _CLASSES:
        plain = plain.removesuffix(ending)
    plain = plain.removesuffix("text")
    return next((one for one in NOT_SUPPORTED if plain in map(_plain, one.types)), None)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
