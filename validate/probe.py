"""Measures inner tensors of a graph, and the matrices that its kernels multiply by."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..graphs.probing.matmuls import Matmul
from ..graphs.probing.tensor_roles import INPUT_IDS, TensorRoles
from ..runtime.contract import LOGITS
from ..runtime.errors import ContractError
from ..runtime.ort.ort_session import open_graph, ort
from .graph_under_test import GraphUnderTest
from .run_graph import CacheOfLayers, running

_ROWS_AT_ONCE = 1024  # of the identity that a multiplication is probed with
_SIGN_ROWS, _SEED = 64, 0x7369676E  # of random signs
_SAME = 2e-5  # of a matrix's row: differences of sums in float32, as ``tolerance.py`` allows them


class OnDisk(Mapping[str, np.ndarray]):
    """Tensors (T, N) float32 by name, each in a file; one that is asked for is read."""

    def __init__(self, folder: Path, rows: int) -> None:
        """Begin with none, of so many rows T each."""
        self._folder, self._rows = folder, rows
        self._paths: dict[str, Path] = {}

    def append(self, name: str, rows: np.ndarray) -> None:
        """Write the next rows (n, N) of a tensor."""
        path = self._paths.setdefault(name, self._folder / f"{len(self._paths)}.npy")
        with path.open("ab") as file:
            np.ascontiguousarray(rows, np.float32).tofile(file)

    def __getitem__(self, name: str) -> np.ndarray:
        return np.fromfile(self._paths[name], np.float32).reshape(self._rows, -1)

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """Inner tensors of one sequence, and the cache as it was after each piece of it."""

    tensors: Mapping[str, np.ndarray]  # (T, N) float32 by name
    caches: Sequence[tuple[int, CacheOfLayers]]  # tokens so far, and the held rows

    def source(self, linear: Matmul) -> np.ndarray:
        """Input of a matmul: (T, K) float32."""
        return self.tensors[linear.source]

    def result(self, linear: Matmul) -> np.ndarray:
        """Output of a matmul: (T, N) float32."""
        return self.tensors[linear.result]


def observe(
    tested: GraphUnderTest,
    names: Sequence[str],
    tokens: np.ndarray,
    cuts: Sequence[int],
    *,
    layers: Collection[int],
    folder: Path,
) -> Observed:
    """Feed a sequence in pieces to the graph alone, its inner tensors made outputs.

    Args:
        tested: the graph.
        names: of the inner tensors.
        tokens: (T,) int64, fed in pieces of the sizes ``cuts``.
        layers: whose cache is copied after each piece.
        folder: an empty one, in which the tensors lie as long as they are read.
    """
    wanted = list(dict.fromkeys(names))
    runner = tested.graph_runner(outputs=wanted)
    tensors, caches, total = OnDisk(folder, sum(cuts)), [], 0
    for size in cuts:
        piece = slice(total, total + size)
        found = runner.run(tokens[None, piece], wanted)
        for name in wanted:
            tensors.append(name, found.pop(name)[0])
        total += size
        caches.append((total, {layer: runner.rows(layer) for layer in layers}))
    return Observed(tensors=tensors, caches=caches)


def open_product(tested: GraphUnderTest, linear: Matmul) -> ort.InferenceSession:
    """One matmul of the graph alone, with the rounding around it."""
    part = tested.graph.between(linear.source, linear.result)
    return open_graph(tested.path, changed=part)


def matrix_of(tested: GraphUnderTest, linear: Matmul, columns: int) -> np.ndarray:
    """The matrix (N, K) float32 by which the kernel multiplies, however it is stored.

    It is the stored one where the kernel multiplies rows of random signs as that would; else it
    is measured by multiplying the identity, which takes as long as a sequence of K tokens.
    """
    session = open_product(tested, linear)
    with running(tested.path, f"the multiplication of {linear.result}"):
        stored = _stored_matrix(tested, linear, columns)
        if stored is not None and _multiplies_by(session, linear, stored):
            return stored
        return _measured_matrix(session, linear, columns)


def _stored_matrix(tested: GraphUnderTest, linear: Matmul, columns: int) -> np.ndarray | None:
    """The matrix of the matmul's node by the operator's definition; None where it has none."""
    product = tested.graph.stored_product(linear.result)
    if product is None or product.source != linear.source:
        return None
    try:
        operands = open_graph(tested.path, changed=product.operands).run(None, {})
    except ContractError:
        return None
    return product.matrix(operands, columns)


def _multiplies_by(session: ort.InferenceSession, linear: Matmul, matrix: np.ndarray) -> bool:
    """Whether a kernel multiplies by a matrix (N, K), as far as float32's sums can show.

    Each number of a row of signs counts as much as any other, and 8 bits hold it exactly. So a
    single weight that differs changes one sum of each row by that difference or its negative: of
    14336 columns it shows from about a tenth of a step of 8 bits on.
    """
    rng = np.random.default_rng(_SEED)
    signs = rng.choice(np.array([-1, 1], np.float32), (_SIGN_ROWS, matrix.shape[1]))
    found = session.run(None, {linear.source: signs[None]})[0][0]
    difference = np.abs(found - signs @ matrix.T)
    allowed = _SAME * np.linalg.norm(matrix, axis=1)
    return bool((difference <= allowed).all())


def _measured_matrix(session: ort.InferenceSession, linear: Matmul, columns: int) -> np.ndarray:
    """Each row of the identity, multiplied, is one column of the matrix.

    A kernel that rounds what it multiplies rounds ones and zeros to themselves.
    """
    found = []
    for start in range(0, columns, _ROWS_AT_ONCE):
        rows = min(_ROWS_AT_ONCE, columns - start)
        identity = np.eye(rows, columns, k=start, dtype=np.float32)[None]
        found.append(session.run(None, {linear.source: identity})[0][0])
    return np.ascontiguousarray(np.concatenate(found).T)


def embedding_of(
    tested: GraphUnderTest, roles: TensorRoles, rows: int, *, as_stored: bool = False
) -> np.ndarray:
    """The rows (V, M) float32 that the tokens gather, however they are stored.

    With ``as_stored``, before their columns get their own sizes.
    """
    name = roles.stored_embedding if as_stored else roles.embedding
    part = tested.graph.between(INPUT_IDS, name)
    session = open_graph(tested.path, changed=part)
    everything = np.arange(rows, dtype=np.int64)[None]
    with running(tested.path, "the embedding"):
        return np.asarray(session.run(None, {INPUT_IDS: everything})[0][0])


def ends(roles: TensorRoles) -> list[str]:
    """Tensors before the first layer and after the last."""
    return [roles.embedding, roles.head.source, LOGITS]
