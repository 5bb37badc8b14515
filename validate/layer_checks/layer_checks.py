"""Compares each weight, operator and cached row of a graph, one by one, with the reference.

Three comparisons per layer, in the order in which a token meets them. Weights: the matrix by which
the kernel multiplies, with the checkpoint's. Operators: the output of each, with the reference's
for the same inputs. Cache: each row, with the key or value that was computed for its position.

So an error is found where it is made, in every recipe: a window off by one shows in 4 bits as
clearly as in float, since attention is compared with the result for its own queries, keys and
values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...export.formats.tensor_names import EMBEDDING, HEAD
from ...export.model.load import load_last_norm
from ...export.model.model import Layer
from ...runtime.contract import LOGITS
from ..figures import relative_errors
from ..graph_under_test import GraphUnderTest
from ..probe import Observed, embedding_of, ends, observe
from ..reference import operators
from ..reference.reference import Reference
from ..tolerance import Tolerance
from .findings import LayerChecks
from .one_layer import OneLayer
from .operator_checks import HiddenState

Track = Callable[[Sequence[Any], str], Iterable[Any]]


def check_layers(
    tested: GraphUnderTest,
    reference: Reference,
    tokens: np.ndarray,
    cuts: Sequence[int],
    *,
    layers: Sequence[int],
    tolerance: Tolerance,
    track: Track,
) -> LayerChecks:
    """Compare every weight and operator of some layers, the embedding and the head.

    Args:
        tested: the graph under test.
        reference: the model that it came from.
        tokens: (T,) int64, fed in pieces of the sizes ``cuts``.
        layers: ascending numbers; of the others, only the matrices are compared.
        tolerance: the recipe's.
        track: yields layers and shows progress.

    Raises:
        ContractError: the graph's matmuls are not found by their names.
    """
    walk = _Walk(tested, reference, tokens, cuts, layers, tolerance)
    with torch.no_grad():
        walk.compare_embedding()
        with reference.store.scratch() as scratch:
            walk.observe(scratch)
            numbers = range(tested.config.num_hidden_layers)
            for number in track(numbers, "looking into the graph"):
                for _, layer in reference.layers([number]):
                    walk.compare_layer(number, layer)
            walk.compare_head()
    return walk.checks


class _Walk:
    """One walk from the embedding to the logits."""

    def __init__(
        self,
        tested: GraphUnderTest,
        reference: Reference,
        tokens: np.ndarray,
        cuts: Sequence[int],
        layers: Sequence[int],
        tolerance: Tolerance,
    ) -> None:
        self.checks = LayerChecks(tokens=tokens, cuts=list(cuts), layers=list(layers))
        self._config = tested.config
        self._tested, self._reference = tested, reference
        self._roles = tested.graph.tensor_roles(self._config.num_hidden_layers)
        self._one_layer = OneLayer(tested, reference, tolerance, self.checks)
        self._seen = Observed(tensors={}, caches=[])
        nothing = np.zeros(0)
        self._hidden = HiddenState(value=nothing, added=nothing, added_before=nothing)
        # The reference's hidden state behind each layer, at some positions.
        self._positions, self._expected = reference.hidden(tokens)

    def observe(self, scratch: Path) -> None:
        """Run the graph once; its inner tensors go to a folder, as all of them are too large."""
        names = ends(self._roles)
        for number, linears in enumerate(self._roles.layers):
            if number in self.checks.layers:
                names += self._roles.names(number)
            else:
                names += [linears[role].result for role in ("output", "down")]
        self._seen = observe(
            self._tested,
            names,
            self.checks.tokens,
            self.checks.cuts,
            layers=self.checks.layers,
            folder=scratch,
        )
        self._hidden.value = self._seen.tensors[self._roles.embedding]

    def compare_embedding(self) -> None:
        """Compare the embedding's rows with the checkpoint's."""
        expected = self._reference.checkpoint.read(EMBEDDING)
        found = embedding_of(self._tested, self._roles, len(expected))
        powers = np.asarray(np.ones(expected.shape[1], np.float32))
        if self._tested.is_smoothed:  # as the head, where both are one matrix
            stored = embedding_of(self._tested, self._roles, len(expected), as_stored=True)
            powers = np.asarray(1 / operators.divisors_between(expected, stored), np.float32)
        self._one_layer.matrices.compare_weights(
            None,
            "embedding",
            expected * powers,
            found * powers,
            bits=self._roles.embedding_bits,
            block=self._roles.embedding_block,
        )

    def compare_layer(self, number: int, layer: Layer) -> None:
        """Compare one layer with the reference's, and move both hidden states behind it."""
        linears, seen, one = self._roles.layers[number], self._seen, self._one_layer
        are_operators_compared = number in self.checks.layers
        if are_operators_compared:
            one.compare_attention(number, layer, linears, seen, self._hidden)
        self._hidden.add(seen.result(linears["output"]))
        if are_operators_compared:
            one.compare_mlp(number, layer, linears, seen, self._hidden)
        else:
            one.matrices.compare_layer(number, layer, linears)
        self._hidden.add(seen.result(linears["down"]))
        found = self._hidden.value[self._positions]
        drift = relative_errors(self._expected[number], found).mean()
        self.checks.drift.append(float(drift))

    def compare_head(self) -> None:
        """Compare the last norm, the head and the logits with the reference's."""
        head, one = self._roles.head, self._one_layer
        x, found = self._seen.source(head), self._seen.tensors[LOGITS]
        norm = load_last_norm(self._config, self._reference.checkpoint)
        divisors = one.operators.compare_smoothed_norm(None, "norm", norm.weight, self._hidden, x)
        weight = self._reference.checkpoint.read(HEAD) * divisors
        matrix = one.matrices.compare_matmul(None, head, {"head": weight})
        one.operators.compare_matmul(None, "logits", head, {"x": x, "matrix": matrix}, found)
