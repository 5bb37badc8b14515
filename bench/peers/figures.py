"""Compares the figures of runtimes on the same weights, with each other and with our goals."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from ...console.rich_console import rich_console
from ...runtime.sizes import format_bytes
from ..samples import Spread

OURS = "tramontane"
LLAMA_CPP = "llama.cpp"
GENAI = "onnxruntime-genai"
LARGE_BLOCKS, SMALL_CACHE = "int4-b256", "int4-b256-kv-int8"  # other recipes of int4
# The same with our own attention kernel, and with half precision in its cache.
NATIVE, NATIVE_SMALL_CACHE = "int4-native", f"{SMALL_CACHE}-native"
NATIVE_HALF = "int4-native-kv-float16"

# Which recipe of llama.cpp each of ours is compared with, and the goals: our speed over theirs.
# At long positions of int4, the goals are those of our own kernel.
_INT4 = (1.25, 1.15)
_AGAINST_LLAMA_CPP = {
    "int4": ("Q4_0", _INT4),
    LARGE_BLOCKS: ("Q4_0", _INT4),
    SMALL_CACHE: ("Q4_0", _INT4),
    "int8": ("Q8_0", (1.35, 1.0, 1.5, 2.5)),
    "int8-dynamic": ("Q8_0", (2.3, 0.95, 1.5, 2.5)),
}
_LONG = ("decode at 4000", "decode at 16000", "decode at 32000")
_WHAT = ("prefill 256", "decode at 16", "decode at 4000", "decode at 16000")
TARGETS = {
    **{
        (f"{OURS} {quant}", f"{LLAMA_CPP} {theirs}", what): floor
        for quant, (theirs, floors) in _AGAINST_LLAMA_CPP.items()
        for what, floor in zip(_WHAT, floors, strict=False)
    },
    **{(f"{OURS} int4", f"{GENAI} int4", what): 2.0 for what in _WHAT},
    **{
        (f"{OURS} {ours}", f"{LLAMA_CPP} Q4_0", what): floor
        for ours, floors in {
            NATIVE_HALF: (1.2, 2.3, 3.8),
            NATIVE_SMALL_CACHE: (1.4, 2.6, 3.8),
        }.items()
        for what, floor in zip(_LONG, floors, strict=True)
    },
    # Where the window is short, our own kernel must not be slower than onnxruntime's.
    (f"{OURS} {NATIVE}", f"{OURS} int4", "decode at 16"): 1.0,
    # At the window of Mistral-7B, where an int8 cache must also be faster.
    (f"{OURS} {SMALL_CACHE}", f"{OURS} {LARGE_BLOCKS}", "decode at 4096"): 1.15,
}
# What is compared: those, and the recipe of llama.cpp that is usually chosen for quality.
PAIRS = dict.fromkeys(
    [*((ours, theirs) for ours, theirs, _ in TARGETS), (f"{OURS} int4", f"{LLAMA_CPP} Q4_K_M")]
)

# What a reader of the figures must know about a runtime.
NOTES = {
    LLAMA_CPP: "it has no window for this architecture, so its attention reads all rows",
    GENAI: "its builder drops the window, but its runtime allocates cache rows for the window "
    "and 16 more, so longer sequences fail",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One runtime on one file: seconds to load, tokens per second, resident bytes."""

    name: str
    file_bytes: int
    versions: dict[str, str]
    figures: dict[str, Spread]  # each with the fastest mode of the runtime
    ways: dict[str, dict[str, Spread]]  # of each mode
    failed: dict[str, str]  # by figure: the error message


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One figure of ours over one of theirs, round by round."""

    ours: str
    theirs: str
    what: str
    ratio: Spread | None  # over their faster mode; None: one was not measured
    by_way: dict[str, Spread]  # over each of their modes
    why: str  # of not measuring
    floor: float | None  # None: there is no goal

    @property
    def is_met(self) -> bool | None:
        """Whether the median reaches the goal; None if either is unknown."""
        if self.ratio is None or self.floor is None:
            return None
        return self.ratio.median >= self.floor


def sum_up(name: str, file_bytes: int, answers: Sequence[Mapping[str, Any]]) -> Measured:
    """Summarize a runner's figures of all rounds; each figure is that of the fastest mode.

    A figure that failed in one round has failed.
    """
    failed = {what: why for answer in answers for what, why in answer["failed"].items()}
    ways = {
        way: {
            what: Spread(values=tuple(float(each["ways"][way][what]) for each in answers), way=way)
            for what in first
            if what not in failed
        }
        for way, first in answers[0]["ways"].items()
    }
    figures: dict[str, Spread] = {}
    for found in ways.values():
        for what, spread in found.items():
            if what not in figures or _is_better(what, spread, figures[what]):
                figures[what] = spread
    return Measured(
        name=name,
        file_bytes=file_bytes,
        versions=answers[0]["versions"],
        figures=figures,
        ways=ways,
        failed=failed,
    )


def _is_better(what: str, found: Spread, other: Spread) -> bool:
    if is_speed(what):
        return found.median > other.median
    return found.median < other.median


def is_speed(what: str) -> bool:
    """Whether more is better."""
    return what.startswith(("prefill", "decode"))


def compare(
    measured: Sequence[Measured], absent: Mapping[str, str], whats: Sequence[str]
) -> Iterator[Comparison]:
    """Compare each recipe with its opponents in some speeds.

    Args:
        measured: all runtimes that were there.
        absent: by name, why others were not measured; a runtime in neither was not asked for.
        whats: speeds, in the order to show them.
    """
    by_name = {one.name: one for one in measured}
    asked = by_name.keys() | absent.keys()
    for ours, theirs in PAIRS:
        if not asked >= {ours, theirs}:
            continue
        for what in whats:
            lacks = [
                f"{name}: {why}"
                for name in (ours, theirs)
                if (why := _why_not(by_name.get(name), what))
            ]
            by_way: dict[str, Spread] = {}
            if not lacks:
                mine, other = by_name[ours].figures[what], by_name[theirs]
                by_way = {
                    way: _over(mine, found[what])
                    for way, found in other.ways.items()
                    if what in found
                }
            yield Comparison(
                ours=ours,
                theirs=theirs,
                what=what,
                ratio=None if lacks else by_way[by_name[theirs].figures[what].way],
                by_way=by_way,
                why="; ".join(lacks),
                floor=TARGETS.get((ours, theirs, what)),
            )


def _over(ours: Spread, theirs: Spread) -> Spread:
    pairs = zip(ours.values, theirs.values, strict=True)
    return Spread(values=tuple(mine / other for mine, other in pairs), way=theirs.way)


def _why_not(one: Measured | None, what: str) -> str:
    """Why a runtime has no such figure; empty where it has."""
    if one is None:
        return "absent"
    if what in one.figures:
        return ""
    return "failed" if what in one.failed else "not measured"


def print_tables(
    measured: Sequence[Measured], comparisons: Sequence[Comparison], absent: Mapping[str, str]
) -> None:
    """The tables: all figures, failures, then ratios."""
    console = rich_console(width=150)
    whats = list(dict.fromkeys(what for one in measured for what in one.figures))
    for title, chosen in (
        ("tokens per second", [what for what in whats if is_speed(what)]),
        ("seconds, and memory", [what for what in whats if not is_speed(what)]),
    ):
        table = Table(title, *(_short(what) for what in chosen), "file")
        for one in measured:
            cells = (_cell(one, what) for what in chosen)
            table.add_row(one.name, *cells, format_bytes(one.file_bytes))
        console.print(table)
    for one in measured:
        for what, why in one.failed.items():
            print(f"failed: {one.name}, {what}: {why}")
    for runtime, note in NOTES.items():
        print(f"note: {runtime}: {note}")
    for name, why in absent.items():
        print(f"absent: {name}: {why}")
    table = Table("ours", "theirs", "", "ratio", "goal", "", "ratio over each of their modes")
    for comparison in comparisons:
        table.add_row(comparison.ours, comparison.theirs, comparison.what, *_words(comparison))
    console.print(table)


def _short(what: str) -> str:
    return what.replace("decode at", "at").replace("resident at", "at")


def _cell(one: Measured, what: str) -> str:
    if what not in one.figures:
        return "failed" if what in one.failed else ""
    spread = one.figures[what]
    half = (max(spread.values) - min(spread.values)) / 2 / spread.median
    shown = (
        format_bytes(int(spread.median)) if what.startswith("resident") else f"{spread.median:.1f}"
    )
    return f"{shown} ±{half:.0%}"


def _words(comparison: Comparison) -> tuple[str, ...]:
    ratio, floor = comparison.ratio, comparison.floor
    shown = "not measured"
    if ratio is not None:
        shown = f"{ratio.median:.2f} ({min(ratio.values):.2f}-{max(ratio.values):.2f})"
    met = {True: "met", False: "not met", None: ""}[comparison.is_met]
    ways = ", ".join(f"{way} {each.median:.2f}" for way, each in comparison.by_way.items() if way)
    return shown, "" if floor is None else f">= {floor:g}", met, ways


def to_json(
    measured: Sequence[Measured],
    comparisons: Sequence[Comparison],
    absent: Mapping[str, str],
    **about: Any,
) -> str:
    """One line of JSON; ``about`` is the machine and the protocol."""
    return json.dumps(
        {
            **about,
            "notes": NOTES,
            "runtimes": {
                one.name: {
                    "versions": one.versions,
                    "file_bytes": one.file_bytes,
                    "figures": {what: spread.as_json() for what, spread in one.figures.items()},
                    "ways": {
                        way: {what: spread.as_json() for what, spread in found.items()}
                        for way, found in one.ways.items()
                    },
                    "failed": one.failed,
                }
                for one in measured
            },
            "absent": dict(absent),
            "comparisons": [
                {
                    "ours": one.ours,
                    "theirs": one.theirs,
                    "what": one.what,
                    "ratio": None if one.ratio is None else one.ratio.as_json(),
                    "by_way": {way: ratio.as_json() for way, ratio in one.by_way.items()},
                    "why": one.why,
                    "floor": one.floor,
                    "met": one.is_met,
                }
                for one in comparisons
            ],
        }
    )
