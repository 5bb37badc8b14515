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
from typing import Any

import numpy as np
import torch

from ...export.formats.tensor_names import EMBEDDING, HEAD
from ...export.model.load import load_last_norm
from ...export.model.model import Layer
from ...runtime.contract import LOGITS
from ..artifact_under_test import Subject
from ..figures import relative_errors
from ..probe import Observed, embedding_of, ends, observe
from ..reference.reference import Reference
from ..tolerance import Tolerance
from .findings import LayerChecks
from .one_layer import OneLayer
from .operator_checks import HiddenState

Track = Callable[[Sequence[Any], str], Iterable[Any]]

_OBSERVED_BYTES = 2 << 30  # of inner tensors in memory at once; sets how many layers are grouped


def check_layers(
    subject: Subject,
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
        subject: the graph under test.
        reference: the model that it came from.
        tokens: (T,) int64, fed in pieces of the sizes ``cuts``.
        layers: ascending numbers; of the others, only the matrices are compared.
        tolerance: the recipe's.
        track: yields layers and shows progress.

    Raises:
        ContractError: the graph's matmuls are not found by their names.
    """
    walk = _Walk(subject, reference, tokens, cuts, layers, tolerance)
    with torch.no_grad():
        walk.compare_embedding()
        for group in track(walk.groups(), "looking into the graph"):
            walk.observe(group)
            for number, layer in reference.layers(group):
                walk.compare_layer(number, layer)
        walk.compare_head()
    return walk.checks


class _Walk:
    """One walk from the embedding to the logits."""

    def __init__(
        self,
        subject: Subject,
        reference: Reference,
        tokens: np.ndarray,
        cuts: Sequence[int],
        layers: Sequence[int],
        tolerance: Tolerance,
    ) -> None:
        self.checks = LayerChecks(tokens=tokens, cuts=list(cuts), layers=list(layers))
        self._config = subject.config
        self._subject, self._reference = subject, reference
        self._roles = subject.graph.tensor_roles(self._config.num_hidden_layers)
        self._one_layer = OneLayer(subject, reference, tolerance, self.checks)
        self._seen = Observed(tensors={}, caches=[])
        nothing = np.zeros(0)
        self._hidden = HiddenState(value=nothing, added=nothing, added_before=nothing)
        self._expected = torch.zeros(0)  # the reference's hidden state

    def groups(self) -> list[list[int]]:
        """Layers whose inner tensors fit in memory together."""
        c, groups = self._config, [[0]]
        whole = 3 * c.intermediate_size + 8 * c.hidden_size
        total = 0
        for number in range(c.num_hidden_layers):
            width = whole if number in self.checks.layers else 2 * c.hidden_size
            total += 4 * width * len(self.checks.tokens)
            if number and total > _OBSERVED_BYTES:
                groups.append([])
                total = 4 * width * len(self.checks.tokens)
            groups[-1] += [number] if number else []
        return groups

    def observe(self, group: Sequence[int]) -> None:
        """Run the graph once, with the inner tensors of these layers as outputs."""
        names = []
        for number in group:
            if number in self.checks.layers:
                names += self._roles.names(number)
            else:
                names += [self._roles.layers[number][role].result for role in ("output", "down")]
        is_last = group[-1] == self._config.num_hidden_layers - 1
        names += ends(self._roles)[:1] if not is_last else ends(self._roles)
        self._seen = observe(self._subject, names, self.checks.tokens, self.checks.cuts)
        if not self._hidden.value.size:
            self._hidden.value = self._seen.tensors[self._roles.embedding]

    def compare_embedding(self) -> None:
        """Compare the embedding's rows with the checkpoint's."""
        expected = self._reference.checkpoint.read(EMBEDDING)
        self._one_layer.matrices.compare_weights(
            None,
            "embedding",
            expected,
            embedding_of(self._subject, self._roles, len(expected)),
            bits=self._roles.embedding_bits,
            block=self._roles.embedding_block,
        )
        self._expected = torch.from_numpy(expected[self.checks.tokens])

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
        self._expected, _, _ = self._reference.run_layer(layer, self._expected)
        drift = relative_errors(self._expected.numpy(), self._hidden.value).mean()
        self.checks.drift.append(float(drift))

    def compare_head(self) -> None:
        """Compare the last norm, the head and the logits with the reference's."""
        head, one = self._roles.head, self._one_layer
        x, found = self._seen.source(head), self._seen.tensors[LOGITS]
        norm = load_last_norm(self._config, self._reference.checkpoint)
        one.operators.compare_norm(None, "norm", norm.weight, self._hidden, x)
        weight = self._reference.checkpoint.read(HEAD)
        matrix = one.matrices.compare_matmul(None, head, {"head": weight})
        one.operators.compare_matmul(None, "logits", head, {"x": x, "matrix": matrix}, found)
