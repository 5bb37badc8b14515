"""Rounds the matrices of one layer while sequences run through it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ...console.progress import say
from ...graphs.quantization.codes import Blocks, dequantize
from ...graphs.quantization.methods.known import find_method
from ...graphs.quantization.scheme import Scheme
from ...runtime.errors import GraphError
from ..model.model import Layer
from .gptq import DAMPING, Correlations, correlations, gptq
from .layer_walk import Inputs

# Takes a parameter's name, its blocks and their scheme.
Keep = Callable[[str, Blocks, Scheme], None]


class RoundLayer:
    """A visitor of one layer, which rounds each matrix and continues with the rounded one."""

    def __init__(
        self, layer: Layer, number: int, schemes: Mapping[str, Scheme], texts: int, keep: Keep
    ) -> None:
        """Prepare to round.

        Args:
            layer: whose weights are replaced by what their codes stand for.
            number: the layer's.
            schemes: by the names of parameters; one without stays in float.
            texts: sequences that matrices are rounded for: the first ones.
            keep: takes what was rounded.
        """
        self._layer, self._number, self._schemes = layer, number, schemes
        self._texts, self._keep = texts, keep

    def see_inputs(self, names: Sequence[str], inputs: Inputs) -> None:
        """Round the matrices that read these inputs, each by its method."""
        linears = {name: self._layer.get_submodule(name) for name in names}
        found = None
        for name, linear in linears.items():
            assert isinstance(linear, nn.Linear), "a stage names linear layers"
            parameter = f"layers.{self._number}.{name}.weight"
            scheme, columns = self._schemes.get(parameter), linear.in_features
            if scheme is None:
                continue
            method = find_method(scheme.method)
            if found is None and method.rounds_in_calibration:
                found = self._correlations(parameter, inputs, columns)
                if found.damping > DAMPING:
                    usual = f"{found.damping:.0%} of its mean, usually {DAMPING:.0%}"
                    say(f"{parameter}: its Hessian was damped by {usual}")
            matrix = linear.weight.numpy()
            if found is not None and method.rounds_in_calibration:
                blocks = gptq(matrix, scheme, found)
                self._keep(parameter, blocks, scheme)
            else:
                blocks = method.rounder(None)(matrix, scheme, parameter)
            rounded = dequantize(blocks, scheme, columns=columns)
            linear.weight = nn.Parameter(torch.from_numpy(rounded), requires_grad=False)

    def _correlations(self, parameter: str, inputs: Inputs, columns: int) -> Correlations:
        """How the inputs of a text correlate.

        Raises:
            GraphError: naming the parameter.
        """
        try:
            return correlations(itertools.islice(inputs(), self._texts), columns=columns)
        except GraphError as error:
            raise GraphError(f"{parameter}: {error}") from error

    def see_cache(self, keys: Tensor, values: Tensor) -> None:
        """Keys and values are not rounded here."""
