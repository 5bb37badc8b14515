"""Configs as Hugging Face publishes them, and changes to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tramontane.export.config import MistralConfig
from tramontane.export.formats.layouts import read_config

MISTRAL = {
    "architectures": ["MistralForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 2048,
}
LLAMA = {**MISTRAL, "architectures": ["LlamaForCausalLM"]}
MISSING = object()
HUGE = 10**400


def read(folder: Path, base: dict[str, Any] = MISTRAL, **changes: Any) -> MistralConfig:
    published = {k: v for k, v in {**base, **changes}.items() if v is not MISSING}
    (folder / "config.json").write_text(json.dumps(published))
    return read_config(folder)
