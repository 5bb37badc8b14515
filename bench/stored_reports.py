"""The fields of benchmarks' reports that pages show, and how a stored report is read."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from ..runtime.errors import ContractError
from ..runtime.untrusted.fields import decode, shown
from ..runtime.untrusted.json_text import read_typed

_REMEDY = "measure it again"


class _Instructions(TypedDict, total=False):
    instructions: str  # reports of earlier versions lack it


class Machine(_Instructions):
    """As ``bench.machine`` describes it."""

    processor: str
    cores: int
    threads: int
    memory_bytes: int
    system: str
    versions: dict[str, str]


class Range(TypedDict):
    """A ``Spread``."""

    median: float
    low: float
    high: float


class Limits(TypedDict):
    """Bytes read, and multiplications, a second."""

    read: Range
    multiply: Range


class Speed(TypedDict):
    """Of ``make bench``: an artifact."""

    artifact: str
    file_bytes: int
    step_bytes: int
    limits: Limits
    figures: dict[str, Range]
    shares: dict[str, Range]  # of the limit, of some of the figures
    machine: Machine


class Protocol(TypedDict):
    """How runtimes are compared."""

    rounds: int
    prefill: list[int]
    decode: list[int]


class Runtime(TypedDict):
    """One of those that are compared."""

    file_bytes: int
    figures: dict[str, Range]
    failed: dict[str, str]


class Comparison(TypedDict):
    """Our speed divided by that of another runtime."""

    ours: str
    theirs: str
    what: str
    ratio: Range | None
    by_way: dict[str, Range]
    why: str
    floor: float | None
    met: bool | None


class Peers(TypedDict):
    """Of ``make bench-peers``: a model in several runtimes."""

    model: str
    protocol: Protocol
    notes: dict[str, str]
    runtimes: dict[str, Runtime]
    absent: dict[str, str]
    comparisons: list[Comparison]
    machine: Machine


class Point(TypedDict):
    """One of a long sequence."""

    position: int


class Flat(TypedDict):
    """Of ``make bench-flat``: a long sequence."""

    window: int
    since: int
    growth: float
    slower: float
    early_us: float
    late_us: float
    points: list[Point]
    machine: Machine


class Kernel(TypedDict):
    """One that is timed alone."""

    does: str
    way: str
    seconds: Range
    of_reading: Range
    of_multiplying: Range


class Kernels(TypedDict):
    """Of ``make bench-kernels``."""

    rounds: int
    limits: Limits
    kernels: list[Kernel]
    machine: Machine


class Text(TypedDict):
    """What formats are scored on."""

    source: str
    positions: int
    sequences: int
    length: int


class Format(TypedDict):
    """A row of a model's formats."""

    name: str
    why: str  # of not measuring it


class Scored(Format):
    """A row that was measured."""

    bits_per_weight: float
    mean_kl: float | None  # nats; None: not a number
    weights_kl: float | None
    p999_kl: float | None
    max_kl: float | None
    same_top: float
    perplexity_ratio: float | None
    is_on_front: bool
    types: str
    fallen_back: int


class Quality(TypedDict):
    """Of ``make bench-quality``: the formats of a model."""

    model: str
    window: int | None
    text: Text
    machine: Machine
    rows: list[Format]


_FIGURES = ("load", "peak of load", "first token", "driver", "driver's share")  # of each artifact
RESIDENT = "resident"  # figures at positions, of which each artifact has one at least


def read_speed(path: Path) -> Speed:
    """The speed of an artifact.

    Raises:
        ContractError: it cannot be read, is no JSON, or has other fields than the page shows.
    """
    found: Speed = read_typed(Speed, path, remedy=_REMEDY)
    figures, shares = found["figures"], found["shares"]
    for name in (*_FIGURES, *shares):
        if name not in figures:
            raise _refusal(path, f"figures has no {shown(name)}, expected one of each share")
    if not any(name.startswith(RESIDENT) for name in figures):
        raise _refusal(path, f"figures has no {RESIDENT} memory, expected it at a position")
    if found["file_bytes"] < 1:
        raise _refusal(path, f"file_bytes is {found['file_bytes']}, expected 1 or more")
    return found


def read_peers(path: Path) -> Peers:
    """A model in several runtimes.

    Raises:
        ContractError: as ``read_speed``.
    """
    found: Peers = read_typed(Peers, path, remedy=_REMEDY)
    return found


def read_flat(path: Path) -> Flat:
    """A long sequence.

    Raises:
        ContractError: as ``read_speed``.
    """
    found: Flat = read_typed(Flat, path, remedy=_REMEDY)
    if not found["points"]:
        raise _refusal(path, "points is empty, expected one or more")
    return found


def read_kernels(path: Path) -> Kernels:
    """Kernels that are timed alone.

    Raises:
        ContractError: as ``read_speed``.
    """
    found: Kernels = read_typed(Kernels, path, remedy=_REMEDY)
    return found


def read_quality(path: Path) -> Quality:
    """The formats of a model.

    Raises:
        ContractError: as ``read_speed``.
    """
    found: Quality = read_typed(Quality, path, remedy=_REMEDY)
    for number, row in enumerate(found["rows"]):
        if not row["why"]:
            try:
                decode(Scored, row, where=f"rows[{number}]")
            except ContractError as error:
                raise _refusal(path, str(error)) from error
    return found


def _refusal(path: Path, what: str) -> ContractError:
    return ContractError(f"{path}: {what}; {_REMEDY}")
