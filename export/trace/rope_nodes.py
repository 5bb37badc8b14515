"""Nodes that compute rope's tables from inverse frequencies while a runtime loads the graph.

Nothing that they read changes from step to step, so onnxruntime computes them once, as it loads
the graph ("constant folding"), and its kernels look up rows as before. The graph's file holds
D / 2 numbers instead of two tables of P rows.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...graphs.linear import move_uses
from ...graphs.operator.schema import ROPE_FREQUENCIES, ROPE_TABLES
from ...runtime.errors import TraceError
from ..model.rope import Rope


def compute_rope_tables(graph: ir.Graph, rope: Rope, *, num_positions: int) -> None:
    """Replace the initializers ``cos_cache`` and ``sin_cache`` by nodes of these names.

    Positions and frequencies are multiplied in float32, as in transformers, so that far positions
    have the same angles.

    Args:
        graph: as traced, with both tables as initializers; one that no node reads is removed.
        rope: of the model.
        num_positions: rows of each table, P.

    Raises:
        TraceError: a table is missing.
    """
    frequencies = rope.inverse_frequencies.numpy().astype(np.float32)
    tensor = ir.tensor(frequencies, name=ROPE_FREQUENCIES)
    stored = ir.Value(
        name=ROPE_FREQUENCIES,
        type=ir.TensorType(ir.DataType.FLOAT),
        shape=ir.Shape(frequencies.shape),
        const_value=tensor,
    )
    tape = ir.tape.Tape()
    ends = [tape.op("Constant", [], {"value_float": float(n)}) for n in (0, num_positions, 1)]
    column = tape.op("Constant", [], {"value_ints": [-1, 1]})
    positions = tape.op("Reshape", [tape.op("Range", ends), column])
    angles = tape.op("Mul", [positions, stored])
    made = {}
    for name, function in zip(ROPE_TABLES, ("Cos", "Sin"), strict=True):
        if name not in graph.initializers:
            raise TraceError(f"{name}: is not in the traced graph, expected rope's table")
        made[name] = tape.op(function, [angles])
        if rope.attention_factor != 1:
            factor = tape.op("Constant", [], {"value_float": rope.attention_factor})
            made[name] = tape.op("Mul", [made[name], factor])
    graph.insert_before(graph[0], list(tape.nodes))
    for name, table in made.items():
        move_uses(graph.initializers.pop(name), table)
    graph.register_initializer(stored)
