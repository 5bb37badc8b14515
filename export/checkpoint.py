"""Which published tensor fills which parameter?"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from ..errors import CheckpointError
from ..runtime.contract import TOKENIZER_FILE
from ..runtime.manifest import describe_file
from .config import CONFIG_FILE, MistralConfig

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

# Our parameter, the published tensor, and its sizes: V vocabulary, M hidden, F intermediate,
# Q query heads * head size, K key/value heads * head size.
# Source: transformers 5.23, modeling_mistral.py and modeling_llama.py.
_EMBEDDING = ("embedding.weight", "model.embed_tokens.weight", "VM")
_NORM = ("norm.weight", "model.norm.weight", "M")
_HEAD = ("head.weight", "lm_head.weight", "VM")
_LAYER = (
    ("attention_norm.weight", "input_layernorm.weight", "M"),
    ("attention.query.weight", "self_attn.q_proj.weight", "QM"),
    ("attention.key.weight", "self_attn.k_proj.weight", "KM"),
    ("attention.value.weight", "self_attn.v_proj.weight", "KM"),
    ("attention.output.weight", "self_attn.o_proj.weight", "MQ"),
    ("mlp_norm.weight", "post_attention_layernorm.weight", "M"),
    ("mlp.gate.weight", "mlp.gate_proj.weight", "FM"),
    ("mlp.up.weight", "mlp.up_proj.weight", "FM"),
    ("mlp.down.weight", "mlp.down_proj.weight", "MF"),
)
# Older checkpoints carry this; it follows from the config.
_DERIVED = ".rotary_emb.inv_freq"
_DTYPES = ("F32", "F16", "BF16")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A folder of published weights, checked against a config, read one tensor at a time."""

    folder: Path
    published: dict[str, str]  # name of the published tensor by name of the parameter
    files: dict[str, Path]  # file that holds it by name of the published tensor

    @classmethod
    def open(cls, folder: Path, config: MistralConfig) -> Checkpoint:
        """Check names, shapes and types of all tensors; the weights stay on disk.

        One exception: a tied checkpoint that has ``lm_head.weight`` nevertheless gets it
        compared with the embedding.

        Raises:
            CheckpointError: files are missing, unreadable or outside the folder; a tensor is
                missing, unexpected, misshapen or not of F32, F16 or BF16.
        """
        files = {
            name: path for name, path in _locate(folder).items() if not name.endswith(_DERIVED)
        }
        expected = _expected(config)
        head, embedding = _HEAD[1], _EMBEDDING[1]
        shapes = dict(expected.values())
        allowed = {*shapes, head}
        _refuse_other_names(folder, found=set(files), needed=set(shapes), allowed=allowed)
        _check_headers(files, {**shapes, head: shapes[embedding]})
        if config.tie_word_embeddings and head in files:
            _refuse_untied(files)
        published = {parameter: name for parameter, (name, _) in expected.items()}
        return cls(folder=folder, published=published, files=files)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters of ``Mistral``, in the order of the model."""
        return tuple(self.published)

    def read(self, parameter: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Read one parameter of ``Mistral``: its shape, float32; F16 and BF16 widen exactly.

        Raises:
            CheckpointError: no such parameter, an unreadable file, or a NaN or infinity.
        """
        if parameter not in self.published:
            raise CheckpointError(
                f"{self.folder}: no parameter {parameter!r}, expected one of the model's; "
                f"they are named like {_EMBEDDING[0]}"
            )
        name = self.published[parameter]
        path = self.files[name]
        array = _read(path, name).float().numpy()
        is_bad = ~np.isfinite(array)
        if is_bad.any():
            first = tuple(int(i) for i in np.unravel_index(is_bad.argmax(), array.shape))
            raise CheckpointError(
                f"{path}: {name} holds {int(is_bad.sum())} values that are NaN or infinite, the "
                f"first at {first}, expected finite numbers; download the file again"
            )
        return array

    def hashes(self) -> dict[str, str]:
        """sha256 by file name of the config, the weights, their index and the tokenizer."""
        names = {CONFIG_FILE, INDEX_FILE, TOKENIZER_FILE, *(p.name for p in self.files.values())}
        return {
            name: str(describe_file(self.folder / name)["sha256"])
            for name in sorted(names)
            if (self.folder / name).is_file()
        }


