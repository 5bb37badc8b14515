"""Detects a checkpoint's format (Hugging Face, Mistral, GGUF) and opens it.

Hugging Face: ``config.json`` and ``model.safetensors`` (or an index and its shards), or else
``pytorch_model.bin`` (or likewise).
Mistral: ``params.json`` and ``consolidated.safetensors`` (or likewise), or
``consolidated.00.pth``.
GGUF: one file, any of its numbered parts, or a folder with one model.

The first of these whose weights are there is read: Mistral's own v0.3, which has the first two,
is read as Hugging Face's. Where there are no weights it is the first whose description is there.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

from ...console import hints
from ...runtime.errors import ConfigError
from ...runtime.untrusted.files import refuse_impossible
from ..config import MistralConfig
from ..files.held_files import HeldFiles
from ..known_models import GEOMETRIES, HUB_NAMES
from ..published_tokenizer.tokenizer_files import (
    deciding_files,
    read_tokenizer,
)
from . import float8, tensor_names
from .adapters.adapter import is_adapter
from .adapters.lora_config import CONFIG_FILE as ADAPTER_FILE
from .adapters.lora_config import base_model_of
from .gguf import parts as gguf_parts
from .gguf.architectures import KEY, gguf_architecture
from .gguf.config import read_gguf_config
from .gguf.file import readable_types
from .gguf.tokenizer import rebuild_tokenizer
from .huggingface import CONFIG_FILE, read_config_json, read_quantization
from .mistral import (
    PARAMS_FILE,
    read_params_json,
    read_params_quantization,
    read_window_pattern,
)
from .published import Layout, Published
from .weight_files import shards

# In the order in which they are looked for.
_DESCRIPTIONS = {Layout.HUGGING_FACE: CONFIG_FILE, Layout.MISTRAL: PARAMS_FILE}
_SERIES = {Layout.HUGGING_FACE: shards.HUGGING_FACE, Layout.MISTRAL: shards.MISTRAL}


def read_config(path: Path) -> MistralConfig:
    """Read the architecture of a model in any layout; it needs no weights.

    Raises:
        ConfigError: there is no model there, or it is not one that is supported (named in the
            message).
        CheckpointError: a GGUF file is unreadable.
    """
    layout, path = _detect(path)
    if layout is Layout.HUGGING_FACE:
        return _with_doubts(path, read_config_json(path), HeldFiles())
    if layout is Layout.MISTRAL:
        return read_params_json(path)
    file, _ = gguf_parts.read_parts(path, HeldFiles())
    return read_gguf_config(file)


def open_published(path: Path) -> Published:
    """Read a model's config and the headers of its tensors.

    Raises:
        ConfigError: as ``read_config``.
        CheckpointError: weights are missing or unreadable, or a file is outside the folder.
    """
    layout, path = _detect(path)
    if layout is Layout.GGUF:
        return _open_gguf(path)
    is_mistral, held = layout is Layout.MISTRAL, HeldFiles()
    config = (read_params_json if is_mistral else read_config_json)(path, held)
    config = config if is_mistral else _with_doubts(path, config, held)
    described_in = PARAMS_FILE if is_mistral else CONFIG_FILE
    describe = read_params_quantization if is_mistral else read_quantization
    found = shards.find_tensors(path, _SERIES[layout], held)
    read = {tensor.path for tensor in found.tensors.values()}
    known = {path / described_in, found.index, *read, *deciding_files(path)}
    files = sorted(file for file in known if file is not None and file.is_file())
    for file in files:
        held.hold(file)
    return Published(
        path=path,
        layout=layout,
        config=config,
        described_in=described_in,
        naming=tensor_names.MISTRAL if is_mistral else tensor_names.HUGGING_FACE,
        types=(*shards.TYPES, *float8.TYPES),
        tensors=found.tensors,
        twice=found.twice,
        notes=found.notes,
        files=tuple(files),
        held=held,
        read_tokenizer=cache(lambda: read_tokenizer(path, held)),
        quantization=describe(held.hold(path / described_in)),
    )


def _with_doubts(path: Path, config: MistralConfig, held: HeldFiles) -> MistralConfig:
    """The config, with the windows of a ``params.json`` beside it that has others.

    Ministral-8B was published with a config.json of a Mistral with one window.
    """
    file = held.find(path / PARAMS_FILE)
    other = () if file is None else read_window_pattern(file, config)
    return config if other == config.windows else dataclasses.replace(config, other_windows=other)


def _open_gguf(path: Path) -> Published:
    held = HeldFiles()
    file, files = gguf_parts.read_parts(path, held)
    return Published(
        path=file.path,
        layout=Layout.GGUF,
        config=read_gguf_config(file),
        described_in="its metadata",
        naming=dataclasses.replace(
            tensor_names.GGUF, rope=gguf_architecture(file.metadata.get(KEY)).rope
        ),
        types=readable_types(),
        tensors=file.tensors,
        files=files,
        held=held,
        read_tokenizer=cache(lambda: rebuild_tokenizer(file)),
        metadata=file.metadata,
    )


def ways_to_weights(name: str) -> str:
    """How to get a checkpoint of a known model, in words and command lines.

    Args:
        name: one of ``GEOMETRIES``.
    """
    if (folder := Path("models") / name).is_dir():
        return f"name {folder}"
    random = Path("artifacts") / name
    ways = [f"write random weights: {hints.suggest('synthesize', GEOMETRY=name, OUT=random)}"]
    if hub_name := HUB_NAMES.get(name):
        ways.insert(0, f"download a model: {hints.download(hub_name, folder)}")
    return f"{', or '.join(ways)}; then name its folder"


def _detect(path: Path) -> tuple[Layout, Path]:
    """Detect the layout, by the rule above, and the folder or file to read.

    Raises:
        ConfigError: no such folder or file, or no model in it that is known; several GGUF models.
    """
    refuse_impossible(path, error=ConfigError)
    if path.is_file():
        if not gguf_parts.is_gguf(path):
            raise ConfigError(
                f"{path}: a file, expected a checkpoint's folder or a GGUF file; of files such as "
                "model.safetensors name the folder that holds them"
            )
        return Layout.GGUF, path
    if not path.is_dir():
        if str(path) in GEOMETRIES:
            raise ConfigError(
                f"{path}: a known model's geometry, without weights; expected a checkpoint's "
                f"folder; {ways_to_weights(str(path))}"
            )
        instead = hints.instead_of(path) or "name the folder of a checkpoint"
        raise ConfigError(f"{path}: no such folder; {instead}")
    if is_adapter(path):
        raise ConfigError(_adapter(path))
    described = [layout for layout, name in _DESCRIPTIONS.items() if (path / name).is_file()]
    for layout in described:
        if shards.has_weights(path, _SERIES[layout]):
            return layout, path
    models = gguf_parts.models_in(path)
    if len(models) > 1:
        raise ConfigError(
            f"{path}: holds {len(models)} GGUF models, {', '.join(each.name for each in models)}"
            "; name the one that is meant"
        )
    if models:
        return Layout.GGUF, models[0]
    if described:
        return described[0], path
    raise ConfigError(
        f"{path}: not a checkpoint, it holds no {CONFIG_FILE}, {PARAMS_FILE} or "
        f"{gguf_parts.SUFFIX} file; name a folder with config.json, model.safetensors and "
        "tokenizer.model"
    )


def _adapter(folder: Path) -> str:
    """How to give an adapter that was named in the place of its base model.

    transformers reads such a folder as the adapter, whatever else is in it.
    """
    base = base_model_of(folder) or ""
    is_there = bool(base) and Path(base).is_dir()
    named = f"a LoRA adapter of {base}" if base else "a LoRA adapter"
    model = base if is_there else f"models/{Path(base).name}" if base else "BASE_FOLDER"
    both = hints.suggest("export", MODEL=model, ADAPTER=[folder])
    start = f"{folder}: is {named}, expected its base model; name both: {both}"
    if not is_there and (download := hints.instead_of(Path(base))):
        return f"{start}\n{download}"
    if (folder / CONFIG_FILE).is_file():
        return f"{start}; if {CONFIG_FILE} there is of the merged model, remove {ADAPTER_FILE}"
    return start
