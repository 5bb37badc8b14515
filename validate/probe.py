"""Measures inner tensors of a graph, and the matrices that its kernels multiply by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..graphs.probing.matmuls import Matmul
from ..graphs.probing.tensor_roles import INPUT_IDS, TensorRoles
from ..runtime.contract import LOGITS
from ..runtime.ort_session import open_graph, ort
from .artifact_under_test import Subject
from .run_graph import CacheRows, running

_ROWS_AT_ONCE = 1024  # of the identity that a multiplication is probed with


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """Inner tensors of one sequence, and the cache as it was after each piece of it."""

    tensors: dict[str, np.ndarray]  # (T, N) float32 by name
    caches: list[tuple[int, CacheRows]]  # tokens so far, and the held rows

    def source(self, linear: Matmul) -> np.ndarray:
        """Input of a matmul: (T, K) float32."""
        return self.tensors[linear.source]

    def result(self, linear: Matmul) -> np.ndarray:
        """Output of a matmul: (T, N) float32."""
        return self.tensors[linear.result]


def observe(
    subject: Subject, names: Sequence[str], tokens: np.ndarray, cuts: Sequence[int]
) -> Observed:
    """Feed a sequence in pieces to the graph alone, its inner tensors made outputs."""
    wanted = list(dict.fromkeys(names))
    feeder = subject.graph_feeder(outputs=wanted)
    tensors: dict[str, np.ndarray] = {}
    caches, total = [], 0
    for size in cuts:
        piece = slice(total, total + size)
        for name, found in feeder.run(tokens[None, piece], wanted).items():
            if name not in tensors:
                tensors[name] = np.empty((sum(cuts), found.shape[-1]), np.float32)
            tensors[name][piece] = found[0]
        total += size
        caches.append((total, feeder.cache()))
    return Observed(tensors=tensors, caches=caches)


def open_product(subject: Subject, linear: Matmul) -> ort.InferenceSession:
    """One matmul of the graph alone, with the rounding around it."""
    part = subject.graph.between(linear.source, linear.result)
    return open_graph(subject.path, changed=part)


def matrix_of(subject: Subject, linear: Matmul, columns: int) -> np.ndarray:
    """The matrix (N, K) float32 by which the kernel multiplies, however it is stored.

    Each row of the identity, multiplied, is one column of it. A kernel that rounds what it
    multiplies rounds ones and zeros to themselves.
    """
    session = open_product(subject, linear)
    found = []
    for start in range(0, columns, _ROWS_AT_ONCE):
        rows = min(_ROWS_AT_ONCE, columns - start)
        identity = np.eye(rows, columns, k=start, dtype=np.float32)[None]
        with running(subject.path, f"the multiplication of {linear.result}"):
            found.append(session.run(None, {linear.source: identity})[0][0])
    return np.ascontiguousarray(np.concatenate(found).T)


def embedding_of(subject: Subject, roles: TensorRoles, rows: int) -> np.ndarray:
    """The rows (V, M) float32 that the tokens gather, however they are stored."""
    part = subject.graph.between(INPUT_IDS, roles.embedding)
    session = open_graph(subject.path, changed=part)
    everything = np.arange(rows, dtype=np.int64)[None]
    with running(subject.path, "the embedding"):
        return np.asarray(session.run(None, {INPUT_IDS: everything})[0][0])


def ends(roles: TensorRoles) -> list[str]:
    """Tensors before the first layer and after the last."""
    return [roles.embedding, roles.head.source, LOGITS]
