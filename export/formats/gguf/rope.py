"""Reads how a GGUF file scales rope and queries: keys, and the tensor of Llama 3's factors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ....runtime.errors import ConfigError
from ....runtime.untrusted.fields import shown
from ...files.metadata_fields import number
from ...rope_parameters import KIND, ORIGINAL, QUERY_SCALE
from .architectures import GgufArchitecture
from .file import GgufFile

FACTORS = "rope_freqs.weight"
_TYPE, _FACTOR = "rope.scaling.type", "rope.scaling.factor"
_LINEAR_FACTOR = "rope.scale_linear"  # before there were others
_LENGTH = "rope.scaling.original_context_length"
_BETAS = {"beta_fast": "rope.scaling.yarn_beta_fast", "beta_slow": "rope.scaling.yarn_beta_slow"}
_LOG_MULTIPLIER = "rope.scaling.yarn_log_multiplier"
KNOWN = {_TYPE, _FACTOR, _LINEAR_FACTOR, _LENGTH, *_BETAS.values(), _LOG_MULTIPLIER}
KNOWN |= {"rope.scaling.finetuned"}  # says how the model was trained
_BETA = "attention.temperature_scale"
# llama.cpp reads it for other architectures; for mistral3 it takes rope's original length.
_BETA_LENGTH = "attention.temperature_length"
KNOWN_OF_QUERIES = {_BETA, _BETA_LENGTH}
_KINDS = ("none", "linear", "yarn")
# What Llama 3.1 to 3.3 have beside the factor, which the tensor shows: it holds frequencies alone.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, ORIGINAL: 8192}
_EQUAL = 1e-5  # relative; the converter computes them in float64 and stores float32


def read_scaling(
    file: GgufFile, own: Mapping[str, Any], known: GgufArchitecture, *, theta: float
) -> dict[str, Any]:
    """Parameters of rope besides theta, in Hugging Face's words; empty: it is not scaled.

    Args:
        file: for the tensor.
        own: metadata without the architecture's prefix.
        known: the architecture.
        theta: rope's.

    Raises:
        ConfigError: a kind or factors that are not supported.

    Source: llama.cpp 0c1e57098, src/llama-model.cpp for the keys and what a missing one means,
        src/llama-context.cpp for the factor on attention of yarn.
    """
    if FACTORS in file.tensors and not known.has_factors:
        raise ConfigError(
            f"tensor {FACTORS} divides the frequencies of rope, expected none of architecture "
            f"{known.name!r}; export the folder that the file was converted from"
        )
    kind = own.get(_TYPE, "linear")
    if kind not in _KINDS:
        raise ConfigError(f"{_TYPE} is {shown(kind)}; expected one of {', '.join(_KINDS)}")
    factor = number(own, _FACTOR, float, 0.0) or number(own, _LINEAR_FACTOR, float, 0.0) or 1.0
    if kind == "yarn" and factor == 1:
        raise ConfigError(
            f"{_TYPE} is 'yarn' and {_FACTOR} is 1, as it is where the key is missing, expected "
            "the factor; export the folder that the file was converted from"
        )
    if kind == "none" or (kind == "linear" and factor == 1):
        return _of_tensor(file, theta) | _of_queries(own, known)
    if FACTORS in file.tensors:
        raise ConfigError(
            f"{_TYPE} is {kind!r} and tensor {FACTORS} divides the frequencies too, expected one "
            "of the two; export the folder that the file was converted from"
        )
    if kind == "linear":
        return {KIND: kind, "factor": factor, **_of_queries(own, known)}
    scaling: dict[str, Any] = {KIND: kind, "factor": factor, ORIGINAL: _original(own)}
    scaling |= {ours: own[theirs] for ours, theirs in _BETAS.items() if theirs in own}
    if weight := number(own, _LOG_MULTIPLIER, float, 0.0):
        scaling |= {"mscale": 1.0, "mscale_all_dim": weight}
    return scaling | _of_queries(own, known)


def _original(own: Mapping[str, Any]) -> Any:
    return own.get(_LENGTH) or own.get("context_length")


def _of_queries(own: Mapping[str, Any], known: GgufArchitecture) -> dict[str, Any]:
    """How much queries grow with their position; empty: not at all.

    Raises:
        ConfigError: after another length than rope's original one.

    Source: llama.cpp 0c1e57098, src/models/mistral3.cpp, ``llm_graph_input_attn_temp`` of
        src/llama-graph.cpp.
    """
    if not known.scales_queries or not (beta := number(own, _BETA, float, 0.0)):
        return {}
    original = _original(own)
    if (length := own.get(_BETA_LENGTH)) and length != original:
        raise ConfigError(
            f"{_BETA_LENGTH} is {shown(length)}, expected {shown(original)}, rope's original "
            "length, or no such key; export the folder that the file was converted from"
        )
    return {QUERY_SCALE: beta, ORIGINAL: original}


def _of_tensor(file: GgufFile, theta: float) -> dict[str, Any]:
    """Llama 3's parameters, where they give the factors of the tensor."""
    if FACTORS not in file.tensors:
        return {}
    tensor = file.tensors[FACTORS]
    found = np.concatenate([part.reshape(-1) for part in tensor.slices(1 << 20)])
    factor = float(found.max(initial=1.0))
    if not math.isfinite(factor) or not np.allclose(
        found, _llama3_factors(factor, theta, len(found)), rtol=_EQUAL, atol=0
    ):
        raise ConfigError(
            f"tensor {FACTORS} divides the frequencies of rope by {shown(found.tolist())}, "
            f"expected the factors of Llama 3.1 to 3.3 ({_LLAMA3}); export the folder that the "
            "file was converted from"
        )
    return {KIND: "llama3", "factor": factor, **_LLAMA3}


def _llama3_factors(factor: float, theta: float, count: int) -> np.ndarray:
    """By what each frequency is divided. Source: llama.cpp, conversion/llama.py."""
    low, high, original = (float(value) for value in _LLAMA3.values())
    periods = 2 * np.pi * theta ** (np.arange(count) / count)  # in positions
    share = (original / periods - low) / (high - low)
    blended = 1 / ((1 - share) / factor + share)
    factors = np.where(periods > original / low, factor, blended)
    return np.where(periods < original / high, 1.0, factors)
