"""A checkpoint with the rope and the query scale of Ministral 3, made of a model without them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ..export.formats.huggingface import CONFIG_FILE, read_config_json

# As published, but for the lengths, which a small model and its job reach.
_SCALED = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}


def make_ministral3(source: Path, folder: Path) -> Path:
    """Write a checkpoint with the weights and the tokenizer of a Llama or Mistral.

    Args:
        source: folder in Hugging Face's layout.
        folder: must not exist.
    """
    folder.mkdir()
    for path in source.iterdir():
        shutil.copyfile(path, folder / path.name)
    config = json.loads((folder / CONFIG_FILE).read_bytes())
    config["architectures"], config["model_type"] = ["Ministral3ForCausalLM"], "ministral3"
    config["rope_parameters"] = {**_SCALED, "rope_theta": read_config_json(source).rope_theta}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2), encoding="utf-8")
    return folder
