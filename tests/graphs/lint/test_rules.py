"""Does each rule tell of what it is for, and of nothing else?"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from tramontane.graphs.lint import kernels as lint_kernels
from tramontane.graphs.lint.rules import RULES, LintFinding, lint
from tramontane.runtime.errors import ContractError

# One layer: B b, T new tokens, G 2, D 16, a cache of ``rows`` and a rope table of ``table`` rows.
INPUTS = """(int64[b,T] input_ids, float[b,T,64] q, float[b,T,32] k, float[b,T,32] v,
    float[b,2,{rows},16] "past_key_values.0.key", float[b,2,{rows},16] "past_key_values.0.value",
    int64[b,S] mask, float[b,4,T,S] scores, int32 total, float[{table},8] cos) => ({outputs}) {{
"""
PAST = '"past_key_values.0.key", "past_key_values.0.value"'
GQA = f"""logits, keys, values = com.microsoft.GroupQueryAttention
    <num_heads = 4, kv_num_heads = 2 @>(q, k, v, {PAST}, total, total, cos, cos) }}"""
OURS = f"""logits, keys, values = tramontane.SlidingWindowAttention<window = 8>
    (q, k, v, {PAST}, mask, cos, cos) }}"""
DECOMPOSED = """start = Constant<value_int = 0>()
    @
    lowest = Constant<value_float = -10000.0>()
    masked = Where(visible, scores, lowest)
    shares = Softmax(masked)
    logits = MatMul(shares, "past_key_values.0.value") }"""
MASK = """axis = Constant<value_ints = [2]>()
    i = Unsqueeze(mask, axis)
    window = Constant<value_int = {number}>()
    edge = {edge}(i, window)
    visible = {compare}({operands})"""
SLIDES = ", local_window_size = 8, sliding_window_cache = 1"
MISTRAL = {"model_type": "mistral", "sliding_window": 8, "max_position_embeddings": 256}

Ask = Callable[..., LintFinding | None]


@pytest.fixture
def ask(build: Callable[..., ir.Model], tmp_path: Path) -> Ask:
    """Lint a graph of a few nodes; hand back what one rule says."""

    def found(
        rule: str,
        nodes: str = GQA.replace("@", SLIDES),
        *,
        rows: int | str = 24,
        table: int | str = 256,
        outputs: str = "float[b,n,6] logits",
        change: Callable[[ir.Model], object] | None = None,
        external: str | None = None,
        config: Any = None,
        genai: Any = None,
        **weights: np.ndarray,
    ) -> LintFinding | None:
        header = INPUTS.format(rows=rows, table=table, outputs=outputs)
        model = build(header + nodes.replace("@", ""), **weights)
        if change is not None:
            change(model)
        ir.save(model, tmp_path / "model.onnx", external_data=external, size_threshold_bytes=0)
        for name, content in (("config.json", config), ("genai_config.json", genai)):
            (tmp_path / name).unlink(missing_ok=True)
            if content is not None:
                (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
        matching = [each for each in lint(tmp_path / "model.onnx") if each.rule == rule]
        assert len(matching) <= 1
        return matching[0] if matching else None

    return found


def say(finding: LintFinding | None, severity: str, *words: str) -> None:
    """Hold a finding against its severity and the numbers that it must name."""
    assert finding is not None
    assert finding.severity == severity
    told = " | ".join((finding.where, finding.found, finding.consequence, finding.advice))
    for word in words:
        assert word in told


def genai(**section: Any) -> dict[str, Any]:
    told = {"window_size": 8, "slide_key_value_cache": False, **section}
    return {"model": {"context_length": 256, "decoder": {"sliding_window": told}}}


def zeros(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype=dtype)


# The whole.


def test_graph_of_ours_gets_a_note_at_most(promised: ir.Model, tmp_path: Path) -> None:
    ir.save(promised, tmp_path / "model.onnx")
    assert [finding.rule for finding in lint(tmp_path / "model.onnx")] == ["all-float"]


def test_what_is_gravest_comes_first(promised: ir.Model, tmp_path: Path) -> None:
    ir.save(promised, tmp_path / "model.onnx", external_data="weights", size_threshold_bytes=0)
    (tmp_path / "weights").unlink()
    (tmp_path / "config.json").write_text("{")
    found = lint(tmp_path / "model.onnx")
    assert [finding.severity for finding in found] == ["error", "warning", "note"]


def test_rules_are_named_after_their_functions(ask: Ask) -> None:
    names = [rule.__name__.replace("_", "-") for rule in RULES]
    assert len(set(names)) == len(names)
    assert all(rule.__doc__ for rule in RULES)
    for name in ("logits-of-all", "window-lost"):
        assert name in names


@pytest.mark.parametrize("content", [b"no graph", None], ids=["other bytes", "no file"])
def test_file_that_is_no_graph_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ContractError, match="model.onnx: not an ONNX graph"):
        lint(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    "nodes", [GQA, OURS, DECOMPOSED.replace("@", "visible = Cast<to = 9>(i)")]
)
def test_nodes_that_lost_their_inputs_and_attributes_break_no_rule(ask: Ask, nodes: str) -> None:
    def strip(model: ir.Model) -> None:
        for node in model.graph:
            node.attributes.clear()
            node.resize_inputs(0)
        for value in model.graph.inputs:
            value.shape = value.type = None

    odd = {"sliding_window": "8", "model_type": ["mistral"], "layer_types": 3, "text_config": 1}
    ask("window-lost", nodes, change=strip, config=odd, genai={"model": [], "search": None})


# Which keys are seen.


def test_window_that_the_graph_does_not_have_is_told(ask: Ask) -> None:
    finding = ask("window-lost", GQA.replace("@", ", local_window_size = -1"), config=MISTRAL)
    say(finding, "error", "1 of 1", "config.json: sliding_window is 8", "from token 9 on")
    say(ask("window-lost", GQA, genai=genai()), "error", "window_size is 8")


def test_window_that_the_graph_has_is_not_lost(ask: Ask) -> None:
    assert ask("window-lost", config=MISTRAL) is None
    assert ask("window-lost", OURS, config=MISTRAL) is None


@pytest.mark.parametrize(
    "config",
    [
        MISTRAL | {"sliding_window": None},
        MISTRAL | {"use_sliding_window": False},
        MISTRAL | {"model_type": "llama"},
        MISTRAL | {"model_type": "qwen2"},
        MISTRAL | {"layer_types": ["full_attention"]},
        MISTRAL | {"use_sliding_window": True, "max_window_layers": 1},
        MISTRAL | {"max_position_embeddings": 8},
    ],
    ids=str,
)
def test_window_that_the_model_does_not_use_is_not_missed(ask: Ask, config: Any) -> None:
    assert ask("window-lost", GQA, config=config) is None


def test_window_of_the_decoder_s_part_of_the_config_is_read(ask: Ask) -> None:
    say(ask("window-lost", GQA, config={"text_config": MISTRAL}), "error", "is 8")


@pytest.mark.parametrize(
    ("compare", "edge", "number", "operands"),
    [
        ("Greater", "Sub", 8, "mask, edge"),
        ("GreaterOrEqual", "Sub", 7, "mask, edge"),
        ("Less", "Sub", 8, "edge, mask"),
        ("LessOrEqual", "Sub", 8, "mask, edge"),  # what it masks, not what it shows
        ("Greater", "Add", -8, "mask, edge"),
        ("Less", "Add", 8, "mask, edge"),
        ("GreaterOrEqual", "Add", 8, "mask, edge"),
    ],
)
def test_window_in_a_mask_is_found_however_it_is_compared(
    ask: Ask, compare: str, edge: str, number: int, operands: str
) -> None:
    mask = MASK.format(compare=compare, edge=edge, number=number, operands=operands)
    nodes = DECOMPOSED.replace("@", mask)
    assert ask("window-lost", nodes, config=MISTRAL) is None
    if operands == "mask, edge":
        assert ask("window-differs", nodes, config=MISTRAL) is None
        say(
            ask("window-differs", nodes, config=MISTRAL | {"sliding_window": 9}),
            "error",
            "1 fewer",
        )


def test_window_in_a_triangle_is_found(ask: Ask) -> None:
    triangle = """window = Constant<value_int = -8>()
    visible = Trilu<upper = 0>(scores, window)"""
    assert ask("window-lost", DECOMPOSED.replace("@", triangle), config=MISTRAL) is None


def test_mask_that_is_causal_alone_has_lost_the_window(ask: Ask) -> None:
    mask = MASK.format(compare="LessOrEqual", edge="Sub", number=0, operands="mask, edge")
    finding = ask("window-lost", DECOMPOSED.replace("@", mask), config=MISTRAL)
    say(finding, "error", "Softmax", "no comparison of positions 8 apart")


def test_window_in_a_bias_of_the_kernel_counts(ask: Ask) -> None:
    mask = MASK.format(compare="Greater", edge="Sub", number=8, operands="mask, edge")
    nodes = mask + GQA.replace("cos, cos", "cos, cos, , visible")
    assert ask("window-lost", nodes, config=MISTRAL) is None
    say(ask("window-lost", GQA, config=MISTRAL), "error")


def test_length_compared_with_a_number_is_no_window(ask: Ask) -> None:
    mask = MASK.format(compare="Less", edge="Sub", number=8, operands="i, window")
    say(ask("window-lost", DECOMPOSED.replace("@", mask), config=MISTRAL), "error")


def test_softmax_that_routes_is_no_attention(ask: Ask) -> None:
    nodes = "shares = Softmax(scores) count = Constant<value_ints = [1]>() logits, rest = TopK(shares, count) }"
    assert ask("window-lost", nodes, config=MISTRAL) is None


@pytest.mark.parametrize(("window", "words"), [(9, "1 more"), (7, "1 fewer")])
def test_window_that_is_off_by_one_is_told(ask: Ask, window: int, words: str) -> None:
    nodes = GQA.replace("@", f", local_window_size = {window}")
    say(ask("window-differs", nodes, config=MISTRAL), "error", f"window {window}", "is 8", words)


def test_window_of_the_model_does_not_differ(ask: Ask) -> None:
    assert ask("window-differs", config=MISTRAL) is None
    assert ask("window-differs", GQA, config=MISTRAL) is None  # it is lost


@pytest.mark.parametrize(("preceding", "is_right"), [(7, True), (8, False)])
def test_window_of_standard_attention_counts_the_query_too(
    ask: Ask, preceding: int, is_right: bool
) -> None:
    nodes = f"logits = Attention<left_window_size = {preceding}>(q, k, v) }}"
    assert (ask("window-differs", nodes, config=MISTRAL) is None) == is_right


def test_window_that_the_model_does_not_have_is_told(ask: Ask) -> None:
    config = MISTRAL | {"sliding_window": None}
    say(ask("window-invented", config=config), "error", "window 8 on 1 layer without", "token 9")


def test_window_is_not_invented_without_a_config_that_denies_it(ask: Ask) -> None:
    assert ask("window-invented") is None
    assert ask("window-invented", config=MISTRAL) is None
    config = MISTRAL | {"sliding_window": None, "max_position_embeddings": 8}
    assert ask("window-invented", config=config) is None


def test_rope_table_shorter_than_the_context_is_told(ask: Ask) -> None:
    say(ask("rope-table-short", table=255, config=MISTRAL), "error", "255 rows", "256 positions")
    say(ask("rope-table-short", OURS, table=255, genai=genai()), "error", "token 256")


def test_rope_table_of_all_positions_is_long_enough(ask: Ask) -> None:
    assert ask("rope-table-short", table=256, config=MISTRAL) is None
    assert ask("rope-table-short", table="P", config=MISTRAL) is None
    assert ask("rope-table-short", table=255) is None


# Which rows are kept.


def test_cache_of_fewer_rows_than_the_window_is_told(ask: Ask) -> None:
    say(ask("cache-too-short", rows=7), "error", "7 rows", "window of 8", "export 24 rows")
    assert ask("cache-too-short", rows=8) is None


@pytest.mark.parametrize("rows", [8, 23])
def test_cache_without_slack_is_told(ask: Ask, rows: int) -> None:
    say(ask("cache-without-slack", rows=rows), "warning", f"{rows} rows", "allocates 24 rows")


def test_cache_with_slack_is_not(ask: Ask) -> None:
    assert ask("cache-without-slack", rows=24) is None
    assert ask("cache-without-slack", rows=7) is None  # it is too short
    assert ask("cache-without-slack", GQA, rows=8) is None  # no window


@pytest.mark.parametrize(
    ("section", "search", "rows"),
    [({}, {}, 24), ({"cache_slack": 4}, {}, 12), ({}, {"chunk_size": 32}, 39)],
    ids=str,
)
def test_rows_that_onnxruntime_genai_does_not_allocate_are_told(
    ask: Ask, section: Any, search: Any, rows: int
) -> None:
    config = genai(**section) | {"search": search}
    assert ask("genai-rows-differ", rows=rows, genai=config) is None
    say(ask("genai-rows-differ", rows=rows + 1, genai=config), "error", f"makes it {rows}")


def test_bounded_cache_under_a_graph_that_grows_it_is_told(ask: Ask) -> None:
    finding = ask("genai-cache-overflows", GQA, rows="C", genai=genai(layers=[]))
    say(finding, "error", "fails at token 25", "gets 24 rows")


@pytest.mark.parametrize(
    "config",
    [
        genai(layers=[1]),
        genai(slide_key_value_cache=True),
        genai(window_size=0),
        genai(cache_slack=248),
        {"model": {"context_length": 256}},
    ],
    ids=str,
)
def test_cache_that_onnxruntime_genai_lets_grow_is_not(ask: Ask, config: Any) -> None:
    assert ask("genai-cache-overflows", GQA, rows="C", genai=config) is None
    assert ask("genai-cache-overflows", rows="C", genai=genai()) is None


def test_window_that_masks_only_is_told_with_its_cost(ask: Ask) -> None:
    nodes = GQA.replace("@", ", local_window_size = 8")
    finding = ask("cache-grows", nodes, rows="C", config=MISTRAL)
    say(finding, "warning", "65.54 kB at 256 tokens", "24 rows would take 6.14 kB")


def test_mask_s_window_over_a_growing_cache_is_told(ask: Ask) -> None:
    mask = MASK.format(compare="Greater", edge="Sub", number=8, operands="mask, edge")
    nodes = DECOMPOSED.replace("@", mask)
    say(ask("cache-grows", nodes, rows="C"), "warning", "the window of 8 only masks")
    assert ask("cache-grows", nodes, rows=24) is None


def test_cache_that_slides_or_has_no_window_is_not_said_to_grow(ask: Ask) -> None:
    assert ask("cache-grows", rows="C") is None
    assert ask("cache-grows", OURS) is None
    assert ask("cache-grows", GQA, rows="C") is None


def test_sliding_cache_without_a_number_of_rows_is_told(ask: Ask) -> None:
    say(ask("cache-rows-unnamed", rows="C"), "note", "has C rows", "at least 8")
    assert ask("cache-rows-unnamed") is None
    assert ask("cache-rows-unnamed", GQA, rows="C") is None


# What runs.


@pytest.mark.parametrize(("opset", "version"), [(29, 10), (23, 15)])
def test_version_that_onnxruntime_refuses_is_told(ask: Ask, opset: int, version: int) -> None:
    def age(model: ir.Model) -> None:
        model.graph.opset_imports[""], model.ir_version = opset, version

    say(ask("opset-too-new", change=age), "error", str(max(opset, version)))


def test_latest_version_that_is_not_told_loads(
    ask: Ask, build: Callable, evaluate: Callable
) -> None:
    def age(model: ir.Model) -> None:
        model.graph.opset_imports[""] = lint_kernels._LAST_OPSET
        model.ir_version = lint_kernels._LAST_IR_VERSION

    assert ask("opset-too-new", change=age) is None
    model = build("(float[b] x) => (float[b] y) { y = Add(x, x) }")
    age(model)
    assert evaluate(model, x=np.ones(1, dtype=np.float32))["y"] == 2


def test_attention_of_an_opset_without_a_kernel_is_told(ask: Ask) -> None:
    def age(model: ir.Model) -> None:
        model.graph.opset_imports[""] = 25

    nodes = "logits = Attention(q, k, v) }"
    say(ask("attention-expands", nodes, change=age), "warning", "opset 25", "at most 24")
    assert ask("attention-expands", nodes) is None
    assert ask("attention-expands", change=age) is None


@pytest.mark.parametrize("name", ["acme.Attend", "Attend", "tramontane.SlidingWindowAttention"])
def test_operator_without_a_body_is_told(ask: Ask, name: str) -> None:
    finding = ask("operator-unknown", f"logits = {name}(q) }}")
    say(finding, "error", name, "not a registered function")


@pytest.mark.parametrize("name", ["Attention", "SimplifiedLayerNormalization"])
def test_operator_of_onnx_or_onnxruntime_is_known(ask: Ask, name: str) -> None:
    assert ask("operator-unknown", f"logits = {name}(q) }}") is None
    assert ask("operator-unknown") is None


def test_operator_with_its_body_in_the_file_is_known(ask: Ask) -> None:
    body = """
    <domain: "tramontane", opset_import: ["": 23]> SlidingWindowAttention(query) => (attention)
    { attention = Identity(query) }"""
    nodes = "logits = tramontane.SlidingWindowAttention(q) }"
    assert ask("operator-unknown", nodes + body) is None


def test_operator_for_other_devices_is_told(ask: Ask) -> None:
    finding = ask("not-on-processor", "logits = com.microsoft.PagedAttention(q) }")
    say(finding, "error", "1 node of PagedAttention")
    assert ask("not-on-processor") is None
    assert ask("not-on-processor", "logits = acme.PagedAttention(q) }") is None


def test_operators_said_to_have_no_kernel_have_none() -> None:
    from tramontane.runtime import ort_session

    kernels = ort_session.ort.capi.onnxruntime_pybind11_state.get_all_opkernel_def()
    own = {kernel.op_name for kernel in kernels if kernel.provider == "CPUExecutionProvider"}
    assert "GroupQueryAttention" in own
    assert not own & lint_kernels._NOT_ON_PROCESSOR


@pytest.mark.parametrize(
    ("dtype", "severity"), [(ir.DataType.FLOAT16, "note"), (ir.DataType.BFLOAT16, "error")]
)
def test_multiplication_in_16_bits_is_told(ask: Ask, dtype: ir.DataType, severity: str) -> None:
    nodes = "logits = MatMul(q, w) }"

    def halve(model: ir.Model) -> None:
        weight = model.graph.initializers["w"]
        weight.const_value = ir.tensor(zeros(64, 6, dtype=dtype.numpy()), name="w")
        weight.type = ir.TensorType(dtype)

    say(ask("half-precision", nodes, change=halve, w=zeros(64, 6)), severity, dtype.name.lower())
    assert ask("half-precision", nodes, w=zeros(64, 6)) is None


# What is computed.

ROUNDED = """rounded, scale, zero = DynamicQuantizeLinear({source})
    product = MatMulInteger(rounded, {other})
    number = Cast<to = 1>(product)
    angle = Mul(number, scale)
    logits = {reader}(angle) }}"""


def test_angles_of_rope_in_8_bits_are_told(ask: Ask) -> None:
    nodes = ROUNDED.format(source="q", other="rounded", reader="Cos")
    say(ask("positions-rounded", nodes, config=MISTRAL), "error", "256 levels")
    config = MISTRAL | {"max_position_embeddings": 1024}
    say(ask("positions-rounded", nodes, config=config), "error", "4 neighbours share one")
    assert ask("attention-rounded", nodes) is None


def test_activations_multiplied_in_8_bits_are_told(ask: Ask) -> None:
    nodes = ROUNDED.format(source="q", other="rounded", reader="Softmax")
    say(ask("attention-rounded", nodes), "note", "1 MatMulInteger")
    assert ask("positions-rounded", nodes) is None


def test_weights_multiplied_in_8_bits_are_neither(ask: Ask) -> None:
    nodes = ROUNDED.format(source="q", other="w", reader="Sigmoid")
    weight = zeros(64, 6, dtype=np.int8)
    assert ask("attention-rounded", nodes, w=weight) is None
    assert ask("positions-rounded", nodes, w=weight) is None


@pytest.mark.parametrize(("dtype", "exact"), [(10, 2048), (16, 256)])
def test_angles_in_16_bits_are_told(ask: Ask, dtype: int, exact: int) -> None:
    nodes = f"""position = Cast<to = {dtype}>(input_ids)
    angle = MatMul(position, w)
    logits = Cos(angle) }}"""
    say(ask("positions-in-half", nodes, w=zeros(6, 6)), "error", f"past position {exact}")


def test_sines_rounded_to_16_bits_are_not(ask: Ask) -> None:
    nodes = """position = Cast<to = 1>(input_ids)
    wide = Cast<to = 1>(w)
    angle = MatMul(position, wide)
    sine = Cos(angle)
    logits = Cast<to = 10>(sine) }"""
    assert ask("positions-in-half", nodes, w=zeros(6, 6, dtype=np.float16)) is None


# How weights are stored.

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


# What goes in and out.


@pytest.mark.parametrize("content", ["text", [1]], ids=str)
def test_config_that_is_no_object_is_told(ask: Ask, content: Any) -> None:
    say(ask("config-unreadable", config=content), "warning", "config.json", "not an object")
    assert ask("config-unreadable", config=MISTRAL, genai=genai()) is None


def test_config_that_is_no_json_is_told(ask: Ask, tmp_path: Path) -> None:
    assert ask("config-unreadable") is None
    (tmp_path / "genai_config.json").write_text("{")
    (finding,) = (f for f in lint(tmp_path / "model.onnx") if f.rule == "config-unreadable")
    say(finding, "warning", "genai_config.json", "line 1 column 2")


def test_config_above_the_folder_onnx_is_read(ask: Ask, tmp_path: Path) -> None:
    assert ask("window-lost", GQA, config=MISTRAL) is not None
    for folder in ("onnx", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.onnx").write_bytes((tmp_path / "model.onnx").read_bytes())
        rules = {finding.rule for finding in lint(tmp_path / folder / "model.onnx")}
        assert ("window-lost" in rules) == (folder == "onnx")


USUAL = 'logits = Add(q, q) "present.0.key" = Identity("past_key_values.0.key") }'
PRESENT = 'float[b,n,6] logits, float[b,2,24,16] "present.0.key"'


def test_usual_names_are_not_told(ask: Ask) -> None:
    assert ask("names-unusual", USUAL, outputs=PRESENT) is None


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("input_ids", "tokens", "no input_ids"),
        ("logits", "scores_of_words", "no logits"),
        ("past_key_values.0", "past_0", "no past_key_values.0.key"),
        ("present.0.key", "cache_out", "no present.0.key"),
    ],
)
def test_unusual_name_is_told(ask: Ask, old: str, new: str, words: str) -> None:
    def rename(model: ir.Model) -> None:
        for value in (*model.graph.inputs, *model.graph.outputs):
            value.name = str(value.name).replace(old, new)

    say(ask("names-unusual", USUAL, outputs=PRESENT, change=rename), "warning", words)


def test_decoder_without_a_cache_is_told(ask: Ask) -> None:
    def forget(model: ir.Model) -> None:
        for value in list(model.graph.inputs):
            if value.shape is not None and len(value.shape) == 4:
                model.graph.inputs.remove(value)

    nodes = "logits = Add(q, q) }"
    say(ask("cache-absent", nodes, change=forget), "warning", "whole text again")
    assert ask("cache-absent", nodes) is None


def test_logits_of_every_token_are_told_with_their_size(ask: Ask) -> None:
    every = "float[b,T,32000] logits"
    nodes = "logits = Add(q, q) }"
    say(ask("logits-of-all", nodes, outputs=every), "warning", "(batch, T, 32000)", "128.00 MB")


def test_logits_of_the_tokens_asked_for_are_not(ask: Ask) -> None:
    def offer(model: ir.Model) -> None:
        model.graph.inputs[-1].name = "num_logits_to_keep"

    nodes = "logits = Add(q, q) }"
    assert ask("logits-of-all", nodes, outputs="float[b,n,32000] logits") is None
    assert ask("logits-of-all", nodes, outputs="float[b,1,32000] logits") is None
    every = "float[b,T,32000] logits"
    assert ask("logits-of-all", nodes, outputs=every, change=offer) is None
