"""Do rules find weights that are stored badly, and no others?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tramontane.graphs.lint.rules import lint

from .one_layer import Ask, say, zeros

NBITS = """logits = com.microsoft.MatMulNBits<K = 64, N = 6, block_size = 64 {attributes}>
    (q, w, scales{points}) }}"""
PACKED = {"w": zeros(6, 1, 64, dtype=np.uint8), "scales": zeros(6, 1)}


@pytest.mark.parametrize(
    ("attributes", "severity", "cost"),
    [
        (", bits = 8", "warning", "150 times slower"),
        (", bits = 2, accuracy_level = 1", "warning", "150 times slower"),
        ("", "note", "4 times slower"),
    ],
)
def test_packed_weights_without_accuracy_level_4_are_told(
    ask: Ask, attributes: str, severity: str, cost: str
) -> None:
    nodes = NBITS.format(attributes=attributes, points="")
    say(ask("matmul-unpacks", nodes, **PACKED), severity, "1 of 1", "expected 4", cost)


def test_packed_weights_with_accuracy_level_4_are_not(ask: Ask) -> None:
    nodes = NBITS.format(attributes=", bits = 8, accuracy_level = 4", points="")
    assert ask("matmul-unpacks", nodes, **PACKED) is None


@pytest.mark.parametrize(("bits", "severity"), [(8, "error"), (4, "warning")])
def test_zero_points_in_float_are_told(ask: Ask, bits: int, severity: str) -> None:
    nodes = NBITS.format(attributes=f", bits = {bits}", points=", z")
    say(ask("float-zero-points", nodes, z=zeros(6, 1), **PACKED), severity, "expected uint8")
    points = zeros(6, 1, dtype=np.uint8)
    assert ask("float-zero-points", nodes, z=points, **PACKED) is None


TWO_MATRICES = """codes = com.microsoft.MatMulNBits<K = 64, N = 6, block_size = 64>(q, w, scales)
    more = com.microsoft.MatMulNBits<K = 64, N = 6, block_size = 64>(q, u, scales)
    row = Gather(embedding, input_ids)
    logits = Add(codes, row) }"""


def test_large_embedding_in_float_beside_packed_weights_is_told(ask: Ask) -> None:
    codes = zeros(6, 1, 64, dtype=np.uint8)
    finding = ask("float-left", TWO_MATRICES, u=codes, **PACKED, embedding=zeros(100, 64))
    say(finding, "warning", "embedding", "2 matrices are packed; 1 in float take 25.60 kB", "97%")


def test_small_or_packed_embedding_is_not(ask: Ask) -> None:
    codes = zeros(600, 1, 64, dtype=np.uint8)
    weights = {**PACKED, "w": codes, "u": codes}
    assert ask("float-left", TWO_MATRICES, **weights, embedding=zeros(10, 64)) is None
    packed = zeros(6000, 64, dtype=np.uint8)
    assert ask("float-left", TWO_MATRICES, **weights, embedding=packed) is None


def test_graph_all_in_float_is_noted_with_its_size(ask: Ask) -> None:
    finding = ask("all-float", "logits = MatMul(q, w) }", w=zeros(64, 6))
    say(finding, "note", "1 matrix, 1.54 kB, all in float32", "396 B at 8 bits", "204 B at 4")


def test_graph_with_a_packed_matrix_is_not_all_float(ask: Ask) -> None:
    assert ask("all-float", NBITS.format(attributes="", points=""), **PACKED) is None
    assert ask("all-float") is None


def test_one_scale_for_a_matrix_is_noted(ask: Ask) -> None:
    nodes = """rounded, scale, zero = DynamicQuantizeLinear(q)
    logits = MatMulInteger(rounded, w, zero, point) }"""
    weights = {"w": zeros(64, 6, dtype=np.int8), "point": zeros(dtype=np.int8)}
    say(ask("scale-for-all", nodes, **weights), "note", "1 matrices of 8 bits")
    weights["point"] = zeros(6, dtype=np.int8)
    assert ask("scale-for-all", nodes, **weights) is None


TIED = """row = Gather(embedding, input_ids)
    head = Transpose<perm = [1, 0]>({head})
    logits = MatMul(row, head) }}"""


def test_tied_weights_that_are_stored_twice_are_told(ask: Ask) -> None:
    two = {"embedding": zeros(6, 64), "w": zeros(6, 64)}
    tied = {"tie_word_embeddings": True}
    nodes = TIED.format(head="w")
    say(ask("tied-stored-twice", nodes, config=tied, **two), "warning", "1.54 kB of download")
    untied = {"tie_word_embeddings": False}
    assert ask("tied-stored-twice", nodes, config=untied, **two) is None
    assert ask("tied-stored-twice", nodes, **two) is None


def test_tied_weights_that_share_their_bytes_are_not(ask: Ask) -> None:
    def share(model: ir.Model) -> None:
        held = model.graph.initializers
        tensor = ir.ExternalTensor(
            "data", 0, 1536, ir.DataType.FLOAT, shape=ir.Shape([6, 64]), name="w", base_dir="."
        )
        for name in ("embedding", "w"):
            held[name].const_value = tensor

    tied = {"tie_word_embeddings": True}
    two = {"embedding": zeros(6, 64), "w": zeros(6, 64)}
    assert (
        ask("tied-stored-twice", TIED.format(head="w"), config=tied, change=share, **two) is None
    )
    one = TIED.format(head="embedding")
    assert ask("tied-stored-twice", one, config=tied, embedding=zeros(6, 64)) is None


def test_embedding_gathered_from_a_transpose_is_told(ask: Ask) -> None:
    nodes = """rows = Transpose<perm = [1, 0]>(w)
    logits = Gather(rows, {ids}) }}"""
    finding = ask("table-transposed", nodes.format(ids="input_ids"), w=zeros(64, 6))
    say(finding, "warning", "transpose of w", "1.54 kB more memory")
    assert ask("table-transposed", nodes.format(ids="mask"), w=zeros(64, 6)) is None
    plain = "logits = Gather(w, input_ids) }"
    assert ask("table-transposed", plain, w=zeros(6, 64)) is None


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), "no such file, expected 1.54 kB"),
        (lambda path: path.write_bytes(bytes(1535)), "1535 bytes, 1 weights reach to byte 1536"),
    ],
    ids=["missing", "short"],
)
def test_external_data_that_is_not_whole_is_told(
    ask: Ask, tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    nodes, weight = "logits = MatMul(q, w) }", zeros(64, 6)
    assert ask("data-missing", nodes, external="weights", w=weight) is None
    damage(tmp_path / "weights")
    (finding,) = (f for f in lint(tmp_path / "model.onnx") if f.rule == "data-missing")
    say(finding, "error", "weights", words)


@pytest.mark.parametrize("location", ["../weights", "/tmp/weights", "below/../weights"])
def test_external_data_outside_the_folder_is_told(ask: Ask, tmp_path: Path, location: str) -> None:
    def move(model: ir.Model) -> None:
        weight = model.graph.initializers["w"]
        (tmp_path / "below").mkdir()
        (tmp_path / "weights").write_bytes(bytes(1536))
        weight.const_value = ir.ExternalTensor(
            location, 0, 1536, ir.DataType.FLOAT, shape=ir.Shape([64, 6]), name="w", base_dir="."
        )

    finding = ask("data-missing", "logits = MatMul(q, w) }", change=move, w=zeros(64, 6))
    if location.startswith("below"):
        assert finding is None
    else:
        say(finding, "error", "outside the graph's folder")
