"""Which matrices are packed into 8 bits, whatever the target reads them with?"""

from __future__ import annotations

import abc

import onnx_ir as ir

from . import quantize
from .linear import Linear, gathers, linears


class PackMatrices(ir.passes.InPlacePass, abc.ABC):
    """Every linear layer, and every gather of rows from a matrix of weights.

    A matrix whose rows no block size divides is left alone.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; ``modified`` tells whether any matrix was packed."""
        graph = model.graph
        packed = 0
        for layer in linears(graph):
            matrix = quantize.packed(layer.weight, name=str(layer.weight.name))
            if matrix is not None:
                self.pack_linear(graph, layer, matrix)
                packed += 1
        for gather in gathers(graph):
            source = gather.inputs[0]
            assert source is not None, "gathers yields nodes over initializers"
            matrix = quantize.packed(source, name=f"{source.name}.gathered")
            if matrix is not None:
                self.pack_gather(graph, gather, matrix)
                packed += 1
        return ir.passes.PassResult(model, modified=packed > 0)

    @abc.abstractmethod
    def pack_linear(self, graph: ir.Graph, layer: Linear, matrix: quantize.Packed) -> None:
        """Let the layer multiply by the packed matrix."""

    @abc.abstractmethod
    def pack_gather(self, graph: ir.Graph, gather: ir.Node, matrix: quantize.Packed) -> None:
        """Let the gather take rows of the packed matrix."""
