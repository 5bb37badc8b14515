"""Runs sequences through the PyTorch reference, one layer in memory at a time."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from ...export.model.query_scale import query_scale
from ...export.model.rope import Tables, rope_tables, unrotated
from .reference_cache import Arrays, Store, digest
from .shared_prefixes import Continued, Rows, Work, continued, rows_named, work_of
from .unfinished import Unfinished

Track = Callable[[Sequence[Any], str], Iterable[Any]]

_SCORE_BYTES = 128 << 20  # of attention scores at once; bounds the positions run together
_LOGITS_AT_ONCE = 256
_MOST_HIDDEN = 1024  # positions of a sequence whose hidden states are kept
_ARRAYS, _HIDDEN = ("logits", "keys", "values"), "hidden"
_BY_LAYER = (*rows_named(), _HIDDEN)
# Imported here to keep the numbers, not to compute them.
BESIDE_NUMBERS = (
    "export.code_digest",
    "validate.reference.reference_cache",
    "validate.reference.unfinished",
)


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
        self._hidden: list[tuple[np.ndarray, np.ndarray]] = []  # tokens, and what is kept of them

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
        parts = continued(sequences)
        keys = self.keys(parts)
        found = self._found(keys, parts)
        missing = {key: i for i, key in enumerate(keys) if key not in found}
        if missing:
            shapes = {key: self.shapes(parts[i]) for key, i in missing.items()}
            with self.store.adding(shapes, by_layer=_BY_LAYER) as unfinished:
                known: dict[str, Mapping[str, np.ndarray]] = {
                    **found,
                    **dict(zip(missing, unfinished.arrays, strict=True)),
                }
                works = [work_of(i, parts, keys, known) for i in missing.values()]
                self._compute(works, unfinished)
                self.checkpoint.refuse_changed()  # or it would be kept under another's name
                del known, works
            found = self._found(keys, parts)
        runs = []
        for key, part in zip(keys, parts, strict=True):
            arrays = {name: found[key][name] for name in _ARRAYS}
            runs.append(ReferenceRun(tokens=part.tokens, **arrays))
            if part.base is None:
                self._hidden.append((part.tokens, found[key][_HIDDEN]))
        return runs

    def _found(self, keys: Sequence[str], parts: Sequence[Continued]) -> dict[str, Arrays]:
        """The arrays of those that are stored, by key."""
        found = {}
        for key, part in zip(keys, parts, strict=True):
            arrays = self.store.find(key, self.shapes(part))
            if arrays is not None:
                found[key] = arrays
        return found

    def hidden(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the layers make of a sequence, at some of its positions.

        Returns:
            positions (P,) int64, ascending, and the hidden state at them behind each layer:
            (layers, P, M) float32.
        """
        for known, arrays in self._hidden:
            if np.array_equal(known[: len(tokens)], tokens):
                positions = _told(len(known))
                count = int((positions < len(tokens)).sum())
                return positions[:count], arrays[:, :count]
        self.runs([tokens])
        return self.hidden(tokens)

    def layers(self, numbers: Sequence[int]) -> Iterator[tuple[int, Layer]]:
        """Load layers one after the other; the previous one is freed."""
        for number in numbers:
            yield number, load_layer(self.config, self.checkpoint, number)

    def embed(self, tokens: np.ndarray) -> Tensor:
        """Rows of the embedding: (T, M) float32."""
        return torch.from_numpy(self.checkpoint.read(EMBEDDING)[tokens])

    def shapes(self, part: Continued) -> dict[str, tuple[int, ...]]:
        """Shapes of a run's arrays, by name."""
        c, length = self.config, len(part.tokens)
        rows = (c.num_hidden_layers, c.num_key_value_heads, length, c.head_dim)
        shapes: dict[str, tuple[int, ...]] = {
            "logits": (length, c.vocab_size),
            "keys": rows,
            "values": rows,
        }
        if part.base is None:
            shapes[_HIDDEN] = (c.num_hidden_layers, len(_told(length)), c.hidden_size)
        return shapes

    @torch.no_grad()
    def _compute(self, works: Sequence[Work], unfinished: Unfinished) -> None:
        hidden = [torch.from_numpy(x) for x in unfinished.state.values()]
        if not hidden:
            news = [one.part.new for one in works]
            embedded = self.embed(np.concatenate(news))
            hidden = list(embedded.split_with_sizes([len(tokens) for tokens in news]))
        numbers = range(unfinished.done, self.config.num_hidden_layers)
        for number in self.track(numbers, "running the reference, layer by layer"):
            for _, layer in self.layers([number]):
                for i, one in enumerate(works):
                    rows = one.prefix(number)
                    hidden[i], *made = self.run_layer(layer, hidden[i], before=rows)
                    one.fill(number, (made[0].numpy(), made[1].numpy()))
                    if one.part.base is None:
                        one.arrays[_HIDDEN][number] = hidden[i][_told(len(hidden[i]))].numpy()
            unfinished.note(number + 1, {f"{i}": x.numpy() for i, x in enumerate(hidden)})
        norm = load_last_norm(self.config, self.checkpoint)
        head = torch.from_numpy(self.checkpoint.read(HEAD))
        for x, one in zip(hidden, works, strict=True):
            logits = one.logits()
            for start in range(0, len(x), _LOGITS_AT_ONCE):
                part = slice(start, start + _LOGITS_AT_ONCE)
                logits[part] = (norm(x[part]) @ head.T).numpy()

    def run_layer(
        self, layer: Layer, x: Tensor, *, before: Rows | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run a layer over a whole sequence, in pieces whose attention scores fit in memory.

        The cache has a row for every position: nothing is evicted, the window only masks keys.

        Args:
            layer: one of ``layers``.
            x: (T, M) float32.
            before: keys and values of n positions before these, (G, n, D) float32.

        Returns:
            (T, M) float32; keys, rope applied, and values of the T positions: (G, T, D) float32.
        """
        c, T, window = self.config, len(x), layer.attention.window
        n = 0 if before is None else before[0].shape[1]
        rows = max(n + T, window or 0)
        shape = (1, c.num_key_value_heads, n if window is None else rows, c.head_dim)
        past = torch.zeros(shape), torch.zeros(shape)
        for held, known in zip(past, before or (), strict=False):
            held[0, :, :n] = torch.from_numpy(np.array(known))
        at_once = max(1, _SCORE_BYTES // (4 * c.num_attention_heads * rows))
        out = torch.empty_like(x)
        for start in range(0, T, at_once):
            stop = min(start + at_once, T)
            seen = torch.ones(1, n + stop, dtype=torch.int64)
            scale = query_scale(c, seen, stop - start)
            found, past = layer(x[None, start:stop], seen, past, self._rope, scale)
            out[start:stop] = found[0]
        return out, past[0][0, :, n : n + T], past[1][0, :, n : n + T]

    def keys(self, parts: Sequence[Continued]) -> list[str]:
        """One name for all that decides the numbers of each sequence's run."""
        if self._identity is None:
            self._identity = {
                "checkpoint": self.checkpoint.hashes(),
                "config": dataclasses.asdict(self.config),
                "code": code_digest(__file__, beside=BESIDE_NUMBERS),
                "torch": torch.__version__,
            }
        keys: list[str] = []
        for part in parts:
            bytes_of = np.ascontiguousarray(part.tokens, np.int64).tobytes()
            base = None if part.base is None else [keys[part.base], part.shared]
            hashed = {"tokens": hashlib.sha256(bytes_of).hexdigest(), "continues": base}
            keys.append(digest({**self._identity, **hashed}))
        return keys


def _told(length: int) -> np.ndarray:
    """The positions of a sequence whose hidden states are kept: at most ``_MOST_HIDDEN``."""
    return np.arange(0, length, -(-length // _MOST_HIDDEN))
