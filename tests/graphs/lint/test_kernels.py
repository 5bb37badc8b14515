"""Do rules find operators that do not run, or compute too coarsely, and no other?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from tramontane.graphs.lint import kernels as lint_kernels

from .one_layer import MISTRAL, Ask, say, zeros


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


def test_a_loop_is_told_and_nothing_else(ask: Ask) -> None:
    nodes = """
        yes = Constant<value = bool {1}>()
        logits = Loop("", yes, q) <body = b (int64 i, bool c, float[b,T,64] v)
            => (bool again, float[b,T,64] next) { again = Identity(c)  next = Identity(v) }> }"""
    finding = ask("may-not-end", nodes)
    say(finding, "warning", "1 Loop", "no end", "--time-limit")
    assert ask("may-not-end") is None


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
    from tramontane.runtime.ort import ort_session

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
