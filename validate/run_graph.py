"""Runs a graph on tokens, by the driver or alone, and returns logits and the cache."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..runtime import contract
from ..runtime.errors import ContractError
from ..runtime.ort_session import ort
from ..runtime.session import Session

_POSITION_IDS = "position_ids"
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
}
Scales = Mapping[str, np.ndarray]  # of caches in 8 bits, by past; each broadcasts to (G, L, D)
CacheRows = list[tuple[np.ndarray, np.ndarray]]


class Feeder(Protocol):
    """One sequence being decoded."""

    def reset(self) -> None:
        """Begin an empty sequence."""

    def feed(self, tokens: np.ndarray) -> np.ndarray:
        """Append tokens (T,) int64; return their logits (T, V) float32."""

    def cache(self) -> CacheRows:
        """Copies of each layer's held rows: key and value, (G, L, D) float32 each."""


def feed_all(feeder: Feeder, tokens: np.ndarray, cuts: Sequence[int]) -> np.ndarray:
    """Feed a new sequence in pieces of the given sizes: logits (T, V) float32."""
    feeder.reset()
    pieces = np.split(tokens[: sum(cuts)], np.cumsum(cuts)[:-1])
    return np.concatenate([feeder.feed(piece) for piece in pieces])


_STATE = ort.capi.onnxruntime_pybind11_state
_RUN_ERRORS = (
    RuntimeError,  # what bound inputs and outputs lead to
    _STATE.EPFail,
    _STATE.Fail,
    _STATE.InvalidArgument,
    _STATE.NotImplemented,
    _STATE.RuntimeException,
)


@contextlib.contextmanager
def running(path: Path, what: str) -> Iterator[None]:
    """Name the graph and its input if onnxruntime fails.

    Raises:
        ContractError: an operator of the graph refused its inputs.
    """
    try:
        yield
    except _RUN_ERRORS as error:
        raise ContractError(
            f"{path}: onnxruntime stopped while it ran {what} ({error}); expected logits and a "
            "cache: export it again, or report this with the command and the config.json"
        ) from error


class DriverFeeder:
    """The way apps do it: prefill, then step."""

    def __init__(self, session: Session, scales: Scales) -> None:
        self._session = session
        self._scales = scales
        self.reset = session.reset

    def feed(self, tokens: np.ndarray) -> np.ndarray:
        """Step if it is one token after others, else prefill in one chunk."""
        ids = [int(token) for token in tokens]
        with running(self._session.folder, f"{len(ids)} new tokens"):
            if len(ids) == 1 and self._session.tokens:
                return self._session.step(ids[0])[None].copy()
            return np.asarray(self._session.prefill(ids, all_logits=True, chunk=len(ids)))

    def cache(self) -> CacheRows:
        """Copies of each layer's held rows: key and value, (G, L, D) float32 each."""
        return [
            (
                _as_float(key, contract.past(layer, "key"), self._scales),
                _as_float(value, contract.past(layer, "value"), self._scales),
            )
            for layer, (key, value) in enumerate(self._session.cache())
        ]


