"""The float model that roundings are compared with: what enters and leaves each of its layers.

A task of a sensitivity may run in any process. Each process opens the checkpoint itself, runs the
model once, and keeps the hidden states on its disk for further tasks of the same model.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ...runtime.errors import CheckpointError
from ..calibrate.layer_walk import LayerWalk
from ..config import MistralConfig
from ..files.held_files import Identity
from ..fingerprint import tool_versions
from ..formats.checkpoint import Checkpoint
from ..formats.tensor_names import EMBEDDING
from ..model.load import load_layer
from ..model.model import Layer
from ..model.rope import rope_tables
from ..workers import refuse_missing

Hidden = Sequence[Tensor]  # (T, M) float32 of each sequence


@dataclass(frozen=True, kw_only=True, slots=True)
class FloatModel:
    """What decides the hidden states; a task carries it to the process that it runs in."""

    path: Path  # of the checkpoint, on this machine and on every worker's
    adapters: tuple[Path, ...]
    config: MistralConfig
    sequences: tuple[np.ndarray, ...]  # (T,) int64 tokens each
    files: dict[str, str]  # sha256 by name
    identities: dict[str, Identity]  # of the files, as the process that began the work holds them
    code: str  # digest of the code that measures
    tools: dict[str, str]  # versions by package

    @property
    def key(self) -> str:
        """One name for all of it."""
        made_of = [str(self.path), *map(str, self.adapters), repr(self.config), self.code]
        made_of += [json.dumps([self.files, self.identities, self.tools], sort_keys=True)]
        digest = hashlib.sha256("\n".join(made_of).encode())
        for tokens in self.sequences:
            digest.update(tokens.tobytes() + b"\n")
        return digest.hexdigest()


def described(
    checkpoint: Checkpoint, config: MistralConfig, sequences: Sequence[np.ndarray], *, code: str
) -> FloatModel:
    """A checkpoint and sequences, for tasks in any process.

    Args:
        checkpoint: an open one.
        config: its own, or that with another window.
        sequences: (T,) int64 tokens each.
        code: digest of the code that measures.
    """
    return FloatModel(
        path=checkpoint.path.resolve(),
        adapters=tuple(one.folder.resolve() for one in checkpoint.adapters),
        config=config,
        sequences=tuple(sequences),
        files=checkpoint.hashes(),
        identities=checkpoint.identities(),
        code=code,
        tools=tool_versions(),
    )


class OpenModel:
    """The checkpoint, open in this process, and the hidden states of the float model on disk."""

    def __init__(self, model: FloatModel, checkpoint: Checkpoint) -> None:
        """Run the model, layer by layer."""
        self.config, self.checkpoint = model.config, checkpoint
        self.sequences = model.sequences
        self.rope = rope_tables(model.config)
        self._temporary = tempfile.TemporaryDirectory(prefix="tramontane-")
        self.folder = Path(self._temporary.name)
        embedding = checkpoint.read(EMBEDDING)
        hidden: Hidden = [torch.from_numpy(embedding[tokens]) for tokens in model.sequences]
        del embedding
        for number in range(self.config.num_hidden_layers):
            self._save(number, hidden)
            hidden = self.through(self.load(number), hidden)
        self._save(self.config.num_hidden_layers, hidden)

    def close(self) -> None:
        """Close the checkpoint and remove the hidden states."""
        self.checkpoint.close()
        self._temporary.cleanup()

    def load(self, number: int) -> Layer:
        """A layer with a cache row for every position."""
        return load_layer(self.config, self.checkpoint, number, grows=True)

    def through(self, layer: Layer, hidden: Hidden) -> Hidden:
        """What leaves a layer."""
        walk = LayerWalk(layer, self.config, self.rope, hidden)
        for _ in walk:
            pass
        return walk.hidden

    def entering(self, number: int) -> Hidden:
        """What enters a layer; of the number of layers, what leaves the last one."""
        with np.load(self.folder / f"hidden.{number}.npz") as arrays:
            return [torch.from_numpy(arrays[str(at)]) for at in range(len(arrays))]

    def _save(self, number: int, hidden: Hidden) -> None:
        arrays = {str(at): x.numpy() for at, x in enumerate(hidden)}
        np.savez(self.folder / f"hidden.{number}.npz", allow_pickle=False, **arrays)


class _Latest:
    """The model that tasks of this process worked on last."""

    lock: ClassVar = threading.Lock()
    key: ClassVar[str | None] = None
    model: ClassVar[OpenModel | None] = None


@torch.no_grad()
def opened(model: FloatModel) -> OpenModel:
    """The model in this process; the first call runs it, and closes the one before.

    Raises:
        ConfigError: this process has other versions, or cannot read the checkpoint.
        CheckpointError: it reads another checkpoint there.
    """
    with _Latest.lock:
        if _Latest.model is None or _Latest.key != model.key:
            forget()
            _Latest.model, _Latest.key = OpenModel(model, _checkpoint(model)), model.key
        return _Latest.model


def forget() -> None:
    """Close the model of this process, and remove its hidden states."""
    if _Latest.model is not None:
        _Latest.model.close()
    _Latest.model = _Latest.key = None


def _checkpoint(model: FloatModel) -> Checkpoint:
    refuse_missing(model.path, what="the checkpoint")
    checkpoint = Checkpoint.open(model.path, model.adapters)
    try:
        # By their identities on the machine that began the work; elsewhere by their contents.
        is_same = checkpoint.identities().items() <= model.identities.items()
        if not is_same and checkpoint.hashes() != model.files:
            raise CheckpointError(
                f"{model.path}: other files than on the machine that began the work, expected "
                "the same; put the checkpoint where every machine has it under the same path"
            )
    except BaseException:
        checkpoint.close()
        raise
    return checkpoint
