"""Compares what is made of queries, keys and values before attention: biases, norms of heads."""

from __future__ import annotations

import numpy as np

from ...export.model.model import Layer
from ...graphs.probing.matmuls import Matmul
from ..graph_under_test import GraphUnderTest
from ..probe import Observed
from ..reference import operators
from .operator_checks import OperatorChecks

BIAS, NORM = "bias", "norm"  # how names of these findings end
NORMED = ("query", "key")
_PARTS = {"query_key_value": ("query", "key", "value")}


class HeadChecks:
    """Compares them for one matmul, and hands on what attention reads."""

    def __init__(self, tested: GraphUnderTest, checks: OperatorChecks) -> None:
        self._config, self._checks = tested.config, checks

    def compare(self, number: int, layer: Layer, linear: Matmul, seen: Observed) -> np.ndarray:
        """Compare the parts that the model has behind a matmul.

        A graph that lacks a part hands on what it has: the comparison finds that.

        Returns:
            (T, N) float32, the artifact's own.
        """
        found, role = seen.result(linear), linear.role
        if self._config.has_qkv_bias:
            roles = _PARTS.get(role, (role,))
            parts = [getattr(layer.attention, one).bias.detach().numpy() for one in roles]
            inputs = {"x": found, "bias": np.concatenate(parts)}
            found = found if linear.biased is None else seen.tensors[linear.biased]
            expected = inputs["x"] + inputs["bias"]
            self._checks.compare(number, f"{role} {BIAS}", inputs, found, expected)
        if self._config.has_head_norms and role in NORMED:
            weight = getattr(layer.attention, f"{role}_norm").weight.detach().numpy()
            inputs = {"x": found, "weight": weight}
            found = found if linear.normed is None else seen.tensors[linear.normed]
            expected = operators.norm_heads(inputs["x"], weight, self._config.rms_norm_eps)
            self._checks.compare(number, f"{role} {NORM}", inputs, found, expected)
        return found
