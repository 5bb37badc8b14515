"""Compares the matrices by which a graph's kernels multiply with the checkpoint's."""

from __future__ import annotations

import numpy as np
import torch

from ...export.model.model import Layer
from ...graphs.probing.matmuls import Matmul
from ...graphs.quantization.codes import dequantize
from ...graphs.quantization.methods.round_to_nearest import METHOD as ROUND_TO_NEAREST
from ...graphs.quantization.methods.round_to_nearest import quantize
from ...graphs.quantization.scheme import Scheme
from ..graph_under_test import GraphUnderTest
from ..probe import matrix_of
from ..reference import operators
from ..tolerance import Tolerance
from .findings import ComparedTensor, LayerChecks, LayerFinding, block_errors

_OF_MLP = {"gate", "up", "down"}
_QKV, _STACK = ("query", "key", "value"), "query_key_value"
_EXACT = 1e-5  # of the outputs: what rounding to nearest moves less has not moved


class MatrixChecks:
    """Compares weights and adds what it finds to ``checks``."""

    def __init__(self, tested: GraphUnderTest, tolerance: Tolerance, checks: LayerChecks) -> None:
        self._tested, self._tolerance, self._checks = tested, tolerance, checks

    def compare_matmul(
        self, number: int | None, linear: Matmul, weights: dict[str, np.ndarray]
    ) -> np.ndarray:
        """Compare the matrix of one matmul with one or more of the checkpoint's, by role.

        Returns:
            (N, K) float32, by which the kernel multiplies.
        """
        columns = next(iter(weights.values())).shape[1]
        whole = matrix_of(self._tested, linear, columns)
        self.compare_matrix(number, linear, weights, whole)
        return whole

    def compare_up(
        self, number: int, linear: Matmul, weight: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compare ``up``, each row of which may be divided by a power of two.

        Returns:
            (F, M) float32, by which the kernel multiplies; and (F,) float32, the factors that the
            columns of ``down`` are multiplied by to make up for the division, ones if nothing is
            smoothed.
        """
        whole = matrix_of(self._tested, linear, weight.shape[1])
        divisors = np.ones(len(weight), np.float32)
        if self._tested.is_smoothed:
            divisors = operators.divisors_between(weight.T, whole.T)
        self.compare_matrix(number, linear, {"up": weight / divisors[:, None]}, whole)
        return whole, divisors

    def compare_matrix(
        self,
        number: int | None,
        linear: Matmul,
        weights: dict[str, np.ndarray],
        whole: np.ndarray,
    ) -> None:
        """Compare the matrix (N, K) of one matmul with those of the checkpoint, by role."""
        prefix = "" if number is None else "mlp." if linear.role in _OF_MLP else "attention."
        start = 0
        for role, expected in weights.items():
            found = whole[start : start + len(expected)]
            start += len(expected)
            self.compare_weights(
                number, prefix + role, expected, found, bits=linear.bits, block=linear.block
            )

    def _bound(self, number: int | None, bits: int) -> float:
        """The bound on a weight: calibration rounds layers alone, the ends are to nearest."""
        is_nearest = number is None and self._tested.is_rounded_in_calibration
        if is_nearest and bits in ROUND_TO_NEAREST.weight_errors:
            return ROUND_TO_NEAREST.weight_errors[bits] * self._tolerance.scale
        return self._tolerance.weight_error_for(bits)

    def compare_rounding(
        self,
        number: int,
        linear: Matmul,
        weights: dict[str, np.ndarray],
        matrix: np.ndarray,
        x: np.ndarray,
    ) -> None:
        """Compare what rounding does to a matmul's outputs with what rounding to nearest does.

        Only where calibration rounds the layers: it may move a weight by several steps, but not
        the outputs by more than rounding to nearest would, to as many bits.

        Args:
            number: of the layer.
            linear: the matmul.
            weights: the checkpoint's matrices, by role, whose rows it has one above the other.
            matrix: (N, K) float32, by which its kernel multiplies.
            x: (T, K) float32, its inputs.
        """
        if not self._tested.is_rounded_in_calibration or linear.block is None:
            return
        scheme = Scheme(bits=linear.bits, block=linear.block)
        inputs, start = torch.from_numpy(x), 0
        for role, weight in weights.items():
            found = matrix[start : start + len(weight)]
            start += len(weight)
            nearest = dequantize(quantize(weight, scheme), scheme, columns=weight.shape[1])
            ours, theirs = (
                float(torch.linalg.norm(inputs @ torch.from_numpy(each - weight).T))
                for each in (found, nearest)
            )
            outputs = float(torch.linalg.norm(inputs @ torch.from_numpy(weight).T))
            prefix = "mlp." if linear.role in _OF_MLP else "attention."
            finding = LayerFinding(
                layer=number,
                name=prefix + role,
                kind="rounding",
                error=ours / max(theirs, outputs * _EXACT, 1e-30),
                bound=self._tolerance.rounding_error,
                position=None,
            )
            self._checks.add(
                ComparedTensor(finding=finding, inputs={"x": x}, found=found, expected=weight)
            )

    def compare_layer(self, number: int, layer: Layer, linears: dict[str, Matmul]) -> None:
        """Compare the matrices of a layer whose operators are not compared."""
        attention = {
            one: getattr(layer.attention, one).weight.numpy() for one in (*_QKV, "output")
        }
        mlp = {one: getattr(layer.mlp, one).weight.numpy() for one in ("gate", "up", "down")}
        powers = None
        for role in (_STACK,) if _STACK in linears else _QKV:
            parts = {one: attention[one] for one in (_QKV if role == _STACK else (role,))}
            powers = self._compare_reader(number, linears[role], parts, powers)
        self.compare_matmul(number, linears["output"], {"output": attention["output"]})
        powers = self._compare_reader(number, linears["gate"], {"gate": mlp["gate"]}, None)
        _, divisors = self.compare_up(number, linears["up"], mlp["up"] * powers)
        self.compare_matmul(number, linears["down"], {"down": mlp["down"] * divisors})

    def _compare_reader(
        self,
        number: int,
        linear: Matmul,
        weights: dict[str, np.ndarray],
        powers: np.ndarray | None,
    ) -> np.ndarray:
        """Compare a matrix that reads a norm; each column may be multiplied by a power of two.

        Args:
            number: of the layer.
            linear: the matmul.
            weights: the checkpoint's matrices, by role.
            powers: of an earlier reader of the norm, (M,); None: this is the first.

        Returns:
            (M,) float32, those powers; ones if nothing is smoothed.
        """
        published = np.concatenate(list(weights.values()))
        whole = matrix_of(self._tested, linear, published.shape[1])
        if powers is None:
            powers = np.ones(published.shape[1], np.float32)
            if self._tested.is_smoothed:
                powers = 1 / operators.divisors_between(published, whole)
        self.compare_matrix(
            number, linear, {role: weight * powers for role, weight in weights.items()}, whole
        )
        return powers

    def compare_weights(
        self,
        number: int | None,
        name: str,
        expected: np.ndarray,
        found: np.ndarray,
        *,
        bits: int,
        block: int | None,
    ) -> None:
        """Compare one matrix (N, K) with another, block by block."""
        block = expected.shape[1] if bits == 32 else block
        row_share = self._tested.scale_step if bits < 32 else 0.0
        errors = block_errors(expected, found, block, row_share=row_share)
        row, column = np.unravel_index(np.nan_to_num(errors, nan=np.inf).argmax(), errors.shape)
        slack = self._tested.weight_slack if bits < 32 else 1.0
        finding = LayerFinding(
            layer=number,
            name=name,
            kind="weights",
            error=float(errors[row, column]),
            bound=self._bound(number, bits) * slack,
            position=None,
            detail=f"row {row}" + (f", block {column}" if errors.shape[1] > 1 else ""),
        )
        inputs = {"block": np.array(block or 0), "row_share": np.array(row_share)}
        self._checks.add(
            ComparedTensor(finding=finding, inputs=inputs, found=found, expected=expected)
        )
