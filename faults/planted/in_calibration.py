"""Planted faults of matrices that calibration rounds."""

from __future__ import annotations

import numpy as np

from ...export.calibrate.one_matrix import round_for_first_layer
from ...graphs.quantization.codes import pack_codes, unpack_codes
from ...graphs.quantization.scheme import Scheme
from ..planting import Fault, Graph


def _hessian_of_another_layer(graph: Graph) -> None:
    """Round layer 4's down projection for the inputs of layer 0's, whose channels are others."""
    name = "layers.4.mlp.down.weight"
    scheme = _scheme_of(graph, name)
    blocks = round_for_first_layer(graph.config, graph.checkpoint, 4, "mlp.down", scheme)
    graph.write(f"{name}.codes", blocks.codes)
    graph.write(f"{name}.scales", blocks.scales)
    graph.write(f"{name}.packed_zero_points", pack_codes(blocks.zero_points, bits=4))


def _order_not_undone(graph: Graph) -> None:
    """Leave codes in the order in which columns are rounded: some other than the matrix has."""
    name = "layers.2.mlp.up.weight.codes"
    packed = graph.read(name)
    codes = unpack_codes(packed, bits=4).reshape(len(packed), -1)
    order = np.random.default_rng(0).permutation(codes.shape[1])
    graph.write(name, pack_codes(codes[:, order], bits=4).reshape(packed.shape))


def _row_without_scales(graph: Graph) -> None:
    """Set the scales of one row to one, as where they were never written."""
    name = "layers.3.mlp.gate.weight.scales"
    scales = graph.read(name)
    scales[11] = 1
    graph.write(name, scales)


def _factor_doubled(graph: Graph) -> None:
    """Double the factor of one row's scales."""
    name = "embedding.weight.scale_factors"
    factors = graph.read(name)
    factors[20] *= 2
    graph.write(name, factors)


def _bytes_of_scales_shifted(graph: Graph) -> None:
    """Read the bytes of a matrix's scales from one row too far."""
    graph.change("head.weight.byte_scales", lambda scales: np.roll(scales, 1, axis=0))


def _scheme_of(graph: Graph, name: str) -> Scheme:
    """Of a matrix in 4 bits, from the shape of its codes."""
    return Scheme(bits=4, block=2 * graph.read(f"{name}.codes").shape[2])


FAULTS = [
    Fault(
        name="a matrix rounded for the inputs of another layer",
        recipe="int4-ort",
        plant=_hessian_of_another_layer,
        place="layer 4, mlp.down rounding",
        cause="rounded for other inputs",
    ),
    Fault(
        name="codes left in the order of rounding",
        recipe="int4-ort",
        plant=_order_not_undone,
        place="layer 2, mlp.up weights",
        cause="quantized values of",
    ),
    Fault(
        name="a row without its scales, rounded by calibration",
        recipe="int4-ort",
        plant=_row_without_scales,
        place="layer 3, mlp.gate weights, row 11",
        cause="the scale",
    ),
    Fault(
        name="the factor of a row's scales doubled",
        recipe="int4-small-ort",
        plant=_factor_doubled,
        place="embedding weights, row 20",
        cause="the scale",
    ),
    Fault(
        name="bytes of scales one row off",
        recipe="int4-small-ort",
        plant=_bytes_of_scales_shifted,
        place="head weights",
        cause="the scales of",
    ),
]
