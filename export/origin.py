"""Under which name and licence was a checkpoint published?"""

from __future__ import annotations

import re
from typing import Any

from huggingface_hub.repocard import metadata_load

from ..errors import CheckpointError, ConfigError
from ..runtime.contract import CARD_FILE
from .checkpoint import Checkpoint
from .gguf_file import read_gguf
from .layouts import Layout

# What a model card's metadata says that holds for an artifact too.
_CARRIED = ("language", "license", "license_link", "license_name")
# A hub's cache keeps ORG/NAME in a folder of this name, above the snapshots.
_CACHED = re.compile(r"models--(?P<organization>[^/]+?)--(?P<name>[^/]+)")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def read_origin(checkpoint: Checkpoint, *, base_model: str | None = None) -> dict[str, Any]:
    """What an artifact's model card carries over from the checkpoint.

    Args:
        checkpoint: its model card, or a GGUF file's metadata, is read.
        base_model: the repository that it came from, ``ORGANIZATION/NAME``; None: known only
            where the checkpoint lies in a hub's cache.

    Returns:
        ``name``; where known ``base_model``, ``license`` and what belongs to it, ``language``.

    Raises:
        CheckpointError: the model card's metadata cannot be read.
        ConfigError: the base model is not named as a repository is.

    Source: Hugging Face Hub, model cards; ggml, docs/gguf.md, ``general.license``.
    """
    if base_model is not None and not _REPOSITORY.fullmatch(base_model):
        raise ConfigError(f"--base-model {base_model}: expected ORGANIZATION/NAME, as on a hub")
    path = checkpoint.path.absolute()
    cached = next(filter(None, map(_CACHED.fullmatch, path.parts)), None)
    name = path.stem if checkpoint.layout is Layout.GGUF else path.resolve().name
    if cached is not None:
        name = cached["name"]
        base_model = base_model or f"{cached['organization']}/{name}"
    origin = {"name": name, **_published(checkpoint)}
    return origin if base_model is None else {**origin, "base_model": base_model}


def _published(checkpoint: Checkpoint) -> dict[str, Any]:
    if checkpoint.layout is Layout.GGUF:
        license_ = read_gguf(checkpoint.path).metadata.get("general.license")
        return {"license": license_} if isinstance(license_, str) else {}
    card = checkpoint.path / CARD_FILE
    if not card.is_file():
        return {}
    try:
        metadata = metadata_load(card) or {}
    except Exception as error:  # YAML's errors, and one of the hub's own
        raise CheckpointError(
            f"{card}: its metadata cannot be read ({error}); mend or remove it"
        ) from error
    return {name: metadata[name] for name in _CARRIED if name in metadata}
