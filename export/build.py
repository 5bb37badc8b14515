"""How does a checkpoint folder become an artifact folder?"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import ConfigError, ContractError
from ..graphs import artifact, pipeline
from ..runtime.contract import CARD_FILE, DATA_FILE, MANIFEST_FILE, Geometry
from ..runtime.manifest import Manifest, describe_file, to_json, write_manifest
from .card import render_card
from .checkpoint import Checkpoint
from .config import CONFIG_FILE, MistralConfig, read_config
from .progress import track
from .tokenizer import carry_tokenizer, read_vocabulary
from .trace import geometry_of, trace

# Proves an artifact that has not got its name yet; returns the headline figures, or raises.
Gate = Callable[[Path, MistralConfig, Checkpoint], dict[str, Any]]

_TOOLS = ("numpy", "onnx", "onnx-ir", "onnxruntime", "onnxscript", "torch")


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    *,
    quant: str,
    target: str,
    window: int | None = None,
    dump: Path | None = None,
    gate: Gate | None = None,
) -> Manifest:
    """Export a checkpoint folder to an artifact folder.

    Args:
        checkpoint: Hugging Face folder: config.json, safetensors, tokenizer.model.
        out: the artifact's folder; an artifact there is replaced when the new one is whole.
        quant, target: the recipe, as in ``pipeline.QUANTS`` and ``pipeline.TARGETS``.
        window: keys a query sees, in place of the checkpoint's own.
        dump: folder for the graph as text after each pass.
        gate: proves the artifact before it takes its name.

    Returns:
        The artifact's manifest.

    Raises:
        ConfigError, CheckpointError: the checkpoint is not one that is supported.
        ContractError: the artifact cannot be written there.
        ParityError: from the gate; nothing is left under ``out``.
    """
    _refuse_overlap(checkpoint, out)
    recipe = pipeline.passes(target=target, quant=quant)
    config = _with_window(read_config(checkpoint), window)
    vocabulary = read_vocabulary(checkpoint, config)
    weights = Checkpoint.open(checkpoint, config)
    geometry = geometry_of(config)
    with artifact.staged(out) as folder:
        for _ in track([config], "tracing"):
            model = trace(config, weights.read)
            pipeline.run(model, geometry, recipe, dump=dump)
        tensors = artifact.describe_tensors(model.graph, quant=quant)
        artifact.write_graph(model, folder, track=track)
        carry_tokenizer(checkpoint, folder)
        _write_config(checkpoint, folder, config)
        manifest = Manifest(
            quant=quant,
            target=target,
            geometry=geometry,
            vocabulary=vocabulary,
            memory=_memory_plan(folder, geometry),
            source=weights.hashes(),
            tools={"tramontane": __version__, **{name: version(name) for name in _TOOLS}},
            tensors=tensors,
        )
        write_manifest(folder, manifest)
        if gate is not None:
            manifest = dataclasses.replace(manifest, parity=gate(folder, config, weights))
        (folder / CARD_FILE).write_text(
            render_card(manifest, name=checkpoint.resolve().name), encoding="utf-8"
        )
        manifest = dataclasses.replace(manifest, files=_describe_files(folder))
        write_manifest(folder, manifest)
    return manifest


def _refuse_overlap(checkpoint: Path, out: Path) -> None:
    if checkpoint.resolve() == out.resolve():
        raise ContractError(f"{out}: --out is the checkpoint itself; name another folder")


def _with_window(config: MistralConfig, window: int | None) -> MistralConfig:
    if window is None:
        return config
    if not 1 <= window <= config.max_position_embeddings:
        raise ConfigError(
            f"--window {window}: expected 1 to {config.max_position_embeddings}, "
            "the positions that the model has"
        )
    return dataclasses.replace(config, sliding_window=window, architecture="MistralForCausalLM")


def _write_config(checkpoint: Path, folder: Path, config: MistralConfig) -> None:
    """Carry config.json over; a window that was asked for makes a Llama a Mistral."""
    published = json.loads((checkpoint / CONFIG_FILE).read_bytes())
    if config.sliding_window is not None:
        published["sliding_window"] = config.sliding_window
        published["architectures"] = [config.architecture]
        published["model_type"] = "mistral"
    (folder / CONFIG_FILE).write_text(to_json(published), encoding="utf-8")


def _memory_plan(folder: Path, geometry: Geometry) -> dict[str, int]:
    rows = geometry.max_positions if geometry.rows is None else geometry.rows
    return {
        "weights_bytes": (folder / DATA_FILE).stat().st_size,
        "cache_bytes_per_token": geometry.row_bytes,
        "cache_bytes_at_most": rows * geometry.row_bytes,
        "logits_bytes_per_token": 4 * geometry.vocab_size,
    }


def _describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        path.relative_to(folder).as_posix(): describe_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST_FILE
    }
