"""Compares the output of each operator of a graph with the reference's for the same inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor, from_numpy

from ...graphs.probing.matmuls import Matmul
from ..figures import relative_errors, row_parts
from ..graph_under_test import GraphUnderTest
from ..reference import operators
from ..reference.kernel_rounding import KernelRounding
from ..tolerance import Tolerance
from .findings import ComparedTensor, LayerChecks, LayerFinding


@dataclass(kw_only=True)
class HiddenState:
    """The artifact's own hidden state, (T, M), and what was added to it last."""

    value: np.ndarray
    added: np.ndarray
    added_before: np.ndarray

    def add(self, output: np.ndarray) -> None:
        """Add the output of an attention or a perceptron."""
        self.added_before, self.added = self.added, output
        self.value = self.value + output


class OperatorChecks:
    """Compares operators and adds what it finds to ``checks``."""

    def __init__(self, tested: GraphUnderTest, tolerance: Tolerance, checks: LayerChecks) -> None:
        self._tested, self._tolerance, self._checks = tested, tolerance, checks
        self._epsilon = tested.config.rms_norm_eps
        self._rounding = KernelRounding(tested)

    def compare(
        self,
        number: int | None,
        name: str,
        inputs: dict[str, np.ndarray],
        found: np.ndarray,
        expected: np.ndarray,
        *,
        bound: float | None = None,
    ) -> None:
        """Compare one output, position by position; ``bound`` is float32's if None."""
        errors = np.nan_to_num(relative_errors(expected, found), nan=np.inf)
        finding = LayerFinding(
            layer=number,
            name=name,
            kind="operators",
            error=float(errors.max()),
            bound=self._tolerance.float_error if bound is None else bound,
            position=int(errors.argmax()),
        )
        self._checks.add(
            ComparedTensor(finding=finding, inputs=inputs, found=found, expected=expected)
        )

    def compare_matmul(
        self,
        number: int | None,
        name: str,
        linear: Matmul,
        inputs: dict[str, np.ndarray],
        found: np.ndarray,
    ) -> None:
        """Compare a matmul of ``inputs["x"]`` (T, K) by ``inputs["matrix"]`` (N, K)."""
        x = inputs["x"]
        rounding = self._rounding.of(linear, inputs["matrix"])
        if rounding is not None:
            x = np.concatenate([rounding(x[part]) for part in row_parts(x)])
        expected = operators.multiply(x, inputs["matrix"])
        bound = None if rounding is None else self._tolerance.rounded_error
        if not linear.is_rounding_known:
            bound = self._tolerance.scale * _half_a_step(x, inputs["matrix"], expected)
        self.compare(number, name, inputs, found, expected, bound=bound)

    def compare_norm(
        self,
        number: int | None,
        name: str,
        weight: Tensor,
        hidden: HiddenState,
        found: np.ndarray,
    ) -> None:
        """Compare a norm of the hidden state."""
        inputs = {
            "x": hidden.value,
            "added": hidden.added,
            "added_before": hidden.added_before,
            "weight": weight.numpy(),
        }
        expected = operators.norm(hidden.value, inputs["weight"], self._epsilon)
        self.compare(number, name, inputs, found, expected)

    def compare_smoothed_norm(
        self,
        number: int | None,
        name: str,
        weight: Tensor,
        hidden: HiddenState,
        found: np.ndarray,
    ) -> np.ndarray:
        """Compare a norm whose channels may each be divided by a power of two.

        Returns:
            (M,) float32: the factors that the matrices after it are multiplied by to make up for
            the division; ones if nothing is smoothed.
        """
        divisors = np.ones(len(weight), np.float32)
        if self._tested.is_smoothed:
            plain = operators.norm(hidden.value, weight.numpy(), self._epsilon)
            divisors = operators.divisors_between(plain, found)
        self.compare_norm(number, name, weight / from_numpy(divisors), hidden, found)
        return divisors


def _half_a_step(x: np.ndarray, matrix: np.ndarray, expected: np.ndarray) -> float:
    """The most that rounding to 256 steps between x's extremes can change a position by.

    Relative to the position's length, where that is largest.
    """
    step = (max(float(x.max()), 0.0) - min(float(x.min()), 0.0)) / 255
    reach = np.linalg.norm(np.abs(matrix).sum(axis=1)) * step / 2
    return float((reach / np.linalg.norm(expected, axis=1)).max())