def _expected(config: MistralConfig) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Published name and shape by parameter, as the config implies them."""
    sizes = {
        "V": config.vocab_size,
        "M": config.hidden_size,
        "F": config.intermediate_size,
        "Q": config.num_attention_heads * config.head_dim,
        "K": config.num_key_value_heads * config.head_dim,
    }
    rows = [_EMBEDDING]
    for i in range(config.num_hidden_layers):
        rows += [(f"layers.{i}.{ours}", f"model.layers.{i}.{name}", s) for ours, name, s in _LAYER]
    head = (_HEAD[0], _EMBEDDING[1], _HEAD[2]) if config.tie_word_embeddings else _HEAD
    rows += [_NORM, head]
    return {ours: (name, tuple(sizes[letter] for letter in s)) for ours, name, s in rows}


def _locate(folder: Path) -> dict[str, Path]:
    """File by name of the tensor, for all tensors of all files."""
    single, index = folder / WEIGHTS_FILE, folder / INDEX_FILE
    if single.is_file() and index.is_file():
        raise CheckpointError(
            f"{folder}: holds both {WEIGHTS_FILE} and {INDEX_FILE}, expected one; "
            "remove the one that is not meant"
        )
    if single.is_file():
        return dict.fromkeys(_names(single), single)
    if not index.is_file():
        raise CheckpointError(
            f"{folder}: holds no weights, expected {WEIGHTS_FILE} or {INDEX_FILE}; "
            "other formats must be saved as safetensors first"
        )
    return _locate_shards(folder, _weight_map(index))


def _weight_map(index: Path) -> dict[str, str]:
    """File name by name of the tensor, as the index has it; every file is in the folder."""
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
        names = set(weight_map.values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index}: not an index ({error!r}), expected JSON with a weight_map; "
            "download it again"
        ) from error
    for name in sorted(names, key=str):
        # A plain name cannot leave the folder, on Windows neither.
        if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\:"):
            raise CheckpointError(
                f"{index}: names {name!r}, expected the name of a file in the same folder; "
                "do not trust this checkpoint"
            )
        if not (index.parent / name).is_file():
            raise CheckpointError(
                f"{index}: names {name}, which is missing, expected it beside the index; "
                "download it"
            )
    return dict(weight_map)


def _locate_shards(folder: Path, weight_map: dict[str, str]) -> dict[str, Path]:
    held = {(name, shard) for shard in set(weight_map.values()) for name in _names(folder / shard)}
    if held != set(weight_map.items()):
        name, shard = min(held ^ set(weight_map.items()))
        raise CheckpointError(
            f"{folder / shard}: {name} is "
            + ("here but not in" if (name, shard) in held else "not here, as against")
            + f" {INDEX_FILE}, expected them to agree; download both again"
        )
    return {name: folder / shard for name, shard in weight_map.items()}


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: unreadable ({error}), expected a safetensors file; download it again"
        ) from error


def _names(path: Path) -> list[str]:
    with _open(path) as file:
        return list(file.keys())


def _read(path: Path, name: str) -> torch.Tensor:
    """One tensor in the type it was published in."""
    with _open(path) as file:
        try:
            tensor: torch.Tensor = file.get_tensor(name)
        except SafetensorError as error:
            raise CheckpointError(
                f"{path}: {name} is unreadable ({error}), expected what was there before; "
                "download the file again"
            ) from error
    return tensor


def _refuse_other_names(
    folder: Path, *, found: set[str], needed: set[str], allowed: set[str]
) -> None:
    if missing := sorted(needed - found):
        raise CheckpointError(
            f"{folder}: {missing[0]} is missing ({len(missing)} missing in all), expected what "
            f"{CONFIG_FILE} implies; check that both are of one model"
        )
    if extra := sorted(found - allowed):
        raise CheckpointError(
            f"{folder}: {extra[0]} is unexpected ({len(extra)} such in all), expected only what "
            f"{CONFIG_FILE} implies; check that both are of one model"
        )


def _check_headers(files: dict[str, Path], shapes: dict[str, tuple[int, ...]]) -> None:
    """Compare type and shape of every tensor, file by file."""
    for path in sorted(set(files.values())):
        with _open(path) as file:
            for name in sorted(name for name, holder in files.items() if holder == path):
                header = file.get_slice(name)
                dtype, shape = header.get_dtype(), tuple(header.get_shape())
                if dtype not in _DTYPES:
                    raise CheckpointError(
                        f"{path}: {name} is of type {dtype}, expected one of "
                        f"{', '.join(_DTYPES)}; start from the float checkpoint"
                    )
                if shape != shapes[name]:
                    raise CheckpointError(
                        f"{path}: {name} has shape {shape}, {CONFIG_FILE} implies "
                        f"{shapes[name]}; check that both are of one model"
                    )


def _refuse_untied(files: dict[str, Path]) -> None:
    head, embedding = (_read(files[name], name) for name in (_HEAD[1], _EMBEDDING[1]))
    # Bytes, so that a NaN, which is found on reading, is not called a difference.
    is_equal = head.dtype == embedding.dtype and torch.equal(
        head.view(torch.uint8), embedding.view(torch.uint8)
    )
    if not is_equal:
        raise CheckpointError(
            f"{files[_HEAD[1]]}: {_HEAD[1]} differs from {_EMBEDDING[1]}, expected the same since "
            f"tie_word_embeddings is true; correct {CONFIG_FILE} or remove the tensor"
        )
