"""Runs sequences through the PyTorch reference, one layer in memory at a time."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...export.code_digest import code_digest
from ...export.config import MistralConfig
from ...export.formats.checkpoint import Checkpoint
from ...export.formats.tensor_names import EMBEDDING, HEAD
from ...export.model.load import load_last_norm, load_layer
from ...export.model.model import Layer
from ...export.model.rope import Tables, rope_tables, unrotated
from .reference_cache import Mapped, Store, digest

Track = Callable[[Sequence[Any], str], Iterable[Any]]

_SCORE_BYTES = 128 << 20  # of attention scores at once; bounds the positions run together
_LOGITS_AT_ONCE = 256
_ARRAYS = ("logits", "keys", "values")
# Imported here to keep the numbers, not to compute them.
BESIDE_NUMBERS = ("export.code_digest", "validate.reference.reference_cache")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceRun:
    """The reference's results on one sequence, fed in one shot."""

    tokens: np.ndarray  # (T,) int64
    logits: np.ndarray  # (T, V) float32
    keys: np.ndarray  # (layers, G, T, D) float32, rope applied: one row for each position
    values: np.ndarray  # (layers, G, T, D) float32


class Reference:
    """The model in float32; it holds one layer's weights at a time."""

    def __init__(
        self, config: MistralConfig, checkpoint: Checkpoint, *, store: Store, track: Track
    ) -> None:
        """Read nothing yet.

        Args:
            config: the checkpoint's own, or that with another window.
            checkpoint: what the parameters are read from.
            store: where runs are kept.
            track: yields layers and shows progress.
        """
        self.config = config
        self.checkpoint = checkpoint
        self.store = store
        self.track = track
        self._rope = rope_tables(config)
        self._identity: dict[str, Any] | None = None

    @property
    def rope(self) -> Tables:
        """Cosines and sines of all positions: each (P, D / 2) float32."""
        return self._rope

    def rope_of(self, number: int) -> Tables:
        """Those by which a layer rotates; cosines of 1 and sines of 0 where it has no rope."""
        if number not in self.config.unrotated_layers:
            return self._rope
        return unrotated(self._rope)

    def runs(self, sequences: Sequence[np.ndarray]) -> list[ReferenceRun]:
        """Run sequences (T,) int64 in one walk over the layers; stored ones are not run again.

        Raises:
            CheckpointError: a tensor is unreadable or holds a NaN or infinity, or the checkpoint
                changed since it was opened.
            ContractError: the disk has no room for the results.
        """
        keys = [self.key(tokens) for tokens in sequences]
        wanted = dict(zip(keys, sequences, strict=True))
        missing = {
            key: tokens for key, tokens in wanted.items() if not self.store.find(key, _ARRAYS)
        }
        if missing:
            shapes = {key: self.shapes(len(tokens)) for key, tokens in missing.items()}
            with self.store.adding(shapes) as made:
                self._compute(list(missing.values()), made)
                self.checkpoint.refuse_changed()  # or it would be kept under another's name
        found = []
        for key, tokens in zip(keys, sequences, strict=True):
            arrays = self.store.find(key, _ARRAYS)
            assert arrays is not None, "it was just kept"
            found.append(ReferenceRun(tokens=tokens, **arrays))
        return found

    def layers(self, numbers: Sequence[int]) -> Iterator[tuple[int, Layer]]:
        """Load layers one after the other; the previous one is freed."""
        for number in numbers:
            yield number, load_layer(self.config, self.checkpoint, number)

    def embed(self, tokens: np.ndarray) -> Tensor:
        """Rows of the embedding: (T, M) float32."""
        return torch.from_numpy(self.checkpoint.read(EMBEDDING)[tokens])

    def shapes(self, length: int) -> dict[str, tuple[int, ...]]:
        """Shapes of a run's arrays, by name."""
        c = self.config
        rows = (c.num_hidden_layers, c.num_key_value_heads, length, c.head_dim)
        return {"logits": (length, c.vocab_size), "keys": rows, "values": rows}

    @torch.no_grad()
    def _compute(self, sequences: list[np.ndarray], made: list[Mapped]) -> None:
        embedded = self.embed(np.concatenate(sequences))
        hidden = list(embedded.split_with_sizes([len(tokens) for tokens in sequences]))
        numbers = range(self.config.num_hidden_layers)
        for number in self.track(numbers, "running the reference, layer by layer"):
            for _, layer in self.layers([number]):
                for i, arrays in enumerate(made):
                    hidden[i], key, value = self.run_layer(layer, hidden[i])
                    arrays["keys"][number], arrays["values"][number] = key, value
        norm = load_last_norm(self.config, self.checkpoint)
        head = torch.from_numpy(self.checkpoint.read(HEAD))
        for x, arrays in zip(hidden, made, strict=True):
            for start in range(0, len(x), _LOGITS_AT_ONCE):
                part = slice(start, start + _LOGITS_AT_ONCE)
                arrays["logits"][part] = (norm(x[part]) @ head.T).numpy()

    def run_layer(self, layer: Layer, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run a layer over a whole sequence, in pieces whose attention scores fit in memory.

        The cache has a row for every position: nothing is evicted, the window only masks keys.

        Args:
            layer: one of ``layers``.
            x: (T, M) float32.

        Returns:
            (T, M) float32; keys, rope applied, and values of all positions: (G, T, D) float32.
        """
        c, T, window = self.config, len(x), layer.attention.window
        rows = max(T, window or 0)
        shape = (1, c.num_key_value_heads, 0 if window is None else rows, c.head_dim)
        past = torch.zeros(shape), torch.zeros(shape)
        at_once = max(1, _SCORE_BYTES // (4 * c.num_attention_heads * rows))
        out = torch.empty_like(x)
        for start in range(0, T, at_once):
            stop = min(start + at_once, T)
            seen = torch.ones(1, stop, dtype=torch.int64)
            found, past = layer(x[None, start:stop], seen, past, self._rope)
            out[start:stop] = found[0]
        return out, past[0][0, :, :T], past[1][0, :, :T]

    def key(self, tokens: np.ndarray) -> str:
        """One name for all that decides the numbers of a sequence's run."""
        if self._identity is None:
            self._identity = {
                "checkpoint": self.checkpoint.hashes(),
                "config": dataclasses.asdict(self.config),
                "code": code_digest(__file__, beside=BESIDE_NUMBERS),
                "torch": torch.__version__,
            }
        hashed = hashlib.sha256(np.ascontiguousarray(tokens, np.int64).tobytes()).hexdigest()
        return digest({**self._identity, "tokens": hashed})
