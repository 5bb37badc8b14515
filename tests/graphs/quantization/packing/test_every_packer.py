"""What packers have in common: what they leave alone, a second run, the rows that are gathered."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tramontane.graphs.quantization.packing.pack_for_ort import PackForOrt
from tramontane.graphs.quantization.packing.pack_for_portable import PackForPortable
from tramontane.graphs.quantization.packing.pack_matrices import PackMatrices

from ..small_graphs import GATHER, IDS, LINEAR, every_scheme, every_width, packing, rounded

every_packer = pytest.mark.parametrize("packer", [PackForOrt, PackForPortable])
every_reader = pytest.mark.parametrize("text", [LINEAR, GATHER], ids=["linear", "gather"])


@every_packer
@every_scheme
@every_reader
def test_matrix_that_is_an_input_is_left_alone(
    build: Callable, text: str, bits: int, block: int, packer: type[PackMatrices]
) -> None:
    given = text.format(K=256).replace(") =>", ", float[6,256] w) =>", 1)
    model = build(given.replace("<float[6,256] w>", ""))
    assert not packing(packer, bits, block)(model).modified


@every_packer
@every_scheme
@every_reader
def test_second_run_modifies_nothing(
    build: Callable,
    normal: Callable,
    text: str,
    bits: int,
    block: int,
    packer: type[PackMatrices],
) -> None:
    model = build(text.format(K=256), w=normal(6, 256))
    packing(packer, bits, block)(model)
    assert not packing(packer, bits, block)(model).modified


@every_packer
@every_scheme
@every_width
def test_values_agree_with_gathered_rows_that_are_rounded(
    build: Callable,
    evaluate: Callable,
    assert_agree: Callable,
    normal: Callable,
    bits: int,
    block: int,
    columns: int,
    packer: type[PackMatrices],
) -> None:
    w = normal(6, columns)
    model = build(GATHER.format(K=columns), w=w)
    packing(packer, bits, block)(model)
    assert_agree(evaluate(model, ids=IDS), {"rows": rounded(w, bits, block)[IDS]})
