"""Compares the attention and the perceptron of one layer with the reference's."""

from __future__ import annotations

import numpy as np

from ...export.model.model import Layer
from ...graphs.probing.matmuls import Matmul
from ..graph_under_test import GraphUnderTest
from ..probe import Observed
from ..reference import operators
from ..reference.held_rows import hold
from ..reference.reference import Reference
from ..tolerance import Tolerance
from .cache_checks import rows_of, scales_of
from .findings import LayerChecks
from .head_checks import HeadChecks
from .matrix_checks import MatrixChecks
from .operator_checks import HiddenState, OperatorChecks

_QKV = ("query", "key", "value")


class OneLayer:
    """Compares the parts of a layer and adds what it finds to ``checks``."""

    def __init__(
        self,
        tested: GraphUnderTest,
        reference: Reference,
        tolerance: Tolerance,
        checks: LayerChecks,
    ) -> None:
        self._tested, self._reference, self._tolerance = tested, reference, tolerance
        self._checks = checks
        self.matrices = MatrixChecks(tested, tolerance, checks)
        self.operators = OperatorChecks(tested, tolerance, checks)
        self.heads = HeadChecks(tested, self.operators)

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
        tested, config = self._tested, self._tested.config
        query = operators.scale_queries(query, config)
        rope = self._reference.rope_of(number)
        held = hold(
            number,
            key,
            value,
            head_dim=config.head_dim,
            rope=rope,
            scales=tested.graph.cache_scales,
            is_half=tested.graph.holds_cache_in_half,
        )
        if tested.manifest is not None:  # others may have one scale for all
            self._checks.add(*scales_of(number, held, self._tolerance))
        inputs = {"query": query, "key": held[0].before_rope, "value": held[1].before_rope}
        attended = operators.attend(
            query,
            inputs["key"],
            inputs["value"],
            config=config,
            rope=rope,
            window=config.windows[number],
        )
        rows = rows_of(
            number,
            held,
            seen.caches,
            layout=tested.layouts[number],
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
        gate, up, down = (getattr(layer.mlp, one).weight.numpy() for one in ("gate", "up", "down"))
        self._compare_linear(
            number, "mlp.gate", linears["gate"], {"gate": gate * divisors}, normed, seen
        )
        up = up * divisors
        matrix, of_rows = self.matrices.compare_up(number, linears["up"], up)
        self._compare_product(
            number,
            "mlp.up",
            linears["up"],
            {"up": up / of_rows[:, None]},
            {"x": normed, "matrix": matrix},
            seen,
        )
        product = seen.source(linears["down"])
        factors = {one: seen.result(linears[one]) for one in ("gate", "up")}
        self.operators.compare(
            number, "activation", factors, product, operators.activate(*factors.values())
        )
        self._compare_linear(
            number, "mlp.down", linears["down"], {"down": down * of_rows}, product, seen
        )

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
        self._compare_product(number, name, linear, weights, {"x": x, "matrix": matrix}, seen)

    def _compare_product(
        self,
        number: int,
        name: str,
        linear: Matmul,
        weights: dict[str, np.ndarray],
        inputs: dict[str, np.ndarray],
        seen: Observed,
    ) -> None:
        """Compare what rounding does to a matmul's outputs, and the outputs themselves."""
        self.matrices.compare_rounding(number, linear, weights, inputs["matrix"], inputs["x"])
        self.operators.compare_matmul(number, name, linear, inputs, seen.result(linear))
