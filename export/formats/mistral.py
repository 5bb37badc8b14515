"""Reads the architecture from Mistral's params.json, and writes one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...runtime.errors import ConfigError
from ...runtime.untrusted.fields import shown
from ..architectures.not_supported import BY_PARAMS_KEY, not_supported
from ..config import MistralConfig, Windows, describe_windows, repeated
from ..files.held_files import HeldFile, HeldFiles
from ..files.metadata_fields import flag, number, read_json_object
from ..largest_sizes import refuse_size
from ..rope_parameters import KIND, ORIGINAL, QUERY_SCALE
from .published_rope import published_object

PARAMS_FILE = "params.json"

_SIZES = {
    "hidden_size": "dim",
    "intermediate_size": "hidden_dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "head_dim": "head_dim",
    "vocab_size": "vocab_size",
}
_POSITIONS = ("max_position_embeddings", "max_seq_len")
_WINDOWS = ("sliding_window", "_sliding_window")  # the first that is not null
_TIED = ("tie_word_embeddings", "tied_embeddings")
# The file has no number of positions; transformers' converter writes this one.
_DEFAULT_POSITIONS = 32768
# Files from before version 0.2 have no rope_theta: the code beside them had it as a constant.
_DEFAULT_THETA = 10000.0
# Keys that may only have the value that every model of this family has; null counts as absent.
_ONLY_AS = {"model_type": "transformer", "causal": True, "use_biases": False}
_KNOWN = {
    *_SIZES.values(),
    *_POSITIONS,
    *_TIED,
    "norm_eps",
    "rope_theta",
    *_WINDOWS,
    "yarn",  # see ``_YARN``
    "llama_4_scaling",  # see ``_QUERIES``
    "max_batch_size",  # of the program that serves it, no matter of the model
    "quantization",  # see ``_QUANTIZATION``
}
# Parameters of ``yarn`` by Hugging Face's names; ``apply_scale`` says whether attention is scaled.
_YARN = {
    "factor": "factor",
    ORIGINAL: "original_max_position_embeddings",
    "beta_fast": "beta",
    "beta_slow": "alpha",
}
_SCALES_ATTENTION = "apply_scale"
# Parameters of ``llama_4_scaling``, by which queries grow, likewise.
_QUERIES = {QUERY_SCALE: "beta", ORIGINAL: "original_max_position_embeddings"}
# Of ``quantization``: float8 weights with scales. How activations are rounded by programs that do
# so changes nothing here, where they stay float.
_QUANTIZATION = {
    "qformat_weight": ("fp8_e4m3",),
    "qscheme_act": ("TENSOR", "DYNAMIC", "NO_SCALES", None),
}


def read_params_json(folder: Path, held: HeldFiles | None = None) -> MistralConfig:
    """Read ``params.json`` of a folder in Mistral's own layout.

    Start and end tokens are None and (): they stand in the tokenizer.

    Raises:
        ConfigError: it is not JSON, a size is missing, or it has a key that is not known to
            leave the model as it is.

    Source: mistral-inference, src/mistral_inference/args.py (commit 26a52a14), and transformers'
        convert_mistral_weights_to_hf.py (commit 15ea02a2) for what a missing key means; vllm,
        transformers_utils/configs/mistral.py (``_remap_mistral_yarn_args``) for ``yarn`` and
        ``llama_4_scaling``.
    """
    path = folder / PARAMS_FILE
    published = read_json_object(path if held is None else held.hold(path))
    try:
        return _parse(published)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error.__cause__


def read_window_pattern(path: HeldFile, config: MistralConfig) -> Windows:
    """The pattern of windows in a ``params.json`` beside the config; () where it has none.

    Raises:
        ConfigError: it is not JSON, or its pattern does not fit the config's layers.
    """
    published = read_json_object(path)
    if not any(isinstance(published.get(name), list) for name in _WINDOWS):
        return ()
    try:
        return _windows(published, config.num_hidden_layers, config.max_position_embeddings)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error.__cause__


def read_params_quantization(file: HeldFile) -> dict[str, Any]:
    """How weights are stored, in the words of ``quantization_config``; empty: as floats.

    Raises:
        ConfigError: in another way than as float8 with scales.

    Source: vllm, transformers_utils/configs/mistral.py (``_remap_mistral_quantization_args``);
        llama.cpp, conversion/mistral.py (``dequant_model``).
    """
    described = read_json_object(file).get("quantization")
    try:
        _refuse_quantization(described)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    return {} if described is None else {"quant_method": "fp8"}


def to_params_json(config: MistralConfig) -> dict[str, Any]:
    """Say a config as ``params.json`` does, which has no words for start and end tokens.

    ``rope_theta`` stands there unless a window marks the file as one of version 0.1: programs
    disagree on what a missing one means. Positions stand there where they are not the usual ones.

    Raises:
        ConfigError: it has no words for a part of the model.
    """
    if config.has_qkv_bias or config.has_head_norms or config.unrotated_layers:
        raise ConfigError(
            f"{PARAMS_FILE}: has no words for biases, norms of heads or layers without rope of "
            f"{config.architecture}, expected a plain decoder; write Hugging Face's layout instead"
        )
    published = {theirs: getattr(config, ours) for ours, theirs in _SIZES.items()}
    published["norm_eps"] = config.rms_norm_eps
    if config.sliding_window is not None:
        published["sliding_window"] = list(config.layer_windows) or config.sliding_window
    if config.sliding_window is None or config.rope_theta != _DEFAULT_THETA:
        published["rope_theta"] = config.rope_theta
    published |= _to_yarn(config)
    if config.max_position_embeddings != _DEFAULT_POSITIONS:
        published[_POSITIONS[0]] = config.max_position_embeddings
    if config.tie_word_embeddings:
        published[_TIED[0]] = True
    return published


def _parse(published: dict[str, Any]) -> MistralConfig:
    _refuse_unsupported(published)
    positions = [
        number(published, name, int) for name in _POSITIONS if published.get(name) is not None
    ]
    if len(set(positions)) > 1:
        raise ConfigError(f"{' and '.join(_POSITIONS)} differ: {positions}; expected one value")
    tied = [flag(published, name) for name in _TIED]
    layers = number(published, "n_layers", int)
    refuse_size("num_hidden_layers", layers)
    most = positions[0] if positions else _DEFAULT_POSITIONS
    rope_scaling = _rope_scaling(published)
    is_scaled = QUERY_SCALE in rope_scaling
    return MistralConfig(
        architecture="Ministral3ForCausalLM" if is_scaled else "MistralForCausalLM",
        **{ours: number(published, theirs, int) for ours, theirs in _SIZES.items()},
        max_position_embeddings=most,
        rms_norm_eps=number(published, "norm_eps", float),
        rope_theta=number(published, "rope_theta", float, _DEFAULT_THETA),
        **describe_windows(_windows(published, layers, most)),
        rope_scaling=rope_scaling,
        tie_word_embeddings=any(tied),
        bos_token_id=None,
        eos_token_ids=(),
    )


def _windows(published: dict[str, Any], layers: int, positions: int) -> Windows:
    """The window of each layer: one for all, or a list that is repeated over the layers.

    A window of a list that covers all positions is none. One of exactly as many is kept where
    other layers have none: Ministral-8B's config.json has as many positions as its params.json has
    rows in a window.

    Source: mistral-inference, pull request 230, "Add per-layer sliding window": args.py and
        ``get_cache_sizes`` of cache.py.
    """
    name = next((one for one in _WINDOWS if published.get(one) is not None), _WINDOWS[0])
    value = published.get(name)
    if value is None or not isinstance(value, list):
        return (None if value is None else number(published, name, int),) * layers
    if not value or layers % len(value):
        raise ConfigError(
            f"{name} has {len(value)} entries for {layers} layers (n_layers), expected a pattern "
            "that repeats to as many"
        )
    pattern = [None if each is None else int(number({name: each}, name, int)) for each in value]
    if any(each is not None and each < 1 for each in pattern):
        raise ConfigError(f"{name} is {shown(value)}; expected windows of at least 1, or null")
    found = [None if each is None or each > positions else each for each in pattern]
    if None not in found:
        found = [None if each == positions else each for each in found]
    return repeated(tuple(found), layers)


def _rope_scaling(published: dict[str, Any]) -> dict[str, Any]:
    """Parameters of ``yarn`` and ``llama_4_scaling`` in Hugging Face's words; empty: neither."""
    yarn, queries = _yarn(published), _query_scale(published)
    lengths = [one[ORIGINAL] for one in (yarn, queries) if one]
    if len(set(lengths)) > 1:
        raise ConfigError(
            f"yarn and llama_4_scaling have other original lengths ({shown(lengths)}), expected "
            "one; download the file again"
        )
    return ({KIND: "default"} if queries else {}) | queries | yarn


