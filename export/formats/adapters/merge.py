"""Merges one LoRA adapter into a base model's tensors, which are computed when they are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from ....runtime.errors import CheckpointError
from ...config import MistralConfig
from ..tensor_names import EMBEDDING, HEAD, HUGGING_FACE, Naming, is_rotated, parameters
from ..weight_files.stored_tensor import TensorSource
from .adapter import Adapter, Low
from .merged_tensor import MergedTensor

_ENDS = (EMBEDDING, HEAD)
_COMPARED_ROWS = 256  # at once


def merge(
    adapter: Adapter,
    config: MistralConfig,
    sources: Mapping[str, TensorSource],
    naming: Naming,
) -> tuple[MistralConfig, dict[str, TensorSource]]:
    """Add an adapter to the base model's tensors.

    A tied head that the adapter changes, or whose embedding it changes, is a weight of its own
    from then on, as in PEFT; where the adapter holds both and they are equal, it stays tied.

    Args:
        adapter: what to add.
        config: of the base model.
        sources: its tensors by parameter; a tied head is the embedding's.
        naming: how the base model orders rows.

    Returns:
        The config with the vocabulary and the tying of the merged model, and its tensors.

    Raises:
        CheckpointError: the adapter is of another model: a module or a shape is not the base's.
    """
    by_module = {
        HUGGING_FACE.published(name).removesuffix(".weight"): name for name in parameters(config)
    }
    for module in sorted({*adapter.low, *adapter.saved} - set(by_module)):
        raise CheckpointError(
            f"{adapter.folder}: {module} is no module of the base model, expected one such as "
            f"{next(name for name in by_module if 'q_proj' in name)}; check that the adapter was "
            "trained on this model"
        )
    merged = dict(sources)
    for module, tensor in adapter.saved.items():
        _save(merged, by_module[module], tensor, adapter, module, config, naming)
    for module, low in adapter.low.items():
        name = by_module[module]
        merged[name] = _add(merged[name], name, low, adapter, module, config, naming)
    return _settled(adapter, config, sources, merged)


def _save(
    merged: dict[str, TensorSource],
    name: str,
    tensor: TensorSource,
    adapter: Adapter,
    module: str,
    config: MistralConfig,
    naming: Naming,
) -> None:
    """Put an adapter's whole weight in the place of the base model's."""
    expected = merged[name].shape
    found = tensor.shape[1:] if name in _ENDS else tensor.shape
    if found != (expected[1:] if name in _ENDS else expected):
        raise _misshapen(adapter, tensor, expected)
    if naming.rope == "pairs" and is_rotated(name):
        raise CheckpointError(
            f"{tensor.path}: {tensor.name} is a whole matrix of queries or keys, and the base "
            f"model has rope layout pairs, expected Hugging Face's layout for both; name the base "
            "model's folder in that layout"
        )
    is_tied = config.tie_word_embeddings and merged[HEAD] is merged[EMBEDDING]
    if name == EMBEDDING and is_tied and not adapter.config.saves(module):
        merged[HEAD] = tensor  # the base's own weight, resized: the head shares it
    merged[name] = tensor


def _add(
    base: TensorSource,
    name: str,
    low: Low,
    adapter: Adapter,
    module: str,
    config: MistralConfig,
    naming: Naming,
) -> MergedTensor:
    """Add two matrices to a weight."""
    rank = adapter.config.rank_of(module)
    if len(base.shape) != 2 or low.is_embedding != (name == EMBEDDING):
        raise CheckpointError(
            f"{low.a.path}: {low.a.name} is of another kind than the base model's {module}; check "
            "that the adapter was trained on this model"
        )
    rows, columns = base.shape[::-1] if low.is_embedding else base.shape
    for tensor, expected in ((low.a, (rank, columns)), (low.b, (rows, rank))):
        if tensor.shape != expected:
            raise _misshapen(adapter, tensor, expected)
    is_paired = naming.rope == "pairs" and is_rotated(name)
    return MergedTensor(
        base=base,
        a=low.a,
        b=low.b,
        scale=adapter.config.scale_of(module),
        is_embedding=low.is_embedding,
        pairs_of=config.head_dim if is_paired else None,
    )


def _settled(
    adapter: Adapter,
    config: MistralConfig,
    sources: Mapping[str, TensorSource],
    merged: dict[str, TensorSource],
) -> tuple[MistralConfig, dict[str, TensorSource]]:
    """The config that the merged ends imply."""
    embedding, head = (merged[name] for name in _ENDS)
    if embedding.shape != head.shape:
        raise CheckpointError(
            f"{adapter.folder}: {embedding.name} has {embedding.shape[0]} tokens and {head.name} "
            f"has {head.shape[0]}, expected as many; save both with the adapter "
            "(save_embedding_layers=True in PEFT)"
        )
    is_tied = config.tie_word_embeddings and (
        head is embedding or (merged[HEAD] is not sources[HEAD] and _are_equal(embedding, head))
    )
    if is_tied:
        merged[HEAD] = embedding
    vocab_size = embedding.shape[0]
    return (
        dataclasses.replace(config, vocab_size=vocab_size, tie_word_embeddings=is_tied),
        merged,
    )


def _are_equal(one: TensorSource, other: TensorSource) -> bool:
    pairs = zip(one.slices(_COMPARED_ROWS), other.slices(_COMPARED_ROWS), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def _misshapen(
    adapter: Adapter, tensor: TensorSource, expected: tuple[int, ...]
) -> CheckpointError:
    return CheckpointError(
        f"{tensor.path}: {tensor.name} has shape {tensor.shape}, the base model and "
        f"{adapter.folder.name}'s config imply {expected}; check that the adapter was trained on "
        "this model"
    )
