"""Read the architecture from Hugging Face's config.json, and write one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...runtime.errors import ConfigError
from ..config import MistralConfig
from ..tokenizer.spelling import write_ids
from .held_files import HeldFile, HeldFiles
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
MODEL_TYPES = {"LlamaForCausalLM": "llama", "MistralForCausalLM": "mistral"}
_SUPPORTED = ", ".join(sorted(_DOCUMENTED_DEFAULTS))
_BIASES = ("attention_bias", "mlp_bias")
_QUANTIZATION = "quantization_config"
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


def read_quantization(file: HeldFile) -> dict[str, Any]:
    """How ``config.json`` says that the weights are quantized; empty where it does not.

    Raises:
        ConfigError: it is no object.
    """
    try:
        return _object(read_json_object(file), _QUANTIZATION)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error.__cause__


def without_stale_fields(published: dict[str, Any], config: MistralConfig) -> dict[str, Any]:
    """``config.json`` without what an artifact's weights are not: quantized, biased, untied."""
    own = {
        "tie_word_embeddings": config.tie_word_embeddings,
        "vocab_size": config.vocab_size,
        **dict.fromkeys(_BIASES, False),
    }
    changed = {n: own[n] for n in own if n in published and (published[n] or False) != own[n]}
    left_out = _QUANTIZATION if published.get(_QUANTIZATION) else ""
    return {n: changed.get(n, value) for n, value in published.items() if n != left_out}


def to_hugging_face(config: MistralConfig) -> dict[str, Any]:
    """Say a config as ``config.json`` does, for layouts that bring none; JSON's types alone.

    ``rope_theta`` stands at the top, where every version of transformers finds it.
    """
    is_mistral = config.architecture == "MistralForCausalLM"
    return {
        "architectures": [config.architecture],
        "model_type": MODEL_TYPES[config.architecture],
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
    """The class that transformers loads: ``model_type`` decides, ``architectures`` must agree.

    Source: transformers 5.23, ``AutoModelForCausalLM``, which reads ``model_type``.
    """
    named, kind = published.get("architectures"), published.get("model_type")
    of_type = next((name for name, own in MODEL_TYPES.items() if own == kind), None)
    if named in (None, []):
        if of_type is not None:
            return of_type
        raise ConfigError(
            f"architectures is {shown(named)} and model_type is {shown(kind)}; supported are "
            f"{_SUPPORTED}"
        )
    for supported in _DOCUMENTED_DEFAULTS:
        if named in ([supported], [supported.replace("ForCausalLM", "Model")]):
            if kind is not None and of_type != supported:
                raise ConfigError(
                    f"architectures is {shown(named)} and model_type is {shown(kind)}, expected "
                    f"them to agree: transformers loads what model_type says; correct one of them"
                )
            return supported
    raise ConfigError(f"architectures is {shown(named)}; supported are {_SUPPORTED}")


def _refuse_unsupported(published: dict[str, Any], architecture: str) -> None:
    """Name whatever would make the export something else than the model."""
    for name in _BIASES:  # the files decide whether there are any
        flag(published, name)
    rope, kind = _object(published, "rope_parameters"), _rope_scaling(published)
    activation = published.get("hidden_act", "silu")
    refused = {
        f"rope scaling ({kind})": bool(kind),
        f"activation {shown(activation)} (supported: silu)": activation != "silu",
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
