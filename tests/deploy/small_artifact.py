"""An artifact of a few bytes, for tests that run no graph."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from tramontane.runtime import manifest as manifests
from tramontane.runtime.cache import CacheLayout
from tramontane.runtime.contract import Geometry
from tramontane.runtime.memory import MemoryPlan
from tramontane.runtime.tokenizers.vocabulary import Vocabulary


def write_artifact(folder: Path, *, files: list[str], **changes: Any) -> Path:
    """Write files of a few bytes and their manifest; ``changes`` replaces its fields."""
    (folder / "onnx").mkdir(parents=True)
    for name in files:
        (folder / name).write_bytes(b"weights")
    manifest = manifests.Manifest(
        quant="fp32",
        target="ort",
        geometry=Geometry(
            num_key_value_heads=2,
            head_dim=16,
            vocab_size=64,
            layers=(CacheLayout(window=8, rows=24),),
            max_positions=512,
        ),
        vocabulary=Vocabulary(bos_token_id=1, eos_token_ids=(2,), add_bos_token=True),
        memory=MemoryPlan(
            weights_bytes=7,
            resident_weights_bytes=7,
            activation_bytes=1,
            runtime_bytes=1,
            cache_bytes_per_token=1,
            cache_bytes_at_most=24,
            resident_bytes=33,
            other_quants={},
        ),
        source={},
        tools={},
        tensors=[],
        origin={},
        tokenizer_json="made from tokenizer.model",
        files={name: manifests.describe_file(folder / name) for name in files},
    )
    manifests.write_manifest(folder, dataclasses.replace(manifest, **changes))
    return folder
