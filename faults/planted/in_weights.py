"""Planted faults of weights: values, packing and places."""

from __future__ import annotations

import functools

import numpy as np

from ..planting import Fault, Graph, multiplied


def _layers_swapped(graph: Graph) -> None:
    for name in list(graph.names("layers.2.")):
        graph.swap(name, name.replace("layers.2.", "layers.3."))


def _transposed(graph: Graph) -> None:
    graph.change("layers.3.attention.output.weight.transposed", lambda matrix: matrix.T)


def _gate_and_up(graph: Graph, layer: int) -> None:
    for name in list(graph.names(f"layers.{layer}.mlp.gate.")):
        graph.swap(name, name.replace(".gate.", ".up."))


def _down_of_another_layer(graph: Graph) -> None:
    for name in list(graph.names("layers.4.mlp.down.")):
        graph.write(name, graph.read(name.replace("layers.4.", "layers.1.")))


def _changed(graph: Graph, name: str, change: str) -> None:
    graph.change(name, _CHANGES[change])


def _nibbles(codes: np.ndarray) -> np.ndarray:
    return (codes >> 4) | (codes << 4)


def _one_zero_point(points: np.ndarray) -> np.ndarray:
    """Change the low nibble of one byte by one."""
    low = points[7, 0] & 15
    points[7, 0] += -1 if low == 15 else 1
    return points


def _one_code(codes: np.ndarray) -> np.ndarray:
    codes[9, 0, 3] ^= 0x88
    return codes


