"""Rounds the matrices of one layer while sequences run through it."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ...console.progress import say
from ...graphs.quantization.codes import Blocks, dequantize
from ...graphs.quantization.methods.all_methods import find_method
from ...graphs.quantization.methods.round_to_nearest import quantize
from ...graphs.quantization.rounded_matrices import OutputSquares
from ...graphs.quantization.scheme import Scheme
from ...runtime.errors import GraphError
from ..model.model import Layer
from .compensate import MOST_MOVED, STRENGTHS, compensated, output_shifts
from .gptq import DAMPING, Correlations, correlations, gptq
from .layer_walk import Inputs, LayerWalk
from .limit_moves import limited

# Takes a parameter's name, its blocks, their scheme, and how far its outputs moved.
Keep = Callable[[str, Blocks, Scheme, OutputSquares], None]


class RoundLayer:
    """A visitor of one layer, which rounds each matrix and continues with the rounded one."""

    def __init__(
        self,
        layer: Layer,
        number: int,
        schemes: Mapping[str, Scheme],
        beside: LayerWalk,
        keep: Keep,
    ) -> None:
        """Prepare to round.

        Args:
            layer: whose weights are replaced by what their codes stand for.
            number: the layer's.
            schemes: by the names of parameters; one without stays in float.
            beside: the same layer in the float model. It runs fewer sequences: those that matrices
                are rounded for, which are the first ones of this layer's.
            keep: takes what was rounded.
        """
        self._layer, self._number, self._schemes = layer, number, schemes
        self._beside, self._keep = beside, keep
        self._texts, self._stages = len(beside.hidden), iter(beside)

    def see_inputs(self, names: Sequence[str], inputs: Inputs) -> None:
        """Round the matrices that read these inputs, each by its method."""
        exact = next(self._stages)
        assert exact.names == names, "both run the same layer"
        schemes = {name: self._schemes.get(self._parameter(name)) for name in names}
        quantized = {name: scheme for name, scheme in schemes.items() if scheme is not None}
        calibrated = {
            name: scheme
            for name, scheme in quantized.items()
            if find_method(scheme.method).rounds_in_calibration
        }
        rounded = self._for_inputs(calibrated, inputs, exact.inputs) if calibrated else {}
        for name, scheme in quantized.items():
            linear, parameter = self._linear(name), self._parameter(name)
            if name in rounded:
                blocks, outputs = rounded.pop(name)
                self._keep(parameter, blocks, scheme, outputs)
            else:
                rounder = find_method(scheme.method).rounder(None)
                blocks = rounder(linear.weight.numpy(), scheme, parameter)
            matrix = dequantize(blocks, scheme, columns=linear.in_features)
            linear.weight = nn.Parameter(torch.from_numpy(matrix), requires_grad=False)

    def _for_inputs(
        self, schemes: Mapping[str, Scheme], inputs: Inputs, exact: Inputs
    ) -> dict[str, tuple[Blocks, OutputSquares]]:
        """Matrices rounded by their inputs, toward the outputs of the float model."""

        def text() -> Iterator[Tensor]:
            return itertools.islice(inputs(), self._texts)

        weights = {name: self._linear(name).weight for name in schemes}
        first = next(iter(schemes))
        parameter, columns = self._parameter(first), weights[first].shape[1]
        found = self._correlations(parameter, text(), columns)
        if found.damping > DAMPING:
            usual = f"{found.damping:.0%} of its mean, usually {DAMPING:.0%}"
            say(f"{parameter}: its Hessian was damped by {usual}")
        shifts = output_shifts(weights, text(), exact())
        rounded = {}
        for name, weight in weights.items():
            rounded[name] = _compensated(weight, shifts.pop(name), schemes[name], found)
        return rounded

    def leaving_exact(self) -> Sequence[Tensor]:
        """What leaves the layer in the float model, behind the last stage."""
        for stage in self._stages:
            raise AssertionError(f"{stage.names} were not seen")
        return self._beside.hidden

    def _linear(self, name: str) -> nn.Linear:
        linear = self._layer.get_submodule(name)
        assert isinstance(linear, nn.Linear), "a stage names linear layers"
        return linear

    def _parameter(self, name: str) -> str:
        return f"layers.{self._number}.{name}.weight"

    def _correlations(
        self, parameter: str, inputs: Iterator[Tensor], columns: int
    ) -> Correlations:
        """How the inputs of a text correlate.

        Raises:
            GraphError: naming the parameter.
        """
        try:
            return correlations(inputs, columns=columns)
        except GraphError as error:
            raise GraphError(f"{parameter}: {error}") from error

    def see_cache(self, keys: Tensor, values: Tensor) -> None:
        """Keys and values are not rounded here."""


def _compensated(
    weight: Tensor, shift: Tensor, scheme: Scheme, found: Correlations
) -> tuple[Blocks, OutputSquares]:
    """A matrix rounded to make up for those before it, as far as its own outputs allow."""

    def moved(blocks: Blocks) -> float:
        matrix = dequantize(blocks, scheme, columns=weight.shape[1])
        return found.mean_square(torch.from_numpy(matrix) - weight)

    most = MOST_MOVED * moved(quantize(weight.numpy(), scheme))
    for strength in STRENGTHS:
        wanted = compensated(weight, shift, found, strength=strength)
        blocks = limited(gptq(wanted.numpy(), scheme, found), weight.numpy(), scheme)
        square = moved(blocks)
        if square <= most:
            break
    return blocks, (square, found.mean_square(weight))


def with_same_weights(layer: Layer) -> Layer:
    """A layer whose weights are those of another until either is given new ones."""
    shared = {id(parameter): parameter for parameter in layer.parameters()}
    return copy.deepcopy(layer, shared)
