"""Compares the attention and the perceptron of one layer with the reference's."""

from __future__ import annotations

import numpy as np

from ...export.model.model import Layer
from ...graphs.probing.matmuls import Matmul
from ..artifact_under_test import Subject
from ..cache_checks import hold, rows_of, scales_of
from ..probe import Observed
from ..reference import operators
from ..reference.reference import Reference
from ..tolerance import Tolerance
from .findings import LayerChecks
from .head_checks import HeadChecks
from .matrix_checks import MatrixChecks
from .operator_checks import HiddenState, OperatorChecks

_QKV = ("query", "key", "value")


class OneLayer:
    """Compares the parts of a layer and adds what it finds to ``checks``."""

    def __init__(
        self, subject: Subject, reference: Reference, tolerance: Tolerance, checks: LayerChecks
    ) -> None:
        self._subject, self._reference, self._tolerance = subject, reference, tolerance
        self._checks = checks
        self.matrices = MatrixChecks(subject, tolerance, checks)
        self.operators = OperatorChecks(subject, tolerance, checks)
        self.heads = HeadChecks(subject, self.operators)

    def compare_attention(
        self,
        number: int,
        layer: Layer,
        linears: dict[str, Matmul],
        seen: Observed,
        hidden: HiddenState,
    ) -> None:
        """Compare the norm, the projections, the cache and the attention itself."""
        query, key, value = self._query_key_value(number, layer, linears, seen, hidden)
        subject, config = self._subject, self._subject.config
        rope = self._reference.rope_of(number)
        held = hold(
            number,
            key,
            value,
            head_dim=config.head_dim,
            rope=rope,
            scales=subject.graph.cache_scales,
            is_half=subject.graph.holds_cache_in_half,
        )
        if subject.manifest is not None:  # others may have one scale for all
            self._checks.add(*scales_of(number, held, self._tolerance))
        inputs = {"query": query, "key": held[0].before_rope, "value": held[1].before_rope}
        attended = operators.attend(
            **inputs, config=config, rope=rope, window=config.windows[number]
        )
        rows = rows_of(
            number,
            held,
            seen.caches,
            layout=subject.layouts[number],
            tolerance=self._tolerance,
            inputs={"query": query, "key": key, "value": value},
        )
        self._checks.add(*rows)
        output = linears["output"]
        found = seen.source(output)
        bound = self._tolerance.attention_error
        self.operators.compare(number, "attention", inputs, found, attended, bound=bound)
        weight = layer.attention.output.weight.numpy()
        matrix = self.matrices.compare_matmul(number, output, {"output": weight})
        self.matrices.compare_rounding(number, output, {"output": weight}, matrix, found)
        self.operators.compare_matmul(
            number, "projection", output, {"x": found, "matrix": matrix}, seen.result(output)
        )

    def _query_key_value(
        self,
        number: int,
        layer: Layer,
        linears: dict[str, Matmul],
        seen: Observed,
        hidden: HiddenState,
    ) -> list[np.ndarray]:
        """Compare the attention's norm and projections; return the artifact's, (T, N) each."""
        packed = linears.get("query_key_value")
        normed = seen.source(packed or linears["query"])
        divisors = self.operators.compare_smoothed_norm(
            number, "attention_norm", layer.attention_norm.weight, hidden, normed
        )
        weights = {role: getattr(layer.attention, role).weight.numpy() * divisors for role in _QKV}
        if packed is None:
            for role, weight in weights.items():
                self._compare_linear(number, role, linears[role], {role: weight}, normed, seen)
            return [self.heads.compare(number, layer, linears[role], seen) for role in weights]
        self._compare_linear(number, "query_key_value", packed, weights, normed, seen)
        ends = np.cumsum([len(weight) for weight in weights.values()])
        return np.split(self.heads.compare(number, layer, packed, seen), ends[:-1], -1)

    def compare_mlp(
        self,
        number: int,
        layer: Layer,
        linears: dict[str, Matmul],
        seen: Observed,
        hidden: HiddenState,
    ) -> None:
        """Compare the norm, the three matmuls and the activation."""
        normed = seen.source(linears["gate"])
        divisors = self.operators.compare_smoothed_norm(
            number, "mlp_norm", layer.mlp_norm.weight, hidden, normed
        )
        for role in ("gate", "up", "down"):
            linear = linears[role]
            weight = getattr(layer.mlp, role).weight.numpy()
            if role == "down":
                gate, up = (seen.result(linears[other]) for other in ("gate", "up"))
                self.operators.compare(
                    number,
                    "activation",
                    {"gate": gate, "up": up},
                    seen.source(linear),
                    operators.activate(gate, up),
                )
            else:
                weight = weight * divisors
            name, x = f"mlp.{role}", seen.source(linear)
            self._compare_linear(number, name, linear, {role: weight}, x, seen)

    def _compare_linear(
        self,
        number: int,
        name: str,
        linear: Matmul,
        weights: dict[str, np.ndarray],
        x: np.ndarray,
        seen: Observed,
    ) -> None:
        """Compare a matmul's weights, then its output for its own input."""
        matrix = self.matrices.compare_matmul(number, linear, weights)
        self.matrices.compare_rounding(number, linear, weights, matrix, x)
        self.operators.compare_matmul(
            number, name, linear, {"x": x, "matrix": matrix}, seen.result(linear)
        )
