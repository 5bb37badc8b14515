"""The manifest of a tiny artifact; a test changes the fields that it is about."""

from __future__ import annotations

import dataclasses
from typing import Any

from tramontane.runtime.cache import CacheLayout
from tramontane.runtime.contract import Geometry
from tramontane.runtime.manifest import Manifest
from tramontane.runtime.memory import MemoryPlan
from tramontane.runtime.tokenizers.vocabulary import Vocabulary

GEOMETRY = Geometry(
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=64,
    layers=(CacheLayout(window=8, rows=24),),
    max_positions=512,
)
# 1100 bytes besides the cache, and a byte for each token.
MEMORY = MemoryPlan(
    weights_bytes=900,
    resident_weights_bytes=1000,
    activation_bytes=60,
    runtime_bytes=40,
    cache_bytes_per_token=1,
    cache_bytes_at_most=24,
    resident_bytes=1100 + 24,
    other_quants={"int8": 800},
)


def tiny_manifest(**changes: Any) -> Manifest:
    """Of one layer in float32, without files; ``changes`` replaces fields."""
    manifest = Manifest(
        quant="fp32",
        target="ort",
        geometry=GEOMETRY,
        vocabulary=Vocabulary(bos_token_id=1, eos_token_ids=(2,), add_bos_token=True),
        memory=MEMORY,
        source={},
        tools={},
        tensors=[],
        origin={"name": "tiny"},
        tokenizer_json="made from tokenizer.model",
    )
    return dataclasses.replace(manifest, **changes)