class GraphFeeder:
    """A graph with the usual names, by any exporter, in onnxruntime alone."""

    def __init__(
        self,
        graph: ort.InferenceSession,
        geometry: contract.Geometry,
        path: Path,
        *,
        batch_size: int = 1,
        scales: Scales | None = None,
    ) -> None:
        """Begin an empty sequence, or several of one batch.

        Raises:
            ContractError: the graph wants an input that is not known here, or lacks an output.
        """
        self.graph = graph
        self._path = path
        self._geometry = geometry
        self._batch_size = batch_size
        self._scales = scales or {}
        self._inputs = {found.name: found for found in graph.get_inputs()}
        pairs = contract.cache_pairs(geometry)
        self._past_names = [past for past, _ in pairs]
        self._present_names = [present for _, present in pairs]
        missing = set(self._past_names) - self._inputs.keys()
        missing |= {contract.LOGITS, *self._present_names} - {o.name for o in graph.get_outputs()}
        if missing:
            raise ContractError(
                f"{path}: has no {min(missing)}, expected {contract.LOGITS} and the cache of "
                f"{geometry.num_layers} layers; is it a decoder's graph, and of this checkpoint?"
            )
        usual = {contract.INPUT_IDS, contract.ATTENTION_MASK, _POSITION_IDS, *self._past_names}
        if odd := sorted(self._inputs.keys() - usual):
            raise ContractError(
                f"{path}: input {odd[0]} is not known, expected {contract.INPUT_IDS}, "
                f"{contract.ATTENTION_MASK}, {_POSITION_IDS} and past_key_values.N.key and .value"
            )
        optional = {found.name for found in graph.get_overridable_initializers()}
        self._can_drop_logits = contract.NUM_LOGITS_TO_KEEP in optional
        self.reset()

    def reset(self) -> None:
        """Begin empty sequences."""
        self._lengths = np.zeros(self._batch_size, np.int64)
        self._pads_left = False
        shapes = contract.empty_cache_shapes(self._geometry, batch_size=self._batch_size)
        self._past = {
            name: np.zeros(shape, _DTYPES.get(self._inputs[name].type, np.float32))
            for name, shape in shapes
        }

    def feed(self, tokens: np.ndarray) -> np.ndarray:
        """Append tokens (T,) to the one sequence; return their logits (T, V) float32."""
        return np.asarray(self.run(tokens[None], [contract.LOGITS])[contract.LOGITS][0])

    def run(
        self,
        ids: np.ndarray,
        names: Sequence[str],
        *,
        lengths: np.ndarray | None = None,
        pads_left: bool = False,
    ) -> dict[str, np.ndarray]:
        """Append tokens to each sequence, and fetch outputs of the graph.

        Args:
            ids: (B, T) int64.
            names: outputs to fetch, as float32; the cache is carried on besides.
            lengths: (B,) int64, how many of the T are tokens, the rest padding; in the first
                call alone. None: all.
            pads_left: whether that padding lies before the tokens, not behind them.
        """
        T = ids.shape[1]
        before = self._lengths
        self._pads_left |= pads_left
        after = before + (T if lengths is None else lengths)
        total = int(after.max())
        feeds: dict[str, Any] = {contract.INPUT_IDS: ids, **self._past}
        columns = np.arange(total)[None]
        is_token = columns < after[:, None]
        if self._pads_left:
            is_token = columns >= total - after[:, None]
        feeds[contract.ATTENTION_MASK] = is_token.astype(np.int64)
        feeds[_POSITION_IDS] = before[:, None] + np.arange(T)[None]
        feeds = {name: value for name, value in feeds.items() if name in self._inputs}
        if self._can_drop_logits and contract.LOGITS not in names:
            feeds[contract.NUM_LOGITS_TO_KEEP] = np.array(1, np.int64)
        with running(self._path, f"{len(ids)} x {T} new tokens of {total}"):
            found = self.graph.run([*names, *self._present_names], feeds)
        self._past = dict(zip(self._past_names, found[len(names) :], strict=True))
        self._lengths = after
        return {
            name: np.asarray(value, np.float32)
            for name, value in zip(names, found[: len(names)], strict=True)
        }

    def cache(self, sequence: int = 0) -> CacheRows:
        """Each layer's held rows of one sequence: key and value, (G, L, D) float32 each."""
        rows = []
        for layer, layout in enumerate(self._geometry.layers):
            held = layout.held(int(self._lengths[sequence]))
            key, value = (
                _as_float(self._past[name][sequence, :, :held], name, self._scales)
                for name in (contract.past(layer, kind) for kind in contract.KINDS)
            )
            rows.append((key, value))
        return rows


def _as_float(rows: np.ndarray, past: str, scales: Scales) -> np.ndarray:
    """Cached rows, dequantized to float32."""
    return np.asarray(rows * scales.get(past, np.float32(1)), np.float32)
