"""How a case may end, and the record of all cases, from which the next run continues."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from ..runtime.durable import replace_file
from ..runtime.errors import ContractError
from ..runtime.untrusted.json_text import read_typed

FINE, TYPED, UNTYPED, HUNG = "fine", "typed", "untyped", "hung"
CRASHED, LARGE, LOST = "crashed", "beyond 1 GB", "lost"
BAD = (UNTYPED, HUNG, CRASHED, LARGE, LOST)
_REMEDY = "remove it, or name another folder with --record"
_MOST_FINDINGS = 100  # that are kept in words; all are counted


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How one case ended."""

    kind: str
    case: str = ""  # the row of the table that counts it
    detail: str = ""


class _Stored(TypedDict):
    """The file of a record; its fields are those of ``Record``."""

    counts: dict[str, dict[str, dict[str, int]]]
    next: dict[str, int]
    findings: list[str]
    seconds: dict[str, float]


@dataclass(slots=True)
class Record:
    """Counts of one seed, in a file that is replaced as a whole."""

    path: Path
    counts: dict[str, dict[str, Counter[str]]] = field(default_factory=dict)  # by part, case, kind
    next: dict[str, int] = field(default_factory=dict)  # number of the next case of each part
    findings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)  # that each part took

    @classmethod
    def open(cls, path: Path) -> Record:
        """Read the record of earlier runs; an empty one where there is none.

        Raises:
            ContractError: the file is no such record.
        """
        if not path.exists():
            return cls(path)
        found: _Stored = read_typed(_Stored, path, remedy=_REMEDY)
        counts = {
            part: {case: Counter(kinds) for case, kinds in cases.items()}
            for part, cases in found["counts"].items()
        }
        numbers = [*found["next"].values(), *found["seconds"].values()]
        for cases in counts.values():
            numbers += [number for kinds in cases.values() for number in kinds.values()]
        if least := [number for number in numbers if number < 0]:
            raise ContractError(f"{path}: holds {least[0]}, expected numbers from 0; {_REMEDY}")
        return cls(path, counts, found["next"], found["findings"], found["seconds"])

    def total(self, part: str) -> int:
        """Cases of a part, such as kills."""
        return sum(kinds.total() for kinds in self.counts.get(part, {}).values())

    def add(self, part: str, outcome: Outcome) -> None:
        """Count a case."""
        cases = self.counts.setdefault(part, {})
        cases.setdefault(outcome.case, Counter())[outcome.kind] += 1
        if outcome.kind in BAD and len(self.findings) < _MOST_FINDINGS:
            self.findings.append(f"{outcome.kind}: {part}, {outcome.case}: {outcome.detail}")

    def took(self, part: str, seconds: float) -> None:
        """Count the time that cases took."""
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds

    def bad(self) -> int:
        """Cases that should not have ended as they did."""
        return sum(
            kinds[kind]
            for cases in self.counts.values()
            for kinds in cases.values()
            for kind in BAD
        )

    def save(self) -> None:
        """Write it, so that the next run goes on from here."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(".new")
        content = {
            "counts": self.counts,
            "next": self.next,
            "findings": self.findings,
            "seconds": self.seconds,
        }
        fresh.write_text(json.dumps(content, indent=1), encoding="utf-8")
        replace_file(fresh, self.path)