def _query_scale(published: dict[str, Any]) -> dict[str, Any]:
    """Parameters of ``llama_4_scaling``; empty where queries do not grow."""
    described = published_object(published, "llama_4_scaling")
    if not described:
        return {}
    if set(described) != set(_QUERIES.values()):
        raise ConfigError(
            f"llama_4_scaling has {shown(sorted(described))}, expected "
            f"{' and '.join(_QUERIES.values())}; export a folder in Hugging Face's layout"
        )
    found = {ours: number(described, theirs, float) for ours, theirs in _QUERIES.items()}
    return found if found[QUERY_SCALE] else {}


def _yarn(published: dict[str, Any]) -> dict[str, Any]:
    described = published_object(published, "yarn")
    if unknown := sorted(set(described) - {*_YARN.values(), _SCALES_ATTENTION}):
        raise ConfigError(
            f"yarn has {shown(unknown[0])}, expected {', '.join(_YARN.values())} or "
            f"{_SCALES_ATTENTION}: it may change the model; export a folder in Hugging Face's "
            "layout"
        )
    if not described:
        return {}
    for name in (_YARN["factor"], _YARN[ORIGINAL]):
        if described.get(name) is None:
            raise ConfigError(f"yarn has no {name}, expected a number; download the file again")
    found = {
        ours: described[theirs]
        for ours, theirs in _YARN.items()
        if described.get(theirs) is not None
    }
    if not flag(described, _SCALES_ATTENTION, default=True):
        found["attention_factor"] = 1.0
    return {KIND: "yarn", **found}


