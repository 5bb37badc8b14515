"""Which files besides graph and tokenizer do other runtimes and hubs read of an artifact?"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ..runtime.contract import DATA_FILE, MODEL_FILE
from ..runtime.manifest import Vocabulary, to_json
from .checkpoint import Checkpoint
from .config import MistralConfig, read_json_object
from .config_json import CONFIG_FILE, to_hugging_face
from .genai_config import GENAI_CONFIG_FILE, genai_config

GENERATION_FILE = "generation_config.json"
ATTRIBUTES_FILE = ".gitattributes"
# Without these a runtime takes another model for it, or stops; a checkpoint may leave them out.
_NEEDED = ("architectures", "model_type", "num_key_value_heads", "sliding_window")
_LARGE = ("*.onnx", f"{Path(DATA_FILE).name}*", "tokenizer.model")


def write_companions(
    weights: Checkpoint,
    folder: Path,
    config: MistralConfig,
    vocabulary: Vocabulary,
    *,
    target: str,
) -> None:
    """Write all of them, beside the graph's folder; its data files lie there already.

    Args:
        weights: the checkpoint; what it published is carried over.
        folder: the artifact's.
        config: the architecture with the window that was exported.
        vocabulary: start and end tokens.
        target: as in ``recipe.TARGETS``.
    """
    num_data_files = len(list(folder.glob(f"{DATA_FILE}*")))
    contents = {
        CONFIG_FILE: _config(weights, config, vocabulary, num_data_files),
        GENERATION_FILE: _generation(weights, vocabulary),
        GENAI_CONFIG_FILE: genai_config(config, vocabulary, target=target),
    }
    for name, content in contents.items():
        (folder / name).write_text(to_json(content), encoding="utf-8")
    attributes = "".join(f"{name} filter=lfs diff=lfs merge=lfs -text\n" for name in _LARGE)
    (folder / ATTRIBUTES_FILE).write_text(attributes, encoding="utf-8")


def _config(
    weights: Checkpoint, config: MistralConfig, vocabulary: Vocabulary, num_data_files: int
) -> dict[str, Any]:
    """config.json carried over, or made; a window that was asked for makes a Llama a Mistral.

    Source: transformers.js 4, ``TransformersJSConfig``. Its dtype is a suffix of the graph's name,
    and ``fp32`` is none, however many bits the weights have.
    """
    published = weights.config_json()
    if published is None:
        published = to_hugging_face(
            dataclasses.replace(
                config,
                bos_token_id=vocabulary.bos_token_id,
                eos_token_ids=vocabulary.eos_token_ids,
            )
        )
    else:
        told = to_hugging_face(config)
        published |= {name: told[name] for name in _NEEDED if name in told}
    in_javascript: dict[str, Any] = {"dtype": "fp32", "kv_cache_dtype": config.cache_dtype}
    if num_data_files:
        in_javascript["use_external_data_format"] = {Path(MODEL_FILE).name: num_data_files}
    return {**published, "transformers.js_config": in_javascript}


def _generation(weights: Checkpoint, vocabulary: Vocabulary) -> dict[str, Any]:
    """generation_config.json carried over; where there is none, start and end tokens alone."""
    published = weights.path / GENERATION_FILE
    if published.is_file():
        return read_json_object(published)
    ends = list(vocabulary.eos_token_ids)
    named = {
        "bos_token_id": vocabulary.bos_token_id,
        "eos_token_id": ends if len(ends) > 1 else next(iter(ends), None),
    }
    return {name: value for name, value in named.items() if value is not None}