def _no_codes(codes: np.ndarray) -> np.ndarray:
    codes[: len(codes) // 2] = 128  # the code of zero
    return codes


def _reversed_blocks(scales: np.ndarray) -> np.ndarray:
    return scales[:, ::-1]


def _ones(array: np.ndarray) -> np.ndarray:
    return np.ones_like(array)


def _embedding_rows(graph: Graph) -> None:
    for name in graph.embedding():
        graph.change(name, lambda rows: np.roll(rows, 1, axis=0))


def _embedding_scaled(graph: Graph) -> None:
    for name in graph.embedding():
        graph.change(name, lambda rows: rows * np.float32(16))


def _scales_missing(graph: Graph) -> None:
    graph.change("layers.1.mlp.down.weight.scales", _ones)


_CHANGES = {
    "down one row": lambda matrix: np.roll(matrix, 1, axis=-1),
    "one place on": lambda vector: np.roll(vector, 1),
    "nibbles": _nibbles,
    "one zero point": _one_zero_point,
    "one scale": multiplied((5, 1), 2),
    "one code": _one_code,
    "no codes": _no_codes,
    "reversed blocks": _reversed_blocks,
    "negated row": multiplied(np.s_[:, 17], -1),
    "plus one": lambda vector: vector + np.float32(1),
    "ones": _ones,
}
_part = functools.partial
FAULTS = [
    Fault(
        name="two layers swapped",
        recipe="int4-ort",
        plant=_layers_swapped,
        place="layer 2, attention_norm",
        cause="layers are swapped",
    ),
    Fault(
        name="a weight transposed",
        recipe="fp32-ort",
        plant=_transposed,
        place="layer 3, attention.output weights",
        cause="transposed",
    ),
    Fault(
        name="gate and up swapped",
        recipe="fp32-ort",
        plant=_part(_gate_and_up, layer=2),
        place="layer 2, mlp.gate weights",
        cause="gate and up are swapped",
    ),
    Fault(
        name="gate and up swapped, in int4",
        recipe="int4-ort",
        plant=_part(_gate_and_up, layer=5),
        place="layer 5, mlp.gate weights",
        cause="gate and up are swapped",
    ),
    Fault(
        name="down projection of another layer",
        recipe="int8-ort",
        plant=_down_of_another_layer,
        place="layer 4, mlp.down weights",
        cause="it holds layers.1.mlp.down.weight",
    ),
    Fault(
        name="a norm's weight shifted by one",
        recipe="int4-ort",
        plant=_part(_changed, name="layers.1.mlp_norm.weight", change="one place on"),
        place="layer 1, mlp_norm",
        cause="weights are off by one",
    ),
    Fault(
        name="one added to a norm's weight",
        recipe="fp32-ort",
        plant=_part(_changed, name="norm.weight", change="plus one"),
        place="norm",
        cause="one is added to the norm's weight",
    ),
    Fault(
        name="a norm without its weight",
        recipe="int8-ort",
        plant=_part(_changed, name="layers.4.attention_norm.weight", change="ones"),
        place="layer 4, attention_norm",
        cause="the norm's weight is missing",
    ),
    Fault(
        name="nibbles swapped",
        recipe="int4-rtn-ort",
        plant=_part(_changed, name="layers.2.mlp.up.weight.codes", change="nibbles"),
        place="layer 2, mlp.up weights",
        cause="nibbles",
    ),
    Fault(
        name="zero point off by one in one block",
        recipe="int4-rtn-ort",
        plant=_part(
            _changed,
            name="layers.3.attention.output.weight.packed_zero_points",
            change="one zero point",
        ),
        place="layer 3, attention.output weights, row 7",
        cause="the zero point of 1 of",
    ),
    Fault(
        name="one scale doubled, in int8",
        recipe="int8-ort",
        plant=_part(_changed, name="layers.0.mlp.gate.weight.scales", change="one scale"),
        place="layer 0, mlp.gate weights, row 5, block 1",
        cause="the scale of 1 of",
    ),
    Fault(
        name="one scale doubled, in int4",
        recipe="int4-rtn-ort",
        plant=_part(_changed, name="layers.5.mlp.down.weight.scales", change="one scale"),
        place="layer 5, mlp.down weights, row 5, block 1",
        cause="the scale of 1 of",
    ),
    Fault(
        name="scales missing",
        recipe="int8-ort",
        plant=_scales_missing,
        place="layer 1, mlp.down weights",
        cause="the scales of",
    ),
    Fault(
        name="scales of a row's blocks reversed",
        recipe="int4-rtn-ort",
        plant=_part(_changed, name="layers.4.mlp.down.weight.scales", change="reversed blocks"),
        place="layer 4, mlp.down weights",
        cause="the scales of",
    ),
    Fault(
        name="one byte of quantized values flipped",
        recipe="int4-rtn-ort",
        plant=_part(_changed, name="layers.1.mlp.gate.weight.codes", change="one code"),
        place="layer 1, mlp.gate weights, row 9",
        cause="quantized values of 1 of",
    ),
    Fault(
        name="half of a matrix set to zero",
        recipe="int8-ort",
        plant=_part(_changed, name="layers.3.mlp.up.weight.codes", change="no codes"),
        place="layer 3, mlp.up weights",
        cause="weights are zero",
    ),
    Fault(
        name="one row's sign flipped",
        recipe="fp32-ort",
        plant=_part(_changed, name="layers.5.mlp.gate.weight.transposed", change="negated row"),
        place="layer 5, mlp.gate weights, row 17",
        cause="is -1 times",
    ),
    Fault(
        name="embedding rows off by one",
        recipe="fp32-ort",
        plant=_embedding_rows,
        place="embedding weights",
        cause="rows are off by one",
    ),
    Fault(
        name="embedding rows off by one, in int4",
        recipe="int4-ort",
        plant=_embedding_rows,
        place="embedding weights",
        cause="rows are off by one",
    ),
    Fault(
        name="embedding scaled by the square root of its width",
        recipe="fp32-ort",
        plant=_embedding_scaled,
        place="embedding weights",
        cause="16 times",
    ),
    Fault(
        name="head rows off by one",
        recipe="fp32-ort",
        plant=_part(_changed, name="head.weight.transposed", change="down one row"),
        place="head weights",
        cause="rows are off by one",
    ),
]