def _to_yarn(config: MistralConfig) -> dict[str, Any]:
    """Say the scaling of rope as ``params.json`` does; empty: there is none.

    Raises:
        ConfigError: it has no words for this one.
    """
    scaling = dict(config.rope_scaling)
    if not scaling:
        return {}
    beta, length = scaling.pop(QUERY_SCALE, 0), scaling.get(ORIGINAL)
    grown = dict(zip(_QUERIES.values(), (beta, length), strict=True))
    queries = {"llama_4_scaling": grown} if beta else {}
    if scaling == {KIND: "default", ORIGINAL: length}:
        return queries
    one, other = (scaling.pop(name, 0) for name in ("mscale", "mscale_all_dim"))
    if one and other:  # the attention factor is the ratio of what they give
        scaling["attention_factor"] = 1 if one == other else None
    scales = "attention_factor" not in scaling
    named = {theirs: scaling.pop(ours, None) for ours, theirs in _YARN.items()}
    kind, factor = scaling.pop(KIND), scaling.pop("attention_factor", 1)
    if kind != "yarn" or factor != 1 or scaling:
        raise ConfigError(
            f"{PARAMS_FILE}: rope is scaled by {shown(dict(config.rope_scaling))}, expected yarn "
            f"with {', '.join(_YARN)} alone; write Hugging Face's layout instead"
        )
    return {"yarn": {**named, _SCALES_ATTENTION: scales}, **queries}


def _refuse_quantization(described: Any) -> None:
    if described is None:
        return
    if not isinstance(described, dict) or "qformat_weight" not in described:
        raise ConfigError(
            f"quantization is {shown(described)}; expected an object with qformat_weight"
        )
    for name, value in described.items():
        if name not in _QUANTIZATION or value not in _QUANTIZATION[name]:
            raise ConfigError(
                f"{name} of quantization is {shown(value)}; expected float8 weights "
                f"({', '.join(map(str, _QUANTIZATION.get(name, _QUANTIZATION)))}); export the "
                "model before it was quantized"
            )


def _refuse_unsupported(published: dict[str, Any]) -> None:
    _refuse_quantization(published.get("quantization"))
    families = {k: family for k, family in BY_PARAMS_KEY.items() if published.get(k) is not None}
    if family := not_supported(published.get("model_type")):
        families["model_type"] = family
    if families:
        name, family = next(iter(families.items()))
        raise ConfigError(
            f"{family.explain(f'{name} ({shown(published[name])})')}; export a plain decoder"
        )
    for name, value in sorted(published.items()):
        if name in _KNOWN or value is None:
            continue
        if name in _ONLY_AS and value == _ONLY_AS[name]:
            continue
        raise ConfigError(
            f"{name} ({shown(value)}) is not supported: it may change the model; "
            "export a plain decoder, or a folder in Hugging Face's layout"
        )
