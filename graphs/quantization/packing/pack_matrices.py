"""Pack every matrix of weights: what is the same whatever kernels read it."""

from __future__ import annotations

import abc
from collections.abc import Collection, Sequence

import onnx_ir as ir

from ....runtime.contract import FOLDED
from ....runtime.errors import GraphError
from ... import weights
from ...linear import Linear, gathers, is_product, linears
from ..matrix_schemes import MatrixSchemes, Role
from ..scheme import Scheme
from ..shared_scales import SharedScales, in_blocks
from .packed_weight import Packed

# Why a block is a whole row: of kernels that multiply bytes by bytes.
WHY_ROWS = "the kernel takes one scale for a row"


class PackMatrices(ir.passes.InPlacePass, abc.ABC):
    """Every linear layer, and every gather of rows from a matrix of weights.

    A packer says what it stores of a matrix (``weights_for``), which its passes register and
    ``export/planning/plan.py`` adds up, and puts the nodes in place that read it.
    """

    def __init__(self, schemes: MatrixSchemes) -> None:
        super().__init__()
        self.schemes = schemes

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the pass; ``modified`` says whether any matrix was packed.

        Raises:
            GraphError: rows of an odd number of weights cannot lie two to a byte.
        """
        graph = model.graph
        every = {matrix: self.pack(matrix, roles) for matrix, roles in _roles(graph).items()}
        packed = {matrix: one for matrix, one in every.items() if one is not None}
        for layer in linears(graph):
            if layer.weight in packed:
                self.pack_linear(graph, layer, packed[layer.weight])
        for gather in gathers(graph):
            if _source(gather) in packed:
                self.pack_gather(graph, gather, packed[_source(gather)])
        return ir.passes.PassResult(model, modified=bool(packed))

    def pack(self, matrix: ir.Value, roles: Collection[Role]) -> Packed | None:
        """A matrix (N, K) by the recipe; nothing is read of it yet. None: it stays in float.

        Raises:
            GraphError: rows of an odd number of weights cannot lie two to a byte.
        """
        name = str(matrix.name)
        scheme = self.schemes.scheme_for(name, roles)
        if scheme is None:
            return None
        refuse_odd_rows(name, columns=weights.size_of(matrix)[1], scheme=scheme)
        return self.pack_as(matrix, scheme, roles)

    def pack_as(
        self,
        matrix: ir.Value,
        scheme: Scheme,
        roles: Collection[Role],
    ) -> Packed:
        """A matrix (N, K) in the recipe's scheme, or in the nearest that the kernels take."""
        rounder, why = self.schemes.rounder_for(scheme), self.schemes.why_shared(roles)
        return Packed(matrix, scheme, rounder, why_shared=why)

    @abc.abstractmethod
    def weights_for(self, role: Role, matrix: Packed) -> list[ir.Value]:
        """What the graph stores for one reader of a matrix, in the order of the reader's inputs.

        Two readers of one matrix may share some of it: then it is stored once.
        """

    def shared_scales(self, role: Role, matrix: Packed) -> SharedScales:  # noqa: ARG002 - of most
        """Which numbers share a scale where a reader of a matrix multiplies by it."""
        return in_blocks(matrix.scheme)

    def copies_in_memory(self, roles: Collection[Role], weight: ir.Value) -> int:  # noqa: ARG002
        """How often a session holds a weight that ``weights_for`` named, for readers of roles."""
        return 1

    @abc.abstractmethod
    def pack_linear(self, graph: ir.Graph, layer: Linear, matrix: Packed) -> None:
        """Let the layer multiply by the packed matrix."""

    @abc.abstractmethod
    def pack_gather(self, graph: ir.Graph, gather: ir.Node, matrix: Packed) -> None:
        """Let the gather take rows of the packed matrix."""


def with_float_scales(
    tape: ir.tape.Tape, parts: Sequence[ir.Value], *, must_fold: bool = False
) -> list[ir.Value]:
    """What a kernel reads of a matrix: codes, float32 scales, and zero points if there are any.

    Scales that are stored as bytes are multiplied by their factors; onnxruntime does so once,
    while it loads the graph.

    Args:
        tape: for the nodes.
        parts: what ``weights_for`` names, or the same rows of each.
        must_fold: the driver refuses to run the graph if onnxruntime did not.
    """
    codes, scales, *others = parts
    if scales.dtype != ir.DataType.UINT8:
        return list(parts)
    factors, *zero_points = others
    floats = [
        tape.op("Cast", [each], {"to": int(ir.DataType.FLOAT)}) for each in (scales, factors)
    ]
    name = f"{FOLDED}{scales.name}" if must_fold else None
    return [codes, tape.op("Mul", floats, name=name), *zero_points]


def folded_size(scales: ir.Value) -> int:
    """How many times as large scales are in memory, in float32, as they are stored."""
    assert scales.dtype is not None, "a weight has a type"
    return ir.DataType.FLOAT.bitwidth // scales.dtype.bitwidth


def register(graph: ir.Graph, *values: ir.Value | None) -> None:
    """Make initializers of the graph those weights that are not yet."""
    for value in values:
        if value is not None and value.name not in graph.initializers:
            graph.register_initializer(value)


def role_of(layer: Linear) -> Role:
    """What a linear layer of a graph is."""
    if layer.output.is_graph_output():
        return Role.HEAD
    return Role.AFTER_PRODUCT if is_product(layer.input) else Role.LAYER


def _roles(graph: ir.Graph) -> dict[ir.Value, list[Role]]:
    """The readers of each matrix of weights."""
    found: dict[ir.Value, list[Role]] = {}
    for layer in linears(graph):
        found.setdefault(layer.weight, []).append(role_of(layer))
    for gather in gathers(graph):
        found.setdefault(_source(gather), []).append(Role.EMBEDDING)
    return found


def refuse_odd_rows(where: str, *, columns: int, scheme: Scheme) -> None:
    """Refuse a matrix whose rows do not fill bytes.

    Raises:
        GraphError: beginning with ``where``.
    """
    if not scheme.fills_bytes(columns):
        raise GraphError(
            f"{where}: rows of {columns} weights do not fill bytes in {scheme.bits} bits, "
            "expected an even number; take --quant int8"
        )


def _source(gather: ir.Node) -> ir.Value:
    source = gather.inputs[0]
    assert source is not None, "gathers yields nodes over initializers"
    return source
