"""Which matrices are packed, whatever the target reads them with?"""

from __future__ import annotations

import abc

import onnx_ir as ir

from ...runtime.errors import GraphError
from .. import weights
from ..linear import Linear, gathers, linears
from .methods.round_to_nearest import Scheme
from .packed_weight import Packed
from .recipe import Recipe


class PackMatrices(ir.passes.InPlacePass, abc.ABC):
    """Every linear layer, and every gather of rows from a matrix of weights."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; ``modified`` says whether any matrix was packed.

        Raises:
            GraphError: rows of an odd number of weights cannot lie two to a byte.
        """
        graph = model.graph
        packed = {
            matrix: _packed(matrix, scheme) for matrix, scheme in self._schemes(graph).items()
        }
        for layer in linears(graph):
            self.pack_linear(graph, layer, packed[layer.weight])
        for gather in gathers(graph):
            self.pack_gather(graph, gather, packed[_source(gather)])
        return ir.passes.PassResult(model, modified=bool(packed))

    def _schemes(self, graph: ir.Graph) -> dict[ir.Value, Scheme]:
        """A scheme for each matrix; of several readers, the most exacting decides."""
        wanted: list[tuple[ir.Value, Scheme]] = []
        for layer in linears(graph):
            is_head = layer.output.is_graph_output()
            wanted.append((layer.weight, self.recipe.head if is_head else self.recipe.linear))
        wanted += [(_source(gather), self.recipe.embedding) for gather in gathers(graph)]
        return dict(sorted(wanted, key=lambda pair: pair[1].bits))

    @abc.abstractmethod
    def pack_linear(self, graph: ir.Graph, layer: Linear, matrix: Packed) -> None:
        """Let the layer multiply by the packed matrix."""

    @abc.abstractmethod
    def pack_gather(self, graph: ir.Graph, gather: ir.Node, matrix: Packed) -> None:
        """Let the gather take rows of the packed matrix."""


def register(graph: ir.Graph, *values: ir.Value | None) -> None:
    """Make initializers of the graph those weights that are not yet."""
    for value in values:
        if value is not None and value.name not in graph.initializers:
            graph.register_initializer(value)


def _packed(matrix: ir.Value, scheme: Scheme) -> Packed:
    refuse_odd_rows(str(matrix.name), columns=weights.size_of(matrix)[1], scheme=scheme)
    return Packed(matrix, scheme)


def refuse_odd_rows(where: str, *, columns: int, scheme: Scheme) -> None:
    """Refuse a matrix whose rows do not fill bytes.

    Raises:
        GraphError: beginning with ``where``.
    """
    if scheme.bits < 8 and columns % 2:
        raise GraphError(
            f"{where}: rows of {columns} weights do not fill bytes in {scheme.bits} bits, "
            "expected an even number; take --quant int8"
        )


def _source(gather: ir.Node) -> ir.Value:
    source = gather.inputs[0]
    assert source is not None, "gathers yields nodes over initializers"
    return source
