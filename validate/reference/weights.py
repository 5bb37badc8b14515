"""The weights by which one model multiplies, layer by layer: an artifact's, or a checkpoint's.

An artifact's weights are those that its kernels multiply by, and each matmul rounds activations
as its kernel does. So a reference that runs on them differs from the artifact only in the order of
its sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from ...export.config import MistralConfig
from ...export.formats.checkpoint import Checkpoint
from ...export.formats.tensor_names import EMBEDDING, HEAD, LAST_NORM
from ...graphs.probing.matmuls import Matmul
from ...graphs.probing.tensor_roles import TensorRoles
from ...graphs.quantization.activation_rounding import Rounding
from ..graph_under_test import GraphUnderTest
from ..probe import embedding_of, matrix_of
from . import operators
from .kernel_rounding import KernelRounding

_NORMS = ("attention_norm", "mlp_norm")
# The matrices that show by what a norm is divided: rows of ``up`` may be divided as well.
_READERS = {"attention_norm": ("query", "key", "value"), "mlp_norm": ("gate",)}
_QKV = ("query", "key", "value")
_PREFIXES = {**dict.fromkeys((*_QKV, "output"), "attention."), "head": ""}


@dataclass(frozen=True, kw_only=True, slots=True)
class Product:
    """One matmul: rows (T, K) float32 to rows (T, N) float32."""

    matrix: np.ndarray  # (N, K) float32
    rounding: Rounding | None  # of the rows; None: they are multiplied in float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(T, K) float32 to (T, N) float32."""
        rows = x if self.rounding is None else self.rounding(x)
        return (torch.from_numpy(rows) @ torch.from_numpy(self.matrix).T).numpy()


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerWeights:
    """One layer."""

    norms: Mapping[str, np.ndarray]  # (M,) float32 by ``attention_norm`` and ``mlp_norm``
    # Biases of queries, keys and values (N,), and norms of heads (D,), by role: as published.
    biases: Mapping[str, np.ndarray]
    head_norms: Mapping[str, np.ndarray]
    products: Mapping[str, Product]  # by role; query, key and value may be one, query_key_value


class Weights(Protocol):
    """All weights of one model; a layer is read when it is asked for."""

    def embedding(self) -> np.ndarray:
        """(V, M) float32."""

    def layer(self, number: int) -> LayerWeights:
        """One layer."""

    def last_norm(self) -> np.ndarray:
        """(M,) float32."""

    def head(self) -> Product:
        """(T, M) to logits (T, V)."""


@dataclass(frozen=True, kw_only=True)
class CheckpointWeights:
    """As published, nothing rounded."""

    checkpoint: Checkpoint

    def embedding(self) -> np.ndarray:
        """(V, M) float32."""
        return self.checkpoint.read(EMBEDDING)

    def layer(self, number: int) -> LayerWeights:
        """One layer."""
        roles = (*_QKV, "output", "gate", "up", "down")
        return LayerWeights(
            **_of_heads(self.checkpoint, number),
            norms={
                name: self.checkpoint.read(f"layers.{number}.{name}.weight") for name in _NORMS
            },
            products={
                role: Product(matrix=_published(self.checkpoint, number, role), rounding=None)
                for role in roles
            },
        )

    def last_norm(self) -> np.ndarray:
        """(M,) float32."""
        return self.checkpoint.read(LAST_NORM)

    def head(self) -> Product:
        """(T, M) to logits (T, V)."""
        return Product(matrix=self.checkpoint.read(HEAD), rounding=None)


@dataclass(frozen=True, kw_only=True)
class ArtifactWeights:
    """As the artifact's kernels multiply by them; norms as the recipe says."""

    tested: GraphUnderTest
    roles: TensorRoles
    checkpoint: Checkpoint
    rounding: KernelRounding

    def embedding(self) -> np.ndarray:
        """(V, M) float32."""
        return embedding_of(self.tested, self.roles, self.tested.config.vocab_size)

    def layer(self, number: int) -> LayerWeights:
        """One layer."""
        products = {
            role: self._product(linear) for role, linear in self.roles.layers[number].items()
        }
        norms = {}
        for name in _NORMS:
            weight = self.checkpoint.read(f"layers.{number}.{name}.weight")
            norms[name] = weight / self._divisors(number, name, products)
        return LayerWeights(**_of_heads(self.checkpoint, number), norms=norms, products=products)

    def last_norm(self) -> np.ndarray:
        """(M,) float32."""
        weight = self.checkpoint.read(LAST_NORM)
        if not self.tested.is_smoothed:
            return weight
        found = matrix_of(self.tested, self.roles.head, len(weight))
        return np.asarray(weight * operators.divisors_between(self.checkpoint.read(HEAD), found))

    def head(self) -> Product:
        """(T, M) to logits (T, V)."""
        return self._product(self.roles.head)

    def _product(self, linear: Matmul) -> Product:
        columns = columns_of(linear.role, self.tested.config)
        matrix = matrix_of(self.tested, linear, columns)
        return Product(matrix=matrix, rounding=self.rounding.of(linear, matrix))

    def _divisors(self, number: int, norm: str, products: Mapping[str, Product]) -> np.ndarray:
        """Powers of two by which smoothing divided a norm's channels, from the matrices: (M,)."""
        if not self.tested.is_smoothed:
            return np.ones(self.tested.config.hidden_size, np.float32)
        readers = _READERS[norm]
        names = ["query_key_value"] if readers == _QKV and _QKV[0] not in products else readers
        found = np.concatenate([products[name].matrix for name in names])
        published = [_published(self.checkpoint, number, role) for role in readers]
        return 1 / operators.divisors_between(np.concatenate(published), found)


def _of_heads(checkpoint: Checkpoint, number: int) -> dict[str, dict[str, np.ndarray]]:
    """The biases and the norms of heads that a layer has; no recipe rounds them."""
    start = f"layers.{number}.attention."
    names = {
        "biases": {role: f"{start}{role}.bias" for role in _QKV},
        "head_norms": {role: f"{start}{role}_norm.weight" for role in _QKV[:2]},
    }
    return {
        kind: {
            role: checkpoint.read(name)
            for role, name in each.items()
            if name in checkpoint.parameters
        }
        for kind, each in names.items()
    }


def columns_of(role: str, config: MistralConfig) -> int:
    """K of a matmul."""
    return {
        "output": config.num_attention_heads * config.head_dim,
        "down": config.intermediate_size,
    }.get(role, config.hidden_size)


def _published(checkpoint: Checkpoint, number: int, role: str) -> np.ndarray:
    return checkpoint.read(f"layers.{number}.{_PREFIXES.get(role, 'mlp.')}{role}.weight")
