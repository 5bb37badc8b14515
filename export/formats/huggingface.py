"""Read the architecture from Hugging Face's config.json, and write one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...runtime.errors import ConfigError
from ..config import MistralConfig
from ..tokenizer.spelling import write_ids
from .held_files import HeldFiles
from .metadata_fields import flag, number, read_json_object, shown, token_id, token_ids

CONFIG_FILE = "config.json"

# What a config.json that leaves a key out means by it.
# Source: transformers 5.23, MistralConfig and LlamaConfig, which write and document the format.
_DOCUMENTED_DEFAULTS: dict[str, dict[str, Any]] = {
    "MistralForCausalLM": {
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "max_position_embeddings": 131072,
    },
    "LlamaForCausalLM": {
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "sliding_window": None,
        "max_position_embeddings": 2048,
    },
}
_PLAIN_ROPE = {"rope_type", "type", "rope_theta", "factor", "partial_rotary_factor"}
_GEOMETRY = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
)


def read_config_json(folder: Path, held: HeldFiles | None = None) -> MistralConfig:
    """Read ``config.json`` of a Hugging Face checkpoint folder.

    Raises:
        ConfigError: it is not JSON, a size is missing, or it describes something that is not
            supported (named in the message).

    Source: transformers' ``config.json``, both before and since version 5 (which moves
        ``rope_theta`` into ``rope_parameters``).
    """
    path = folder / CONFIG_FILE
    published = read_json_object(path if held is None else held.hold(path))
    try:
        return _parse(published)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error.__cause__


def to_hugging_face(config: MistralConfig) -> dict[str, Any]:
    """Say a config as ``config.json`` does, for layouts that bring none; JSON's types alone.

    ``rope_theta`` stands at the top, where every version of transformers finds it.
    """
    is_mistral = config.architecture == "MistralForCausalLM"
    return {
        "architectures": [config.architecture],
        "model_type": "mistral" if is_mistral else "llama",
        **{name: getattr(config, name) for name in _GEOMETRY},
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        **({"sliding_window": config.sliding_window} if is_mistral else {}),
        **({"layer_windows": list(config.layer_windows)} if config.layer_windows else {}),
        "tie_word_embeddings": config.tie_word_embeddings,
        "hidden_act": "silu",
        **write_ids(bos=config.bos_token_id, eos=config.eos_token_ids),
    }


def _parse(published: dict[str, Any]) -> MistralConfig:
    architecture = _architecture(published)
    _refuse_unsupported(published, architecture)
    defaults = _DOCUMENTED_DEFAULTS[architecture]
    values = {name: number(published, name, int) for name in _GEOMETRY}
    heads = values["num_attention_heads"]
    if published.get("head_dim") is None and values["hidden_size"] % max(heads, 1):
        raise ConfigError(
            f"head_dim is missing and hidden_size ({values['hidden_size']}) is not a multiple "
            f"of num_attention_heads ({heads})"
        )
    return MistralConfig(
        architecture=architecture,
        **values,
        num_key_value_heads=_key_value_heads(published, architecture, heads),
        head_dim=number(published, "head_dim", int, values["hidden_size"] // max(heads, 1)),
        max_position_embeddings=number(
            published, "max_position_embeddings", int, defaults["max_position_embeddings"]
        ),
        rms_norm_eps=number(published, "rms_norm_eps", float, defaults["rms_norm_eps"]),
        rope_theta=_rope_theta(published, defaults["rope_theta"]),
        sliding_window=_sliding_window(published, architecture),
        tie_word_embeddings=flag(published, "tie_word_embeddings"),
        bos_token_id=token_id(published, "bos_token_id"),
        eos_token_ids=token_ids(published, "eos_token_id"),
    )


def _architecture(published: dict[str, Any]) -> str:
    named = published.get("architectures")
    for supported in _DOCUMENTED_DEFAULTS:
        if named == [supported]:
            return supported
    raise ConfigError(
        f"architectures is {shown(named)}; supported are {', '.join(sorted(_DOCUMENTED_DEFAULTS))}"
    )


def _refuse_unsupported(published: dict[str, Any], architecture: str) -> None:
    """Name whatever would make the export something else than the model."""
    rope, kind = _object(published, "rope_parameters"), _rope_scaling(published)
    activation = published.get("hidden_act", "silu")
    refused = {
        f"rope scaling ({kind})": bool(kind),
        f"activation {shown(activation)} (supported: silu)": activation != "silu",
        "attention_bias": flag(published, "attention_bias"),
        "mlp_bias": flag(published, "mlp_bias"),
        "quantization_config (start from the float checkpoint)": (
            published.get("quantization_config") not in (None, {})
        ),
        "a sliding_window, which LlamaForCausalLM ignores (remove it, or give --window)": bool(
            architecture == "LlamaForCausalLM" and published.get("sliding_window")
        ),
        "layer_types other than one kind for all layers": (_are_mixed(published, "layer_types")),
        "layer_windows, a window for each layer": bool(published.get("layer_windows")),
        "partial rotary embedding": any(
            number(source, "partial_rotary_factor", float, 1) != 1 for source in (published, rope)
        ),
    }
    for what, is_there in refused.items():
        if is_there:
            raise ConfigError(f"{what} is not supported")


def _rope_scaling(published: dict[str, Any]) -> str:
    """What rope is scaled by; empty where transformers computes the rope of ``rope_theta`` alone.

    Source: transformers 5.23, ``ROPE_INIT_FUNCTIONS`` and ``RotaryEmbeddingConfigMixin``: the
        default kind reads no factor, and the linear kind divides by it.
    """
    for name in ("rope_parameters", "rope_scaling"):
        described = _object(published, name)
        kinds = (described.get("rope_type"), described.get("type"))
        kind = next((kind for kind in kinds if kind is not None), None)
        factor = number(described, "factor", float, 1.0)
        others = sorted(set(described) - _PLAIN_ROPE)
        if kind is None and (others or factor != 1):
            return f"{name} has {shown((others or ['factor'])[0])} and no rope_type"
        if kind == "linear" and (factor != 1 or described.get("factor") is None):
            return f"linear, factor {shown(described.get('factor'))}"
        if kind not in (None, "default", "linear"):
            return kind if isinstance(kind, str) else shown(kind)
    return ""


def _object(published: dict[str, Any], name: str) -> dict[str, Any]:
    value = published.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{name} is {shown(value)}, expected an object")
    return value


def _are_mixed(published: dict[str, Any], name: str) -> bool:
    value = published.get(name)
    if value is None:
        return False
    if not isinstance(value, list) or not all(isinstance(kind, str) for kind in value):
        raise ConfigError(f"{name} is {shown(value)}; expected a list of names")
    return len(set(value)) > 1


def _key_value_heads(published: dict[str, Any], architecture: str, heads: int) -> int:
    """Llama documents ``num_attention_heads`` as the default; Mistral's 8 is no safe guess."""
    default = heads if architecture == "LlamaForCausalLM" else None
    return int(number(published, "num_key_value_heads", int, default))


def _rope_theta(published: dict[str, Any], default: float) -> float:
    rope, scaling = _object(published, "rope_parameters"), _object(published, "rope_scaling")
    found = {
        float(number(source, "rope_theta", float))
        for source in (rope, scaling, published)
        if source.get("rope_theta") is not None
    }
    if len(found) > 1:
        raise ConfigError(f"rope_theta is given twice and differs: {sorted(found)}")
    return found.pop() if found else default


def _sliding_window(published: dict[str, Any], architecture: str) -> int | None:
    """A missing key means the documented default; an explicit null means no window."""
    default = _DOCUMENTED_DEFAULTS[architecture]["sliding_window"]
    value = published.get("sliding_window", default)
    if value is None:
        return None
    return int(number({"sliding_window": value}, "sliding_window", int))
