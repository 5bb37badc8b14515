"""Logits with a format's weights alone, computed in PyTorch in float32.

Activations, sums and the KV cache are not rounded. What these logits lose is the weights' part of
what the format loses in its own runtime.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...export.formats.checkpoint import Checkpoint
from ...validate.graph_under_test import open_graph_under_test
from ...validate.reference.kernel_rounding import KernelRounding
from ...validate.reference.recipe_reference import RecipeReference
from ...validate.reference.reference import Reference
from ...validate.reference.weights import ArtifactWeights, LayerWeights, Product


@dataclass(frozen=True, kw_only=True)
class FloatActivations:
    """The weights by which an artifact's kernels multiply, of activations that stay in float."""

    weights: ArtifactWeights

    def embedding(self) -> np.ndarray:
        """(V, M) float32."""
        return self.weights.embedding()

    def layer(self, number: int) -> LayerWeights:
        """One layer."""
        found = self.weights.layer(number)
        products = {role: _in_float(product) for role, product in found.products.items()}
        return dataclasses.replace(found, products=products)

    def last_norm(self) -> np.ndarray:
        """(M,) float32."""
        return self.weights.last_norm()

    def head(self) -> Product:
        """(T, M) to logits (T, V)."""
        return _in_float(self.weights.head())


def _in_float(product: Product) -> Product:
    return dataclasses.replace(product, rounding=None)


def of_artifact(artifact: Path, reference: Reference, sequences: np.ndarray) -> list[np.ndarray]:
    """Logits (T, V) float32 of each of some sequences (N, T) int64.

    Args:
        artifact: folder written by export.
        reference: of the model that it was made of.
        sequences: tokens.

    Raises:
        ContractError: the artifact does not keep its contract.
    """
    tested = open_graph_under_test(artifact, reference.config)
    weights = ArtifactWeights(
        tested=tested,
        roles=tested.graph.tensor_roles(tested.config.num_hidden_layers),
        checkpoint=reference.checkpoint,
        rounding=KernelRounding(tested),
    )
    runs = RecipeReference(tested, reference, FloatActivations(weights=weights))
    return [one.run.logits for one in runs.runs(list(sequences))]


def of_gguf(path: Path, reference: Reference, sequences: np.ndarray) -> list[np.ndarray]:
    """Logits (T, V) float32 of each of some sequences (N, T) int64.

    Args:
        path: a file of the same model.
        reference: of the model; for its window and rope, the store and progress.
        sequences: tokens.

    Raises:
        CheckpointError: the file is unreadable.
    """
    with Checkpoint.open(path) as checkpoint:
        own = Reference(reference.config, checkpoint, store=reference.store, track=reference.track)
        return [run.logits for run in own.runs(list(sequences))]
