"""Writes a checkpoint of random weights, as large as a known model.

Files, names and order are as published, the numbers are random: for trying an export, or measuring
it, where the real weights are not at hand. One slice of one tensor is in memory at a time for
each thread.
"""

from __future__ import annotations

import functools
import json
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from huggingface_hub import split_state_dict_into_shards_factory

from ...runtime.contract import TOKENIZER_FILE
from ...runtime.errors import ConfigError
from ..config import MistralConfig
from ..formats.huggingface import CONFIG_FILE, to_hugging_face
from ..formats.mistral import PARAMS_FILE, to_params_json
from ..formats.rope_layout import halves_to_pairs
from ..formats.tensor_names import HEAD, HUGGING_FACE, MISTRAL, Naming, is_rotated, parameters
from ..known_models import find_geometry, shorten
from .atomic_folder import new_checkpoint_folder
from .byte_tokenizer import byte_tokenizer
from .random_weights import RandomTensor, random_tensor
from .safetensors_stream import TensorEntry, write_safetensors

DEFAULT_SHARD_BYTES = 5 * 10**9  # as transformers does
_SPARE_BYTES = 16 << 20  # for the tokenizer, the index and the headers
_MOST_THREADS = 8  # more would only wait for the disk, each with some MiB in hand
_DTYPES: dict[str, tuple[str, Any]] = {
    "bfloat16": ("BF16", ml_dtypes.bfloat16),
    "float16": ("F16", np.float16),
    "float32": ("F32", np.float32),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SynthesizedCheckpoint:
    """What was written, and where."""

    folder: Path
    num_parameters: int
    num_bytes: int  # of all files
    num_files: int


def synthesize(
    geometry: str,
    out: Path,
    *,
    layers: int | None = None,
    layout: str = "huggingface",
    dtype: str = "bfloat16",
    seed: int = 0,
    max_shard_bytes: int | None = None,
) -> SynthesizedCheckpoint:
    """Write a checkpoint folder with seeded, random weights and a tokenizer.

    Equal options give equal bytes. A parameter's numbers follow from the geometry, the seed and
    its name: layouts and shards agree on them, and fewer layers are the first of all.

    Args:
        geometry: a name in ``geometries.GEOMETRIES``.
        out: the folder, which must be new or empty; it takes its name when it is whole.
        layers: only the first of them.
        layout: ``huggingface`` or ``mistral``.
        dtype: ``bfloat16``, ``float16`` or ``float32``; rounded to the nearest, ties to even.
        seed: another one gives another model.
        max_shard_bytes: no file of weights is larger, unless one tensor is; Hugging Face's layout
            alone is cut, at 5 GB unless it is given.

    Raises:
        ConfigError: one of the options has no such value.
        CheckpointError: the folder is occupied, or the disk has too little room.
    """
    whole = find_geometry(geometry)
    config = whole if layers is None else shorten(whole, layers)
    naming, shards = _plan(config, layout=layout, dtype=dtype, max_shard_bytes=max_shard_bytes)
    tokenizer = byte_tokenizer(config.vocab_size)
    needed_bytes = sum(entry.num_bytes for shard in shards.values() for entry in shard)
    parameter_of = {naming.published(name): name for name in parameters(config)}
    with (
        new_checkpoint_folder(out, needed_bytes + _SPARE_BYTES) as folder,
        ThreadPoolExecutor(_num_threads()) as pool,
    ):

        def pieces(entry: TensorEntry) -> Iterator[memoryview]:
            parameter = parameter_of[entry.name]
            tensor = random_tensor(parameter, config=whole, seed=seed)
            is_reordered = naming.rope == "pairs" and is_rotated(parameter)
            return _pieces(pool, tensor, dtype, config.head_dim if is_reordered else None)

        for name, shard in shards.items():
            write_safetensors(folder / name, shard, pieces)
        for name, content in _descriptions(config, shards, layout=layout, dtype=dtype).items():
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        (folder / TOKENIZER_FILE).write_bytes(tokenizer)
    sizes = [path.stat().st_size for path in out.iterdir()]
    return SynthesizedCheckpoint(
        folder=out,
        num_parameters=config.num_parameters,
        num_bytes=sum(sizes),
        num_files=len(sizes),
    )


def _plan(
    config: MistralConfig, *, layout: str, dtype: str, max_shard_bytes: int | None
) -> tuple[Naming, dict[str, list[TensorEntry]]]:
    """Names as the layout has them, and which file holds which tensors."""
    if dtype not in _DTYPES:
        raise ConfigError(f"--dtype {dtype}: expected one of {', '.join(_DTYPES)}")
    if layout not in ("huggingface", "mistral"):
        raise ConfigError(f"--layout {layout}: expected huggingface or mistral")
    if layout == "mistral":
        to_params_json(config)  # before anything is written: it refuses what it has no words for
    naming = HUGGING_FACE if layout == "huggingface" else MISTRAL
    entries = [
        TensorEntry(name=naming.published(parameter), dtype=_DTYPES[dtype][0], shape=shape)
        for parameter, shape in parameters(config).items()
        if parameter != HEAD or not config.tie_word_embeddings
    ]
    if layout == "mistral":
        if max_shard_bytes is not None:
            raise ConfigError(
                f"--max-shard {max_shard_bytes}: Mistral's layout is one file, expected none; "
                "leave it out"
            )
        return naming, {"consolidated.safetensors": entries}
    by_name = {entry.name: entry for entry in entries}
    split = split_state_dict_into_shards_factory(
        by_name,
        get_storage_size=lambda entry: entry.num_bytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=DEFAULT_SHARD_BYTES if max_shard_bytes is None else max_shard_bytes,
    )
    return naming, {
        name: [by_name[one] for one in held] for name, held in split.filename_to_tensors.items()
    }


def _descriptions(
    config: MistralConfig, shards: dict[str, list[TensorEntry]], *, layout: str, dtype: str
) -> dict[str, dict[str, Any]]:
    """Content by name of the JSON files beside the weights."""
    if layout == "mistral":
        return {PARAMS_FILE: to_params_json(config)}
    described = {CONFIG_FILE: {**to_hugging_face(config), "dtype": dtype}}
    if len(shards) > 1:
        total_bytes = sum(entry.num_bytes for shard in shards.values() for entry in shard)
        described["model.safetensors.index.json"] = {
            "metadata": {"total_size": total_bytes},
            "weight_map": {entry.name: name for name, shard in shards.items() for entry in shard},
        }
    return described


def _pieces(
    pool: ThreadPoolExecutor, tensor: RandomTensor, dtype: str, head_dim: int | None
) -> Iterator[memoryview]:
    """Slices in order, while the next ones are computed: as many as there are threads."""
    pending: deque[Future[memoryview]] = deque()
    for index in range(tensor.num_slices):
        pending.append(pool.submit(_piece, tensor, index, dtype, head_dim))
        if len(pending) > _num_threads():
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _piece(tensor: RandomTensor, index: int, dtype: str, head_dim: int | None) -> memoryview:
    values = tensor.compute(index)
    if head_dim is not None:
        values = halves_to_pairs(values, head_dim=head_dim)
    return values.astype(_DTYPES[dtype][1], copy=False).reshape(-1).view(np.uint8).data


@functools.cache
def _num_threads() -> int:
    return min(os.cpu_count() or 1, _MOST_THREADS)
