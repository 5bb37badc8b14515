"""Is a session that would take too much memory refused, with what would fit?"""

from __future__ import annotations

from pathlib import Path

import pytest
from tramontane.runtime.cache import CacheLayout
from tramontane.runtime.contract import Geometry
from tramontane.runtime.errors import ContractError
from tramontane.runtime.memory import MemoryPlan, refuse_beyond

WHAT = Path("artifacts/mine")
PLAN = MemoryPlan(
    weights_bytes=900,
    resident_weights_bytes=1000,
    activation_bytes=60,
    runtime_bytes=40,
    cache_bytes_per_token=1,
    cache_bytes_at_most=4096,
    resident_bytes=5196,
    other_quants={"fp32": 8196, "int4": 4696},
)


def geometry(*, window: int | None, rows: int | None) -> Geometry:
    return Geometry(
        num_key_value_heads=1,
        head_dim=2,
        vocab_size=8,
        layers=(CacheLayout(window=window, rows=rows),),
        max_positions=4096,
    )


GROWING, WINDOWED = geometry(window=None, rows=None), geometry(window=4000, rows=4096)


def refusal(geometry: Geometry, *, tokens: int, limit: int) -> str:
    with pytest.raises(ContractError) as error:
        refuse_beyond(PLAN, geometry, tokens=tokens, limit=limit, what=WHAT)
    return str(error.value)


@pytest.mark.parametrize("limit", [5196, None])
def test_session_that_fits_exactly_is_let_through(limit: int | None) -> None:
    refuse_beyond(PLAN, WINDOWED, tokens=1, limit=limit, what=WHAT)


def test_windowed_cache_counts_whole_however_few_the_tokens() -> None:
    message = refusal(WINDOWED, tokens=1, limit=5195)
    assert message.startswith(
        "artifacts/mine: needs 5.20 kB of memory (weights 1.00 kB, cache 4.10 kB, the rest 100 B), "
        "allowed are 5.20 kB"
    )
    assert message.endswith("what would fit: an export with QUANT=int4, about 4.70 kB")


def test_growing_cache_counts_the_rows_that_it_would_have() -> None:
    for tokens, rows in ((1, 256), (256, 256), (257, 512), (4000, 4096)):
        needed = 1100 + rows
        refuse_beyond(PLAN, GROWING, tokens=tokens, limit=needed, what=WHAT)
        assert "needs" in refusal(GROWING, tokens=tokens, limit=needed - 1)


def test_fewer_tokens_are_offered_where_they_would_fit() -> None:
    offers = refusal(GROWING, tokens=4096, limit=1100 + 600).partition("what would fit: ")[2]
    assert offers == "at most 512 tokens"
    refuse_beyond(PLAN, GROWING, tokens=512, limit=1100 + 600, what=WHAT)


def test_recipe_is_offered_with_the_cache_that_was_asked_for() -> None:
    message = refusal(GROWING, tokens=200, limit=1100 + 255)
    assert message.endswith("what would fit: an export with QUANT=int4, about 856 B")


def test_nothing_is_offered_where_nothing_fits() -> None:
    assert refusal(WINDOWED, tokens=1, limit=4000).endswith("no recipe of it would fit")
