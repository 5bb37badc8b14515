"""Tests of the sizes of known models: SmolLM2-135M in few bits."""

from __future__ import annotations

import pytest
from tramontane.bench.geometries import block_of, codes_bits, geometry_lines, share_of_head
from tramontane.export.budget.candidates import CANDIDATES
from tramontane.export.budget.fit import Budget
from tramontane.export.cache_choice import WINDOWED
from tramontane.export.formats.tensor_names import EMBEDDING, parameters
from tramontane.export.known_models import GEOMETRIES
from tramontane.graphs.targets.all_targets import find_target

SMALL = GEOMETRIES["smollm2-135m"]


@pytest.mark.slow
def test_the_page_has_the_bits_of_every_known_model() -> None:
    lines = geometry_lines()
    rows = [line for line in lines[lines.index("### Bits per weight") :] if line.startswith("| ")]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows[2:]] == list(GEOMETRIES)
    (row,) = (one for one in rows if one.startswith("| smollm2-135m | yes | "))
    cells = (float(cell.strip(" |")) for cell in row.split(" | ")[2:])
    int8, int8_small, int4, int4_small = cells
    assert int8_small < int8 <= 8.6
    assert codes_bits(SMALL) < 5.0 < int4_small < int4


def test_codes_alone_are_what_the_prose_says() -> None:
    head = 49152 * 576
    assert share_of_head(SMALL) == pytest.approx(head / 134_515_008)
    assert codes_bits(SMALL) == pytest.approx((30 * 3_538_944 * 4 + head * 8) / 134_515_008)
    assert block_of(SMALL) == 64


@pytest.mark.slow
def test_a_budget_of_five_bits_is_kept_by_a_small_model_with_a_tied_head() -> None:
    shapes = {name: shape for name, shape in parameters(SMALL).items() if len(shape) == 2}
    costs = {
        name: [rows * columns * 4.0**-one.bits * one.block**0.5 for one in CANDIDATES]
        for name, (rows, columns) in shapes.items()
        if name != EMBEDDING
    }
    budget = Budget(SMALL, target=find_target("ort"), cache=WINDOWED, costs=costs)
    found = budget.fit(most=5 * SMALL.num_parameters // 8, flag="--bits 5")
    assert 4.9 < found.bits_per_weight <= 5.0
