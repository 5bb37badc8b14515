"""Architectures of GGUF files: what each name of ``general.architecture`` stands for."""

from __future__ import annotations

from dataclasses import dataclass

from ....runtime.errors import ConfigError
from ....runtime.untrusted.fields import shown
from ...architectures.architecture import Architecture
from ...architectures.mistral import LLAMA, MISTRAL
from ...architectures.not_supported import not_supported
from ...architectures.qwen import QWEN2, QWEN3
from ...architectures.smollm3 import SMOLLM3
from ...config import MistralConfig
from ..rope_layout import RopeLayout

KEY = "general.architecture"


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufArchitecture:
    """One name of ``general.architecture``, and how llama.cpp computes its files."""

    name: str
    same: Architecture  # in ``config.json``; what no key says, such as layers without rope, is its
    rope: RopeLayout  # of the rows of queries and keys
    has_window: bool = False  # a key may give one, for all layers
    has_factors: bool = False  # a tensor may divide rope's frequencies (Llama 3.1)
    scales_queries: bool = False  # by their position, where a key gives the factor


# Source: llama.cpp 0c1e57098: conversion/ for what is written, src/models/ for what is computed,
# ``llama_model_rope_type`` of src/llama-model.cpp for the order of rows.
GGUF_ARCHITECTURES = {
    one.name: one
    for one in (
        # The converter writes Llama and Mistral alike.
        GgufArchitecture(
            name="llama", same=LLAMA, rope="pairs", has_window=True, has_factors=True
        ),
        # Ministral 3 and Devstral 2, and Mistral Small 3.1 and 3.2, which scale nothing.
        GgufArchitecture(name="mistral3", same=MISTRAL, rope="pairs", scales_queries=True),
        GgufArchitecture(name="qwen2", same=QWEN2, rope="halves"),
        GgufArchitecture(name="qwen3", same=QWEN3, rope="halves"),
        GgufArchitecture(name="smollm3", same=SMOLLM3, rope="pairs"),
    )
}


def gguf_architecture(named: object) -> GgufArchitecture:
    """Look up what ``general.architecture`` names.

    Raises:
        ConfigError: it is not supported; where the family is known, with what it would need.
    """
    if isinstance(named, str) and named in GGUF_ARCHITECTURES:
        return GGUF_ARCHITECTURES[named]
    supported = ", ".join(GGUF_ARCHITECTURES)
    if family := not_supported(named):
        raise ConfigError(f"{family.explain(f'{KEY} {shown(named)}')}; supported are {supported}")
    raise ConfigError(
        f"{KEY} is {shown(named)}, expected one of {supported}; export the folder that the file "
        "was converted from, if its architecture is supported there"
    )


def written_as(config: MistralConfig) -> GgufArchitecture | None:
    """The name under which llama.cpp computes this model; None where there is none."""
    layers = config.num_hidden_layers
    for one in GGUF_ARCHITECTURES.values():
        if config.architecture not in (one.same.name, one.same.with_window):
            continue
        if config.sliding_window is not None and (config.layer_windows or not one.has_window):
            continue
        if config.unrotated_layers == one.same.unrotated_layers({}, layers):
            return one
    return None
