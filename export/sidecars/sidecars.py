"""Writes the files that other runtimes and hubs read, besides graph and tokenizer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ...console.progress import say
from ...graphs.targets.target import Target
from ...runtime.contract import DATA_FILE, MODEL_FILE, TOKENIZER_FILE, TOKENIZER_JSON_FILE
from ...runtime.manifest import to_json
from ...runtime.ort.cpu_features import multiplies_int8
from ...runtime.tokenizers.vocabulary import Vocabulary
from ...runtime.untrusted.fields import shown
from ..cache_choice import WINDOWED, CacheChoice, geometry_of
from ..config import MistralConfig
from ..files.metadata_fields import read_json_object
from ..formats.checkpoint import Checkpoint
from ..formats.huggingface import CONFIG_FILE, to_hugging_face
from ..published_tokenizer.spelling import write_ids
from ..tokenizer.special_tokens import GENERATION_FILE
from .genai_config import GENAI_CONFIG_FILE, genai_config, genai_obstacle

ATTRIBUTES_FILE = ".gitattributes"
# Without these a runtime takes another model for it, or stops; a checkpoint may leave them out.
_NEEDED = (
    "architectures",
    "model_type",
    "num_key_value_heads",
    "sliding_window",
    "use_sliding_window",
    "max_window_layers",
    "layer_types",
    "layer_windows",
)
_LARGE = ("*.onnx", f"{Path(DATA_FILE).name}*", TOKENIZER_FILE)
_LARGEST_IN_GIT = 10 << 20  # bytes of a file that the Hub takes without LFS


def write_sidecars(
    weights: Checkpoint,
    folder: Path,
    config: MistralConfig,
    vocabulary: Vocabulary,
    *,
    target: Target,
    cache: CacheChoice = WINDOWED,
) -> None:
    """Write all sidecar files beside the folder of graph and data files, and the tokenizer.

    Args:
        weights: the checkpoint; what it published is carried over.
        folder: the artifact's.
        config: the architecture with the window that was exported.
        vocabulary: start and end tokens.
        target: whose graph it is.
        cache: how keys and values are held.
    """
    graph = folder / MODEL_FILE
    num_data_files = len(list(folder.glob(f"{DATA_FILE}*")))
    tokens = write_ids(bos=vocabulary.bos_token_id, eos=vocabulary.eos_token_ids)
    generation = _generation(weights)
    contents = {
        CONFIG_FILE: _config(weights, config, cache, num_data_files) | tokens,
        GENERATION_FILE: generation | tokens,
    }
    if obstacle := genai_obstacle(geometry_of(config, cache), target):
        say(f"{GENAI_CONFIG_FILE}: not written: {obstacle}")
    else:
        contents[GENAI_CONFIG_FILE] = genai_config(
            config,
            vocabulary,
            target=target,
            cache=cache,
            pad_token_id=_pad_token(weights, generation),
            multiplies_int8=graph.is_file() and multiplies_int8(graph.read_bytes()),
        )
    _tell_of_changes(weights.path / CONFIG_FILE, weights.config_json() or {}, tokens)
    _tell_of_changes(weights.path / GENERATION_FILE, generation, tokens)
    for name, content in contents.items():
        kept = _without_non_finite(content, str(weights.path / name))
        (folder / name).write_text(to_json(kept), encoding="utf-8")
    vocabulary_file = folder / TOKENIZER_JSON_FILE
    is_large = vocabulary_file.is_file() and vocabulary_file.stat().st_size > _LARGEST_IN_GIT
    large = (*_LARGE, TOKENIZER_JSON_FILE) if is_large else _LARGE
    attributes = "".join(f"{name} filter=lfs diff=lfs merge=lfs -text\n" for name in large)
    (folder / ATTRIBUTES_FILE).write_text(attributes, encoding="utf-8")


def _without_non_finite(content: Any, where: str) -> Any:
    """Replace NaN and infinity, which Python reads as JSON and browsers do not, by null."""
    if isinstance(content, dict):
        return {
            name: _without_non_finite(value, f"{where}: {shown(name)}")
            for name, value in content.items()
        }
    if isinstance(content, list):
        return [_without_non_finite(one, where) for one in content]
    if isinstance(content, float) and not math.isfinite(content):
        say(f"{where}: {content} is no number in JSON; the artifact's file has null")
        return None
    return content


def _tell_of_changes(path: Path, published: dict[str, Any], tokens: dict[str, Any]) -> None:
    """Say where the artifact's file names other tokens than the checkpoint's own."""
    deciders = {
        "bos_token_id": "the tokenizer decides, as in transformers",
        "eos_token_id": f"{GENERATION_FILE} decides, as in transformers",
    }
    for name, decider in deciders.items():
        own, ours = published.get(name), tokens[name]
        if name in published and own not in (ours, [ours]):
            say(f"{path}: {name} is {shown(own)}; the artifact has {ours} ({decider})")


def _config(
    weights: Checkpoint, config: MistralConfig, cache: CacheChoice, num_data_files: int
) -> dict[str, Any]:
    """config.json carried over, or made; a window that was asked for makes a Llama a Mistral.

    Source: transformers.js 4, ``TransformersJSConfig``. Its dtype is a suffix of the graph's name,
    and ``fp32`` is none, however many bits the weights have.
    """
    published, own = weights.config_json(), to_hugging_face(config)
    if published is None:
        published = own
    else:
        published |= {name: own[name] for name in _NEEDED if name in own}
    in_javascript: dict[str, Any] = {"dtype": "fp32", "kv_cache_dtype": cache.dtype}
    if num_data_files:
        in_javascript["use_external_data_format"] = {Path(MODEL_FILE).name: num_data_files}
    return {**published, "transformers.js_config": in_javascript}


def _generation(weights: Checkpoint) -> dict[str, Any]:
    """generation_config.json as published; empty where there is none."""
    published = weights.beside(GENERATION_FILE)
    if published is None:
        return {}
    return read_json_object(published)


def _pad_token(weights: Checkpoint, generation: dict[str, Any]) -> int | None:
    """The token that pads as published, where the model scores it; None: an end token does.

    Source: transformers 5.23, ``GenerationMixin._prepare_special_tokens``.
    """
    for described in (generation, weights.config_json() or {}):
        token = described.get("pad_token_id")
        if type(token) is int and 0 <= token < weights.config.vocab_size:
            return token
    return None
