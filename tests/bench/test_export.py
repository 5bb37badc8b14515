"""Is a broken bound of an export told, each by its own words?"""

from __future__ import annotations

import dataclasses
import math

import pytest
from tramontane.bench.export.__main__ import MOST_BYTES, MOST_MORE_BYTES, ExportCost, broken_bounds

WHOLE = 32
ROW = ExportCost(
    layers=WHOLE,
    quant="int4",
    seconds=120.0,
    work_share=0.9,
    peak_bytes=1_200_000_000,
    planned_peak_bytes=1_200_000_000,
    weights_bytes=4_000_000_000,
    resident_bytes=5_800_000_000,
    planned_resident_bytes=5_900_000_000,
    cache_bytes=1_200_000_000,
)
FEW = dataclasses.replace(ROW, layers=2, work_share=0.5, weights_bytes=400_000_000)


def test_good_figures_break_nothing() -> None:
    assert list(broken_bounds([ROW, FEW], WHOLE)) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"peak_bytes": MOST_BYTES + 1, "planned_peak_bytes": MOST_BYTES},
            "32 layers in int4: peak 2.15 GB > 2.15 GB",
        ),
        ({"planned_peak_bytes": 1_000_000_000}, "the export's peak was planned as 1.00 GB"),
        ({"planned_resident_bytes": 5_000_000_000}, "a session's memory was planned as 5.00 GB"),
        ({"seconds": 301.0}, "301.0 s > 300 s"),
        ({"work_share": 0.69}, "69% of the time after tracing < 70%"),
        (
            {"resident_bytes": 6_100_000_000, "planned_resident_bytes": 6_100_000_000},
            "a session takes 6.10 GB > 6.00 GB",
        ),
    ],
)
def test_one_bad_figure_is_told(change: dict[str, float], told: str) -> None:
    found = list(broken_bounds([dataclasses.replace(ROW, **change)], WHOLE))
    assert len(found) == 1
    assert told in found[0]


@pytest.mark.parametrize("difference", [0, 1])
def test_peaks_may_differ_by_so_much_and_no_more(difference: int) -> None:
    peak = ROW.peak_bytes + MOST_MORE_BYTES + difference
    more = dataclasses.replace(ROW, peak_bytes=peak, planned_peak_bytes=peak)
    assert len(list(broken_bounds([FEW, more], WHOLE))) == difference


def test_peaks_of_different_recipes_are_not_compared() -> None:
    peak = ROW.peak_bytes + 2 * MOST_MORE_BYTES
    other = dataclasses.replace(ROW, quant="int8", peak_bytes=peak, planned_peak_bytes=peak)
    assert list(broken_bounds([ROW, other], WHOLE)) == []


def test_another_geometry_has_no_bounds_of_seven_billion() -> None:
    slow = dataclasses.replace(ROW, seconds=math.inf)
    assert list(broken_bounds([slow], None)) == []


def test_bounds_of_a_whole_model_are_not_asked_of_a_few_layers() -> None:
    slow = dataclasses.replace(FEW, seconds=math.inf, resident_bytes=10**10)
    planned = dataclasses.replace(slow, planned_resident_bytes=10**10)
    assert list(broken_bounds([planned], WHOLE)) == []
