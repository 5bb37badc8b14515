"""Runs a graph on tokens, by the driver or alone, and returns logits and the cache."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..runtime import contract
from ..runtime.errors import ContractError
from ..runtime.ort.ort_session import first_line, ort
from ..runtime.sequences.time_limit import stopping_after
from ..runtime.session import Session

RUN_LIMIT_S = 3600  # of one run: far beyond what the longest sequence of the largest model takes
_POSITION_IDS = "position_ids"
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
}
Scales = Mapping[str, np.ndarray]  # of caches in 8 bits, by past; each broadcasts to (G, L, D)
Rows = tuple[np.ndarray, np.ndarray]  # key and value, (G, L, D) float32 each
CacheRows = list[Rows]  # by layer
CacheOfLayers = Mapping[int, Rows]  # of some layers
State = Any  # of a sequence, which only its runner knows


class SequenceRunner(Protocol):
    """One sequence being decoded."""

    def reset(self) -> None:
        """Begin an empty sequence."""

    def feed(self, tokens: np.ndarray) -> np.ndarray:
        """Append tokens (T,) int64; return their logits (T, V) float32."""

    def cache(self) -> CacheRows:
        """Copies of each layer's held rows: key and value, (G, L, D) float32 each."""

    def state(self) -> State:
        """The sequence so far, to return to."""

    def restore(self, state: State) -> None:
        """Return to a sequence."""

    def close(self) -> None:
        """Free the graph and the cache."""


def feed_all(runner: SequenceRunner, tokens: np.ndarray, cuts: Sequence[int]) -> np.ndarray:
    """Feed a new sequence in pieces of the given sizes: logits (T, V) float32."""
    runner.reset()
    pieces = np.split(tokens[: sum(cuts)], np.cumsum(cuts)[:-1])
    return np.concatenate([runner.feed(piece) for piece in pieces])


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
def running(path: Path, what: str) -> Iterator[Any]:
    """Name the graph and its input if onnxruntime fails; yield options that stop an endless run.

    Raises:
        ContractError: an operator of the graph refused its inputs, or the run took too long.
    """
    with stopping_after(RUN_LIMIT_S) as (options, is_late):
        try:
            yield options
        except _RUN_ERRORS as error:
            if is_late.is_set():
                raise ContractError(
                    f"{path}: ran {what} for longer than {RUN_LIMIT_S} s, expected it to end; see "
                    "whether the graph has a Loop without end: tramontane inspect"
                ) from error
            raise ContractError(
                f"{path}: onnxruntime stopped while it ran {what} ({first_line(error)}); expected "
                "logits and a cache: export it again, or report this with the command and the "
                "config.json"
            ) from error


class DriverRunner:
    """The way apps do it: prefill, then step."""

    def __init__(self, session: Session, scales: Scales) -> None:
        self._session = session
        self._scales = scales
        self.reset = session.reset
        self.state, self.restore = session.snapshot, session.restore
        self.close = session.close

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


class GraphRunner:
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
        with running(self._path, f"{len(ids)} x {T} new tokens of {total}") as options:
            found = self.graph.run([*names, *self._present_names], feeds, options)
        self._past = dict(zip(self._past_names, found[len(names) :], strict=True))
        self._lengths = after
        return {
            name: np.asarray(value, np.float32)
            for name, value in zip(names, found[: len(names)], strict=True)
        }

    def run_alone(self, ids: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """As ``run``, with a run for each sequence, which has its rows of the cache.

        For graphs that append several tokens to one sequence alone; all are equally long.
        """
        past, lengths = self._past, self._lengths
        found, pasts = [], []
        for row in range(self._batch_size):
            self._past = {name: rows[row : row + 1] for name, rows in past.items()}
            self._lengths = lengths[row : row + 1]
            found.append(self.run(ids[row : row + 1], names))
            pasts.append(self._past)
        del past  # or three caches would be in memory while the new one is put together
        self._past = {
            name: np.concatenate([one.pop(name) for one in pasts]) for name in list(pasts[0])
        }
        self._lengths = lengths + ids.shape[1]
        return {name: np.concatenate([one[name] for one in found]) for name in names}

    def state(self) -> State:
        """The sequences so far; a run makes a new cache, so nothing is copied."""
        return self._past, self._lengths, self._pads_left

    def restore(self, state: State) -> None:
        """Return to those sequences."""
        self._past, self._lengths, self._pads_left = state

    def close(self) -> None:
        """Free the graph and the cache."""
        self._past = {}
        del self.graph

    def cache(self, sequence: int = 0) -> CacheRows:
        """Each layer's held rows of one sequence: key and value, (G, L, D) float32 each."""
        return [self.rows(layer, sequence) for layer in range(len(self._geometry.layers))]

    def rows(self, layer: int, sequence: int = 0) -> Rows:
        """The held rows of one layer: key and value, (G, L, D) float32 each."""
        held = self._geometry.layers[layer].held(int(self._lengths[sequence]))
        names = [contract.past(layer, kind) for kind in contract.KINDS]
        key, value = (
            _as_float(self._past[name][sequence, :, :held], name, self._scales) for name in names
        )
        return key, value


def _as_float(rows: np.ndarray, past: str, scales: Scales) -> np.ndarray:
    """Cached rows, dequantized to float32."""
    return np.asarray(rows * scales.get(past, np.float32(1)), np.float32)
