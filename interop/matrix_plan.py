"""Chooses which artifacts are made for which runtimes, and estimates how long that takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..runtime.errors import ContractError
from ..runtime.sizes import counted
from .cases import MatrixCase
from .runtimes import DRIVER, Column

ALL = "all"
_EXPORT_SECONDS, _REFERENCE_SECONDS = 10, 15  # typically, on 2 cores; a reference per checkpoint


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixPlan:
    """Each artifact with the runtimes that run it; an artifact without runtimes is not made."""

    rows: list[tuple[MatrixCase, list[Column]]]
    columns: list[str]  # names of the runtimes that get any artifact

    @property
    def seconds(self) -> int:
        """Typical seconds on 2 cores, without installing runtimes."""
        references = {(case.checkpoint, case.options.window) for case, _ in self.rows}
        cells = sum(column.seconds for _, row in self.rows for column in row)
        return cells + _EXPORT_SECONDS * len(self.rows) + _REFERENCE_SECONDS * len(references)

    def lines(self) -> Iterator[str]:
        """The plan as text: artifacts, runtimes, time."""
        artifacts = counted(len(self.rows), "artifact")
        runtimes = counted(len(self.columns), "runtime")
        yield f"{artifacts}, {runtimes}: {_about(self.seconds)} on 2 cores"
        for case, row in self.rows:
            yield f"  {case.name}: {', '.join(column.name for column in row)}"
        yield "the first use of a runtime also installs it, which takes minutes and the network"


def choose(
    cases: Iterable[MatrixCase],
    columns: Sequence[Column],
    *,
    only: Sequence[str] = (),
    artifacts: str = "",
) -> MatrixPlan:
    """Choose artifacts and runtimes.

    Args:
        cases: every artifact that can be made.
        columns: every runtime.
        only: parts of names of runtimes; none for every runtime.
        artifacts: words of an artifact's name in their order ("int8 web"), several separated by
            commas; ``all`` for every one. Empty: every one, or with ``only`` those of the first
            checkpoint that are usual for the runtimes asked for.

    Raises:
        ContractError: an unknown name, or no artifact that such a runtime can run.
    """
    cases = list(cases)
    wanted = [one for one in columns if not only or any(part in one.name for part in only)]
    for part in only:
        if not any(part in one.name for one in columns):
            there = "; ".join(one.name for one in columns)
            raise ContractError(f"{part}: no such runtime, expected one of {there}")
    names = [name.strip() for name in artifacts.split(",") if name.strip()]
    for name in names:
        if name != ALL and not any(_means(name, case) for case in cases):
            there = "; ".join(case.name for case in cases)
            raise ContractError(f"--artifacts {name}: no such artifact, expected one of {there}")
    if only and not names:
        return _usual(cases, wanted)
    rows = []
    for case in cases:
        if names and not any(name == ALL or _means(name, case) for name in names):
            continue
        rows.append((case, [one for one in wanted if one.takes(case)]))
    plan = _plan(rows, wanted)
    if not plan.rows:
        raise ContractError(
            f"--only {' '.join(only)} --artifacts '{artifacts}': no such runtime can run such an "
            "artifact; omit --artifacts for those that are usual for the runtime"
        )
    return plan


def _usual(cases: Sequence[MatrixCase], wanted: Sequence[Column]) -> MatrixPlan:
    """The artifacts of the first checkpoint that are usual for each runtime."""
    rows = [
        (
            case,
            [
                one
                for one in wanted
                if one.takes(case) and one.usual(case) and _can_be_judged(one, case, wanted)
            ],
        )
        for case in cases
        if case.checkpoint == cases[0].checkpoint
    ]
    return _plan(rows, wanted)


def _plan(rows: Iterable[tuple[MatrixCase, list[Column]]], wanted: Sequence[Column]) -> MatrixPlan:
    """Drop artifacts without runtimes, and runtimes without artifacts."""
    filled = [(case, row) for case, row in rows if row]
    used = {one.name for _, row in filled for one in row}
    return MatrixPlan(rows=filled, columns=[one.name for one in wanted if one.name in used])


def _means(name: str, case: MatrixCase) -> bool:
    """Whether the words of a name occur in an artifact's name, in their order."""
    words = iter(case.name.replace(",", "").split())
    return all(word in words for word in name.split())


def _can_be_judged(one: Column, case: MatrixCase, wanted: Sequence[Column]) -> bool:
    """Whether an answer to compare with exists: quantized weights need the same kernels."""
    like = one.rounds_like
    if not case.options.recipe.is_quantized or like in (None, DRIVER.name):
        return True
    return like in {other.name for other in wanted}


def _about(seconds: int) -> str:
    """A time in minutes, rounded up."""
    return f"about {counted(-(-seconds // 60), 'minute')}"
