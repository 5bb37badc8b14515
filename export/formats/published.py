"""A model as it lies on disk: its layout, config, tensors and tokenizer, not yet checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from ..config import MistralConfig
from ..files.held_files import HeldFiles
from ..published_tokenizer.tokenizer_files import PublishedTokenizer
from .tensor_names import Naming
from .weight_files.stored_tensor import TensorSource


class Layout(StrEnum):
    """How a model is laid out on disk; the value is for people."""

    HUGGING_FACE = "Hugging Face"
    MISTRAL = "Mistral"
    GGUF = "GGUF"


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A model as it lies on disk, not yet checked against its config."""

    path: Path  # folder or file that it was read from
    layout: Layout
    config: MistralConfig
    described_in: str  # what the config was read from, as messages name it
    naming: Naming
    types: tuple[str, ...]  # of tensors, that can be read
    tensors: Mapping[str, TensorSource]
    files: tuple[Path, ...]  # all that it was read from, and all that decide its tokens
    held: HeldFiles  # these, and what was read beside them
    read_tokenizer: Callable[[], PublishedTokenizer]
    quantization: Mapping[str, Any] = field(default_factory=dict)  # quantization_config
    twice: Mapping[str, str] = field(default_factory=dict)  # why a tensor cannot be read, by name
    notes: tuple[str, ...] = ()  # for the user, on files that were not read
    metadata: Mapping[str, Any] = field(default_factory=dict)  # of a GGUF file
