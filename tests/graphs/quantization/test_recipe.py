"""Does every recipe name a scheme for each kind of matrix?"""

from __future__ import annotations

import pytest
from tramontane.graphs.quantization.recipe import BLOCKS, DEFAULT_BLOCK, QUANTS, recipe_for
from tramontane.runtime.errors import GraphError


def test_float_has_no_recipe() -> None:
    assert recipe_for("fp32") is None


@pytest.mark.parametrize(
    ("quant", "bits"), [("int8", (8, 8, 8)), ("int4", (4, 4, 8)), ("int8-dynamic", (8, 8, 8))]
)
@pytest.mark.parametrize("block", BLOCKS)
def test_head_keeps_8_bits_and_all_have_the_block_that_was_asked_for(
    quant: str, bits: tuple[int, ...], block: int
) -> None:
    recipe = recipe_for(quant, block)
    assert recipe is not None
    schemes = (recipe.linear, recipe.embedding, recipe.head)
    assert tuple(scheme.bits for scheme in schemes) == bits
    assert {scheme.block for scheme in schemes} == {block}


def test_block_has_a_default() -> None:
    for quant in QUANTS:
        assert recipe_for(quant) == recipe_for(quant, DEFAULT_BLOCK)


def test_only_a_scheme_with_one_code_for_zero_needs_no_zero_points() -> None:
    recipe = recipe_for("int4")
    assert recipe is not None
    assert recipe.head.is_symmetric
    assert not recipe.linear.is_symmetric


@pytest.mark.parametrize(
    ("quant", "block", "message"),
    [
        ("int3", 32, r"--quant int3: unknown; expected one of fp32, int8, int4, int8-dynamic$"),
        ("INT8", 32, r"--quant INT8: unknown; expected one of fp32, int8, int4, int8-dynamic$"),
        ("int4", 24, r"--block 24: expected one of 16, 32, 64, 128, 256$"),
        ("int8", 0, r"--block 0: expected one of 16, 32, 64, 128, 256$"),
        ("int8", 512, r"--block 512: expected one of 16, 32, 64, 128, 256$"),
    ],
)
def test_unknown_quant_or_block_is_refused_by_name(quant: str, block: int, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        recipe_for(quant, block)
