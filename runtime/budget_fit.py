"""What an artifact says of the budget that its recipe was made for. (stdlib only)"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontierPoint:
    """The recipe that is expected to change the model least within some size."""

    bits_per_weight: float  # as ``sizes.py`` defines it
    kl: float  # expected mean, nats


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetFit:
    """The recipe of an artifact among the best ones of every size."""

    option: str  # that set the size
    most_bytes: int  # of the files of weights
    chosen: FrontierPoint
    frontier: tuple[FrontierPoint, ...]  # the smallest first
