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
from ..artifact_under_test import Subject
from ..probe import matrix_of
from ..reference import operators
from ..tolerance import Tolerance
from .findings import ComparedTensor, LayerChecks, LayerFinding, block_errors

_OF_MLP = {"gate", "up", "down"}
_EXACT = 1e-5  # of the outputs: what rounding to nearest moves less has not moved


class MatrixChecks:
    """Compares weights and adds what it finds to ``checks``."""

    def __init__(self, subject: Subject, tolerance: Tolerance, checks: LayerChecks) -> None:
        self._subject, self._tolerance, self._checks = subject, tolerance, checks

    def compare_matmul(
        self,
        number: int | None,
        linear: Matmul,
        weights: dict[str, np.ndarray],
        *,
        is_smoothed: bool = False,
    ) -> np.ndarray:
        """Compare the matrix of one matmul with one or more of the checkpoint's, by role.

        With ``is_smoothed``, each column may be multiplied by a power of two.

        Returns:
            (N, K) float32, by which the kernel multiplies.
        """
        columns = next(iter(weights.values())).shape[1]
        whole = matrix_of(self._subject, linear, columns)
        if is_smoothed:
            published = np.concatenate(list(weights.values()))
            powers = 1 / operators.divisors_between(published, whole)
            weights = {role: weight * powers for role, weight in weights.items()}
        prefix = "" if number is None else "mlp." if linear.role in _OF_MLP else "attention."
        start = 0
        for role, expected in weights.items():
            found = whole[start : start + len(expected)]
            start += len(expected)
            self.compare_weights(
                number, prefix + role, expected, found, bits=linear.bits, block=linear.block
            )
        return whole

    def _bound(self, number: int | None, bits: int) -> float:
        """The bound on a weight: calibration rounds layers alone, the ends are to nearest."""
        is_nearest = number is None and self._subject.is_rounded_in_calibration
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
        if not self._subject.is_rounded_in_calibration or linear.block is None:
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
        for role, linear in linears.items():
            block = layer.mlp if role in _OF_MLP else layer.attention
            roles = ("query", "key", "value") if role == "query_key_value" else (role,)
            weights = {one: getattr(block, one).weight.numpy() for one in roles}
            is_smoothed = self._subject.is_smoothed and role not in ("output", "down")
            self.compare_matmul(number, linear, weights, is_smoothed=is_smoothed)

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
        row_share = self._subject.scale_step if bits < 32 else 0.0
        errors = block_errors(expected, found, block, row_share=row_share)
        row, column = np.unravel_index(np.nan_to_num(errors, nan=np.inf).argmax(), errors.shape)
        slack = self._subject.weight_slack if bits < 32 else 1.0
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
