"""Read the architecture from Hugging Face's config.json, and write one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...runtime.errors import ConfigError
from ...runtime.untrusted.fields import shown
from ..architectures.all_architectures import ARCHITECTURES, architecture_of
from ..architectures.architecture import Architecture
from ..architectures.ministral3 import text_of
from ..architectures.not_supported import not_supported
from ..config import MistralConfig, describe_windows
from ..files.held_files import HeldFile, HeldFiles
from ..files.metadata_fields import flag, number, read_json_object, token_id, token_ids
from ..largest_sizes import refuse_size
from ..published_tokenizer.spelling import write_ids
from ..rope_parameters import QUERY_SCALE
from .published_rope import describes_rope, published_object, read_rope

CONFIG_FILE = "config.json"

_SUPPORTED = ", ".join(ARCHITECTURES)
_FSDP = "FSDP"  # of PyTorch, in front of the name of the class
_BIASES = ("attention_bias", "mlp_bias")
_QUANTIZATION = "quantization_config"
_SILU = ("silu", "swish")  # two names of one activation
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
        return _parse(text_of(published))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error.__cause__


def read_quantization(file: HeldFile) -> dict[str, Any]:
    """How ``config.json`` says that the weights are quantized; empty where it does not.

    Raises:
        ConfigError: it is no object.
    """
    try:
        return published_object(read_json_object(file), _QUANTIZATION)
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
    architecture = architecture_of(config)
    return {
        "architectures": [architecture.name],
        "model_type": architecture.model_type,
        **{name: getattr(config, name) for name in _GEOMETRY},
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        **({"rope_scaling": dict(config.rope_scaling)} if config.rope_scaling else {}),
        **architecture.layers_as_json(config),
        "tie_word_embeddings": config.tie_word_embeddings,
        "hidden_act": "silu",
        **write_ids(bos=config.bos_token_id, eos=config.eos_token_ids),
    }


def _parse(published: dict[str, Any]) -> MistralConfig:
    architecture = _architecture(published)
    _refuse_unsupported(published)
    values = {name: number(published, name, int) for name in _GEOMETRY}
    hidden, heads = values["hidden_size"], values["num_attention_heads"]
    if published.get("head_dim") is None and not architecture.head_dim and hidden % max(heads, 1):
        raise ConfigError(
            f"head_dim is missing and hidden_size ({hidden}) is not a multiple "
            f"of num_attention_heads ({heads})"
        )
    refuse_size("num_hidden_layers", values["num_hidden_layers"])
    windows = architecture.windows(published, values["num_hidden_layers"])
    positions = number(
        published, "max_position_embeddings", int, architecture.max_position_embeddings
    )
    own_rope = {} if describes_rope(published) else dict(architecture.rope)
    rope = {"rope_parameters": own_rope} if own_rope else {}
    rope_theta, rope_scaling = read_rope(
        {**published, **rope}, default_theta=architecture.rope_theta, max_positions=positions
    )
    if QUERY_SCALE in rope_scaling and not architecture.scales_queries:
        raise ConfigError(
            f"{QUERY_SCALE} is {rope_scaling[QUERY_SCALE]}: {architecture.name} ignores it, "
            "expected none; remove it"
        )
    return MistralConfig(
        architecture=architecture.name,
        **values,
        num_key_value_heads=_key_value_heads(published, architecture, heads),
        head_dim=number(
            published, "head_dim", int, architecture.head_dim or hidden // max(heads, 1)
        ),
        max_position_embeddings=positions,
        rms_norm_eps=number(published, "rms_norm_eps", float, architecture.rms_norm_eps),
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        **describe_windows(windows),
        **architecture.parts,
        unrotated_layers=architecture.unrotated_layers(published, values["num_hidden_layers"]),
        tie_word_embeddings=flag(
            published, "tie_word_embeddings", architecture.tie_word_embeddings
        ),
        bos_token_id=token_id(published, "bos_token_id"),
        eos_token_ids=token_ids(published, "eos_token_id"),
    )


def _architecture(published: dict[str, Any]) -> Architecture:
    """The class that transformers loads: ``model_type`` decides, ``architectures`` must agree.

    A model that FSDP has sharded is of a class whose name begins with ``FSDP``, and versions of
    transformers saved that name.

    Source: transformers 5.23, ``AutoModelForCausalLM``, which reads ``model_type``, and
        ``PreTrainedModel.save_pretrained``.
    """
    named, kind = published.get("architectures"), published.get("model_type")
    if isinstance(named, list):
        named = [one.removeprefix(_FSDP) if isinstance(one, str) else one for one in named]
    _refuse_family(named, kind)
    every = ARCHITECTURES.values()
    of_type = next((own for own in every if own.model_type == kind), None)
    if named in (None, []):
        if of_type is not None:
            return of_type
        raise ConfigError(
            f"architectures is {shown(named)} and model_type is {shown(kind)}; supported are "
            f"{_SUPPORTED}"
        )
    for supported in every:
        name = supported.name
        if named in ([name], [name.replace("ForCausalLM", "Model")]):
            if kind is not None and of_type is not supported:
                raise ConfigError(
                    f"architectures is {shown(named)} and model_type is {shown(kind)}, expected "
                    f"them to agree: transformers loads what model_type says; correct one of them"
                )
            return supported
    remedy = f"; if the weights are of {of_type.name}, write that name there" if of_type else ""
    raise ConfigError(f"architectures is {shown(named)}; supported are {_SUPPORTED}{remedy}")


def _refuse_family(named: Any, kind: Any) -> None:
    classes = named if isinstance(named, list) else []
    for key, value in [("model_type", kind), *(("architectures", one) for one in classes)]:
        if found := not_supported(value):
            raise ConfigError(
                f"{found.explain(f'{key} {shown(value)}')}; supported are {_SUPPORTED}"
            )


def _refuse_unsupported(published: dict[str, Any]) -> None:
    """Name whatever would make the export something else than the model."""
    for name in _BIASES:  # the files decide whether there are any
        flag(published, name)
    activation = published.get("hidden_act")
    refused = {
        f"activation {shown(activation)} is not supported, expected silu": (
            activation not in (None, *_SILU)
        ),
        "layer_windows, a window for each layer, is not supported, expected layer_types": bool(
            published.get("layer_windows")
        ),
    }
    for what, is_there in refused.items():
        if is_there:
            raise ConfigError(f"{what}; export a model without it")


def _key_value_heads(published: dict[str, Any], architecture: Architecture, heads: int) -> int:
    default = heads if architecture.has_as_many_kv_heads else None
    return int(number(published, "num_key_value_heads", int, default))
