"""Does the manifest say of each weight how it was packed, or why it was not?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from tramontane.graphs import weights
from tramontane.graphs.operator.schema import ROPE_FREQUENCIES
from tramontane.graphs.quantization.codes import dequantize
from tramontane.graphs.quantization.matrix_schemes import MatrixSchemes
from tramontane.graphs.quantization.methods.round_to_nearest import quantize
from tramontane.graphs.quantization.packing.pack_for_ort import PackForOrt
from tramontane.graphs.quantization.packing.pack_for_portable import PackForPortable
from tramontane.graphs.quantization.packing.pack_for_web import PackForWeb
from tramontane.graphs.quantization.packing.pack_matrices import PackMatrices
from tramontane.graphs.quantization.recipes.all_recipes import find_recipe
from tramontane.graphs.quantization.recipes.recipe import Recipe, Rule
from tramontane.graphs.quantization.rounded_matrices import RoundedMatrices
from tramontane.graphs.quantization.rounding_errors import RoundingErrors
from tramontane.graphs.quantization.scheme import Scheme
from tramontane.graphs.writing.description import (
    describe_tensors,
    refuse_in_float,
    with_errors,
)
from tramontane.graphs.writing.external_data import initializers_as_read
from tramontane.runtime.errors import GraphError

MODEL = """(int64[b,t] ids) => (float[b,t,6] logits) <float[8,44] w, float[44,44] v, float[6,44] head> {
    x = Gather(w, ids)
    columns = Transpose<perm = [1, 0]>(v)
    y = MatMul(x, columns)
    last = Transpose<perm = [1, 0]>(head)
    logits = MatMul(y, last)
}"""


@pytest.fixture
def model(build: Callable, normal: Callable) -> ir.Model:
    """An embedding, a layer and a head, of rows that end in a short block of 12."""
    return build(MODEL, w=normal(8, 44), v=normal(44, 44), head=normal(6, 44))


def described(model: ir.Model, *, quant: str) -> dict[str, dict[str, Any]]:
    """What is said of each weight, by its name."""
    entries = describe_tensors(model.graph, recipe=find_recipe(quant))
    assert len({entry["name"] for entry in entries}) == len(entries)
    return {entry.pop("name"): entry for entry in entries}


def packed(model: ir.Model, packs: type[PackMatrices], quant: str) -> dict[str, dict[str, Any]]:
    """What is said of each weight when the model is packed in blocks of 32."""
    packs(MatrixSchemes(find_recipe(quant), block=32))(model)
    return described(model, quant=quant)


def test_float_graph_has_one_reason(model: ir.Model) -> None:
    assert described(model, quant="fp32") == {
        "w": {"shape": [8, 44], "bits": 32, "why_float": "QUANT=fp32"},
        "v": {"shape": [44, 44], "bits": 32, "why_float": "QUANT=fp32"},
        "head": {"shape": [6, 44], "bits": 32, "why_float": "QUANT=fp32"},
    }


@pytest.mark.parametrize(("quant", "bits"), [("int8", (8, 8, 8)), ("int4", (4, 4, 8))])
@pytest.mark.parametrize(
    ("packs", "names", "blocks"),
    [
        # Columns of a matmul that 32 does not divide get blocks that take fewer bytes.
        (PackForOrt, ("w.rows", "v.codes", "head.codes"), (32, 16, 16)),
        (PackForPortable, ("w.{}", "v.elements", "head.elements"), (32, 32, 32)),
    ],
)
def test_codes_have_their_own_bits_and_block_whatever_type_stores_them(
    model: ir.Model,
    packs: type[PackMatrices],
    names: tuple[str, ...],
    blocks: tuple[int, ...],
    quant: str,
    bits: tuple[int, ...],
) -> None:
    found = packed(model, packs, quant)
    gathered = "rows" if quant == "int4" else "elements"
    for name, b, block in zip(names, bits, blocks, strict=True):
        entry = found[name.format(gathered)]
        assert (entry["bits"], entry["block"]) == (b, block)
        why = f"blocks of {block} instead of 32: rows of 44 weights take the fewest bytes so"
        assert entry.get("why_differs") == (None if block == 32 else why)
        assert "why_float" not in entry
    assert sum("block" in entry for entry in found.values()) == 3


@pytest.mark.parametrize(("packs", "blocks"), [(PackForOrt, 3), (PackForPortable, 2)])
def test_scales_say_whose_they_are_and_zero_points_need_no_reason(
    model: ir.Model, packs: type[PackMatrices], blocks: int
) -> None:
    found = packed(model, packs, "int4")
    scales = {"bits": 32, "why_float": "scales of the codes beside it"}
    assert found["w.scales"] == {"shape": [8, 2], **scales}
    assert found["v.scales"] == {"shape": [44, blocks], **scales}
    assert found["head.scales"] == {"shape": [6, blocks], **scales}
    zero_points = {n: e for n, e in found.items() if "zero_point" in n}
    assert len(zero_points) == 2
    for entry in zero_points.values():
        assert entry.keys() == {"shape", "bits"}


def test_order_is_that_in_which_the_graph_reads(model: ir.Model) -> None:
    entries = describe_tensors(model.graph, recipe=find_recipe("fp32"))
    assert [entry["name"] for entry in entries] == ["w", "v", "head"]


@pytest.mark.parametrize(
    ("name", "shape", "why"),
    [
        (ROPE_FREQUENCIES, (4,), "rope's frequencies: computed, not learned"),
        ("norm", (4,), "a norm's vector: too small to matter"),
        ("other", (8, 4), "no pass packs it"),
    ],
)
def test_what_stays_in_float_says_why(
    build: Callable, name: str, shape: tuple[int, ...], why: str
) -> None:
    sizes = ",".join(map(str, shape))
    text = f"(float[8,4] x) => (float[8,4] y) <float[{sizes}] {name}> {{ y = Add(x, {name}) }}"
    model = build(text, **{name: np.zeros(shape, np.float32)})
    assert described(model, quant="int4") == {
        name: {"shape": list(shape), "bits": 32, "why_float": why}
    }


def test_whole_numbers_need_no_reason(build: Callable) -> None:
    text = "(int64[b] x) => (int64[b] y) <int64[1] one> { y = Add(x, one) }"
    model = build(text, one=np.ones(1, np.int64))
    assert described(model, quant="int8") == {"one": {"shape": [1], "bits": 64}}


def test_describing_computes_no_number(model: ir.Model) -> None:
    def refuse() -> np.ndarray:
        raise AssertionError("asked for its numbers")

    for name, value in model.graph.initializers.items():
        shape = weights.size_of(value)
        value.const_value = weights.weight(name, refuse, shape=shape).const_value
    packed(model, PackForOrt, "int4")


def test_matrix_that_a_line_leaves_in_float_names_the_line(model: ir.Model) -> None:
    rules = (Rule(pattern="v", bits=32), Rule(pattern="*", bits=8))
    recipe = Recipe(name="own", rules=rules)
    PackForOrt(MatrixSchemes(recipe, block=32))(model)
    (entry,) = (e for e in describe_tensors(model.graph, recipe=recipe) if e["name"] == "v")
    assert entry["why_float"] == 'the recipe: "v" has bits = 32'
    refuse_in_float(describe_tensors(model.graph, recipe=recipe), recipe, ["w", "head"])


@pytest.mark.parametrize("name", ["w", "head"])
def test_end_that_stays_in_float_against_the_recipe_is_refused(model: ir.Model, name: str) -> None:
    """As where a pass does not know the form in which an exporter traced it."""
    recipe = find_recipe("int4-rtn")
    end = {"w": "embedding", "head": "head"}[name]  # by its role, whatever the graph calls it
    left = Recipe(name="own", rules=(Rule(pattern=end, bits=32), *recipe.rules))
    PackForOrt(MatrixSchemes(left, block=32))(model)
    tensors = describe_tensors(model.graph, recipe=recipe)
    message = f"{name}: stayed in float32, expected . bits by int4-rtn.toml:.*; this is a bug"
    with pytest.raises(GraphError, match=message):
        refuse_in_float(tensors, recipe, ["w", "v", "head"])


def test_errors_are_those_of_numpy_and_outputs_rank_before_weights(
    model: ir.Model, tmp_path: Path
) -> None:
    published = {n: weights.read(v).copy() for n, v in model.graph.initializers.items()}
    errors, rounded = RoundingErrors(tmp_path), RoundedMatrices(tmp_path)
    recipe = find_recipe("int4-rtn")
    PackForOrt(MatrixSchemes(recipe, block=32, errors=errors))(model)
    entries = describe_tensors(model.graph, recipe=recipe)
    for value in initializers_as_read(model.graph):
        weights.read(value)
    found = errors.read()
    for name, scheme in (
        ("w", Scheme(bits=4, block=32)),
        ("v", Scheme(bits=4, block=16)),
        ("head", Scheme(bits=8, block=16)),
    ):
        matrix = published[name]
        moved = dequantize(quantize(matrix, scheme), scheme, columns=44) - matrix
        assert found[name] == pytest.approx(np.linalg.norm(moved) / np.linalg.norm(matrix))
    blocks = quantize(published["head"], Scheme(bits=8, block=16))
    rounded.write("head", blocks, Scheme(bits=8, block=16), (0.25, 1.0))
    ranked = {
        one["matrix"]: one for one in with_errors(entries, found, rounded) if "matrix" in one
    }
    assert ranked["head"]["output_error"] == 0.5
    assert ranked["head"]["rank_by_harm"] == 1
    assert {one["rank_by_harm"] for one in ranked.values()} == {1, 2, 3}
    assert ranked["v"]["method"] == "round_to_nearest"
    assert ranked["v"]["scales"] == "float32"
    assert "output_error" not in ranked["v"]


TIED = """(float[b,44] x, int64[b] ids) => (float[b,44] rows, float[b,8] logits) <float[8,44] w> {
  rows = Gather(w, ids)
  columns = Transpose<perm=[1, 0]>(w)
  logits = MatMul(x, columns)
}"""


@pytest.mark.parametrize("packs", [PackForOrt, PackForPortable, PackForWeb])
def test_matrix_that_is_embedding_and_head_says_which_line_decides(
    build: Callable, packs: type[PackMatrices]
) -> None:
    rules = (
        Rule(pattern="head", bits=4),
        Rule(pattern="embedding", bits=8),
        Rule(pattern="*", bits=4),
    )

    def whys(*rules: Rule) -> set[str | None]:
        model = build(TIED, w=np.ones((8, 44), np.float32))
        recipe = Recipe(name="own", rules=rules)
        packs(MatrixSchemes(recipe, block=16))(model)
        entries = describe_tensors(model.graph, recipe=recipe)
        assert {one["bits"] for one in entries if "matrix" in one} == {8}
        return {one.get("why_differs") for one in entries if "matrix" in one}

    both = (
        "8 bits, as the recipe says of the embedding, and not as of the head: both are one matrix"
    )
    rows = "blocks of 44 instead of 16: the kernel takes one scale for a row"
    is_web = packs is PackForWeb
    assert whys(*rules) == {f"{both}; {rows}" if is_web else both}
    assert whys(Rule(pattern="*", bits=8)) == {rows if is_web else None}
