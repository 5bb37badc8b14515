"""Which bits does each weight format give each kind of matrix, and what rounds them?"""

from __future__ import annotations

import pytest
from tramontane.graphs.quantization.methods import gptq, round_to_nearest, smooth_then_round
from tramontane.graphs.quantization.weight_formats import (
    MatrixSchemes,
    Role,
    find_format,
    format_names,
    format_of_bits,
)
from tramontane.graphs.targets.known import TARGETS, find_target
from tramontane.graphs.targets.target import Target
from tramontane.runtime.errors import GraphError

BLOCKS = Target.blocks


def schemes_of(quant: str, block: int = 128) -> MatrixSchemes:
    found = find_format(quant).schemes(block)
    assert found is not None
    return found


def test_float_has_no_recipe() -> None:
    assert find_format("fp32").schemes(128) is None
    assert [name for name in format_names() if not find_format(name).is_quantized] == ["fp32"]


@pytest.mark.parametrize(
    ("quant", "bits"),
    [
        ("int8", (8, 8, 8)),
        ("int4", (4, 4, 8)),
        ("int4-rtn", (4, 4, 8)),
        ("int8-dynamic", (8, 8, 8)),
    ],
)
@pytest.mark.parametrize("block", BLOCKS)
def test_head_keeps_8_bits_and_all_have_the_block_that_was_asked_for(
    quant: str, bits: tuple[int, ...], block: int
) -> None:
    schemes = schemes_of(quant, block)
    each = (schemes.linear, schemes.embedding, schemes.head)
    assert tuple(scheme.bits for scheme in each) == bits
    assert {scheme.block for scheme in each} == {block}


def test_only_a_scheme_with_one_code_for_zero_needs_no_zero_points() -> None:
    schemes = schemes_of("int4")
    assert schemes.head.is_symmetric
    assert not schemes.linear.is_symmetric


def test_of_several_readers_the_one_of_most_bits_decides() -> None:
    schemes = schemes_of("int4")
    assert schemes.scheme_for([Role.EMBEDDING]).bits == 4
    for roles in ([Role.EMBEDDING, Role.HEAD], [Role.HEAD, Role.EMBEDDING]):
        assert schemes.scheme_for(roles).bits == 8
    assert schemes.scheme_for([Role.LAYER]) == schemes.scheme_for([Role.AFTER_PRODUCT])


def test_only_a_format_that_observes_activations_or_an_int8_cache_is_calibrated() -> None:
    found = {name for name in format_names() if find_format(name).is_calibrated("float32")}
    assert found == {"int4", "int8-dynamic"}
    assert all(find_format(name).is_calibrated("int8") for name in format_names())
    assert find_format("int8-dynamic").method is smooth_then_round.METHOD
    assert find_format("int4").method is gptq.METHOD
    assert find_format("int4-rtn").method is round_to_nearest.METHOD


def test_another_exporter_s_graph_is_held_to_the_format_of_its_bits() -> None:
    found = {bits: format_of_bits(bits).name for bits in (32, 16, 8, 4, 2)}
    assert found == {32: "fp32", 16: "int4-rtn", 8: "int8", 4: "int4-rtn", 2: "int4-rtn"}


@pytest.mark.parametrize("quant", ["int3", "INT8"])
def test_unknown_quant_is_refused_by_name(quant: str) -> None:
    message = (
        f"--quant {quant}: unknown; expected one of fp32, int8, int4, int4-rtn, int8-dynamic$"
    )
    with pytest.raises(GraphError, match=message):
        find_format(quant)


@pytest.mark.parametrize("block", [24, 0, 512])
@pytest.mark.parametrize("target", TARGETS)
def test_block_that_kernels_do_not_take_is_refused_by_name(target: str, block: int) -> None:
    with pytest.raises(
        GraphError, match=rf"--block {block}: expected one of 16, 32, 64, 128, 256$"
    ):
        find_target(target).refuse_block(block)
