"""Which numbers fix the architecture? (no torch)"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError

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
_GEOMETRY = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class MistralConfig:
    """Architecture of one checkpoint; names follow Hugging Face ``config.json``."""

    architecture: str  # MistralForCausalLM or LlamaForCausalLM
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    sliding_window: int | None  # keys a query sees, itself included; None: all before it
    tie_word_embeddings: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in (*_GEOMETRY, "num_key_value_heads", "head_dim", "max_position_embeddings"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"num_attention_heads ({self.num_attention_heads}) is not a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})"
            )
        if self.head_dim % 2:
            raise ConfigError(f"head_dim is {self.head_dim}; rope needs an even one")
        if self.sliding_window is not None and self.sliding_window < 1:
            raise ConfigError(
                f"sliding_window is {self.sliding_window}; expected at least 1, "
                "or null for attention without a window"
            )


def read_config(folder: Path) -> MistralConfig:
    """Read ``config.json`` of a Hugging Face checkpoint folder.

    Raises:
        ConfigError: there is no such folder or file, it is not JSON, a size is missing, or it
            describes something that is not supported (named in the message).

    Source: transformers' ``config.json``, both before and since version 5 (which moves
        ``rope_theta`` into ``rope_parameters``).
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; name the folder of a checkpoint")
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ConfigError(
            f"{folder}: not a checkpoint, it holds no {CONFIG_FILE}; "
            "name a folder with config.json, model.safetensors and tokenizer.model"
        )
    try:
        published = json.loads(path.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON ({error}); download it again") from error
    if not isinstance(published, dict):
        raise ConfigError(f"{path}: holds a {type(published).__name__}, expected an object")
    for name in ("rope_parameters", "rope_scaling"):
        if not isinstance(published.get(name) or {}, dict):
            raise ConfigError(f"{path}: {name} is {published[name]!r}, expected an object")
    try:
        return _parse(published)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error.__cause__


def _parse(published: dict[str, Any]) -> MistralConfig:
    architecture = _architecture(published)
    _refuse_unsupported(published, architecture)
    defaults = _DOCUMENTED_DEFAULTS[architecture]
    values = {name: _number(published, name, int) for name in _GEOMETRY}
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
        head_dim=_number(published, "head_dim", int, values["hidden_size"] // max(heads, 1)),
        max_position_embeddings=_number(
            published, "max_position_embeddings", int, defaults["max_position_embeddings"]
        ),
        rms_norm_eps=_number(published, "rms_norm_eps", float, defaults["rms_norm_eps"]),
        rope_theta=_rope_theta(published, defaults["rope_theta"]),
        sliding_window=_sliding_window(published, architecture),
        tie_word_embeddings=bool(published.get("tie_word_embeddings", False)),
        bos_token_id=published.get("bos_token_id"),
        eos_token_ids=_token_ids(published.get("eos_token_id")),
    )


def _architecture(published: dict[str, Any]) -> str:
    named = published.get("architectures")
    if not isinstance(named, list) or len(named) != 1 or named[0] not in _DOCUMENTED_DEFAULTS:
        raise ConfigError(
            f"architectures is {named}; supported are {', '.join(sorted(_DOCUMENTED_DEFAULTS))}"
        )
    return str(named[0])


def _refuse_unsupported(published: dict[str, Any], architecture: str) -> None:
    """Name whatever would make the export something else than the model."""
    rope = published.get("rope_parameters") or {}
    scaling = published.get("rope_scaling") or {}
    kind = rope.get("rope_type") or scaling.get("rope_type") or scaling.get("type") or "default"
    if scaling and kind == "default" and set(scaling) - {"rope_type", "type", "rope_theta"}:
        kind = "unnamed"
    activation = published.get("hidden_act", "silu")
    refused = {
        f"rope scaling ({kind})": kind != "default",
        f"activation {activation!r} (supported: silu)": activation != "silu",
        "attention_bias": bool(published.get("attention_bias")),
        "mlp_bias": bool(published.get("mlp_bias")),
        "quantization_config (start from the float checkpoint)": bool(
            published.get("quantization_config")
        ),
        "a sliding_window, which LlamaForCausalLM ignores (remove it, or give --window)": bool(
            architecture == "LlamaForCausalLM" and published.get("sliding_window")
        ),
        "layer_types other than one kind for all layers": (
            len(set(published.get("layer_types") or ())) > 1
        ),
        "partial rotary embedding": (
            (published.get("partial_rotary_factor") or rope.get("partial_rotary_factor") or 1) != 1
        ),
    }
    for what, is_there in refused.items():
        if is_there:
            raise ConfigError(f"{what} is not supported")


def _number(
    published: dict[str, Any], name: str, kind: type[int] | type[float], default: Any = None
) -> Any:
    value = published.get(name, default)
    if value is None:
        value = default
    if value is None:
        raise ConfigError(f"{name} is missing, and its format documents no default for it")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _is(value, kind):
        raise ConfigError(f"{name} is {value!r}; expected a number ({kind.__name__})")
    return kind(value)


def _is(value: float, kind: type[int] | type[float]) -> bool:
    return math.isfinite(value) and kind(value) == value


def _key_value_heads(published: dict[str, Any], architecture: str, heads: int) -> int:
    """Llama documents ``num_attention_heads`` as the default; Mistral's 8 is no safe guess."""
    default = heads if architecture == "LlamaForCausalLM" else None
    return int(_number(published, "num_key_value_heads", int, default))


def _rope_theta(published: dict[str, Any], default: float) -> float:
    rope = published.get("rope_parameters") or {}
    found = {
        float(_number(source, "rope_theta", float))
        for source in (rope, published)
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
    return int(_number({"sliding_window": value}, "sliding_window", int))


def _token_ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (int(value),)
