"""Exports that are ended at random moments, again and again, until one is let through."""

from __future__ import annotations

import random
import shutil
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..runtime.errors import ContractError
from .exports import LIMIT_S, RECIPES, Ended, Exports, Recipe
from .left_behind import Contents, contents, why_lost, why_unlike
from .outcomes import CRASHED, FINE, HUNG, LOST, TYPED, UNTYPED, Outcome

_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# How often each recipe is drawn: tracing and calibrating take most of an export's time.
_SHARES = {"int8, traced": 1, "int4, calibrated": 1}
_SHARE = 4
_MOST_KILLS = 6  # of one export
_TO_ALL = 0.3  # of all signals go to the processes that it started too, as Ctrl-C in a shell does


@dataclass(frozen=True, kw_only=True, slots=True)
class Whole:
    """What an export that nobody ends makes, and how long it takes."""

    contents: Contents
    seconds: float


class Wholes:
    """Whole artifacts of all recipes, each made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, Whole] = {}
        self._lock = threading.Lock()

    def of(self, name: str, exports: Exports) -> Whole:
        """The artifact of a recipe."""
        with self._lock:
            if name not in self._known:
                ended = exports.finish(self.path(name), RECIPES[name])
                if ended.status:
                    raise ContractError(f"{name}: an export that nobody ends failed: {ended.said}")
                found = contents(self.path(name))
                self._known[name] = Whole(contents=found, seconds=ended.seconds)
            return self._known[name]

    def path(self, name: str) -> Path:
        """Where it lies."""
        return self._folder / name / "artifact"


def chain(
    wholes: Wholes, exports: Exports, work: Path, *, seed: int, number: int
) -> Iterator[Outcome]:
    """End one export at random moments, then let it through.

    Args:
        wholes: artifacts to compare with.
        exports: nobody else uses it meanwhile.
        work: an empty folder, for the artifact.
        seed, number: all that the chain follows from, but for the machine's pace.

    Yields:
        How each signal ended.
    """
    draw = random.Random(f"{seed}/kills/{number}")
    names = list(RECIPES)
    name = draw.choices(names, [_SHARES.get(each, _SHARE) for each in names])[0]
    expected, recipe = wholes.of(name, exports), RECIPES[name]
    out, older = work / "artifact", _older(draw, name)
    before = wholes.of(older, exports).contents if older else {}
    if older:
        shutil.copytree(wholes.path(older), out)
    kinds = f"{name}{', over an older artifact' if older else ''}"
    for _ in range(draw.randint(1, _MOST_KILLS)):
        outcome, is_done = _kill(exports, out, recipe, draw, before=before, expected=expected)
        yield Outcome(case=kinds, kind=outcome.kind, detail=outcome.detail)
        if is_done or outcome.kind not in (FINE, TYPED):
            return
    ended = exports.finish(out, recipe)
    why = why_unlike(out, expected.contents) if ended.status == 0 else ended.said
    if why:
        yield Outcome(case=kinds, kind=LOST, detail=f"resumed: {why}")


def _older(draw: random.Random, name: str) -> str:
    """A recipe whose artifact is replaced; empty: the name is new."""
    others = [other for other in RECIPES if other != name and other not in _SHARES]
    return draw.choice(others) if draw.random() < 0.5 else ""


def _kill(
    exports: Exports,
    out: Path,
    recipe: Recipe,
    draw: random.Random,
    *,
    before: Contents,
    expected: Whole,
) -> tuple[Outcome, bool]:
    """Begin an export and end it; also whether the artifact is there, which ends the chain."""
    number, to_all = draw.choice(_SIGNALS), draw.random() < _TO_ALL
    export = exports.start(out, recipe)
    export.has_ended(draw.uniform(0, expected.seconds))
    started = export.send(number, to_all=to_all)
    is_hung = not export.has_ended(LIMIT_S)
    if is_hung:
        export.send(signal.SIGKILL, to_all=True)
    ended = export.wait(started)
    kind, why = judge(ended, is_hung=is_hung)
    if not why and (why := why_lost(out, older=before, expected=expected.contents)):
        kind = LOST
    detail = f"{number.name} after {ended.seconds:.2f} s: {why}" if why else ""
    return Outcome(kind=kind, detail=detail), contents(out) == expected.contents


def judge(ended: Ended, *, is_hung: bool) -> tuple[str, str]:
    """The kind of an export's end, and what is wrong with it; empty where nothing is."""
    if is_hung:
        return HUNG, f"ran on for over {LIMIT_S:.0f} s: {ended.said[-2000:]}"
    if ended.left_running:
        return HUNG, f"{ended.left_running} of its processes ran on for over {LIMIT_S:.0f} s"
    if ended.is_crash:
        return CRASHED, f"ended by signal {-ended.status}"
    if not ended.is_typed:
        return UNTYPED, ended.said[-2000:]
    return (FINE if ended.was_interrupted or ended.status == 0 else TYPED), ""
