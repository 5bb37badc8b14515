"""Keeps the speeds of known models in a file, and prints them for ``docs/models.md``.

A step of a model with N layers takes the time of what is outside the layers, the head above all,
and N times that of a layer. Two stand-ins of n and m layers that take a and b seconds give both:
a layer (b - a) / (m - n), the rest a - n layers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from ...export.known_models import GEOMETRIES, find_geometry
from ...runtime.durable import replace_file
from ...runtime.errors import ContractError
from ...runtime.sizes import counted
from ...runtime.untrusted.fields import shown
from ...runtime.untrusted.json_text import read_typed
from ..geometries import table
from ..machine import describe_machines
from ..samples import Spread
from ..stored_reports import Machine

STORED = Path(__file__).resolve().parents[2] / "docs" / "figures" / "model-speeds.json"
QUANTS = ("int8", "int4-rtn")
TOKENS = 256  # of the prompt, and the position of the decoded tokens
PREFILL_TOKENS, STEPS, WARM_UP = 512, 16, 4  # as in the job of ``session_speed``
PREFILL, DECODE = WHATS = ("prefill", "decode")
_REMEDY = "name another --stored, or remove the row to measure it again"

Seconds = dict[str, float]  # of a prompt of TOKENS, and of a decoded token, by WHATS
Round = dict[int, Seconds]  # by the number of layers


class _Protocol(TypedDict):
    tokens: int


class _StoredCase(TypedDict):
    """As ``SpeedCase.as_json`` has it."""

    geometry: str
    quant: str
    layers: list[int]
    rounds: int
    machine: Machine
    protocol: _Protocol


class _Times(TypedDict):
    """``WHATS``."""

    prefill: float
    decode: float


class StoredRow(TypedDict):
    """A case, and the seconds of its rounds by the number of layers."""

    case: _StoredCase
    seconds: list[dict[str, _Times]]


class _Stored(TypedDict):
    rows: list[StoredRow]


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedCase:
    """What is measured, and on what: equal cases need not be measured twice."""

    geometry: str
    quant: str
    layers: tuple[int, ...]  # two numbers, or all of the model's
    rounds: int
    machine: dict[str, Any]  # as ``bench.machine`` describes it, with its versions

    def as_json(self) -> dict[str, Any]:
        """For the file."""
        return {
            "geometry": self.geometry,
            "quant": self.quant,
            "layers": list(self.layers),
            "rounds": self.rounds,
            "machine": self.machine,
            "protocol": {
                "target": "ort",
                "tokens": TOKENS,
                "prefill_tokens": PREFILL_TOKENS,
                "steps": STEPS,
                "warm_up": WARM_UP,
            },
        }


def stored_rows(path: Path) -> list[StoredRow]:
    """What was measured: ``case``, as above, and the seconds of its rounds; empty without a file.

    Raises:
        ContractError: the file is not one of this command.
    """
    if not path.exists():
        return []
    found: _Stored = read_typed(_Stored, path, remedy=_REMEDY)
    for number, row in enumerate(found["rows"]):
        _refuse_other_rounds(row, where=f"{path}: rows[{number}]")
    return found["rows"]


def _refuse_other_rounds(row: StoredRow, *, where: str) -> None:
    """Refuse a model that is not known, and times that are not those of its case."""
    case, rounds = row["case"], row["seconds"]
    name, layers = case["geometry"], case["layers"]
    if name not in GEOMETRIES:
        raise ContractError(
            f"{where}.case.geometry is {shown(name)}, expected a known model; {_REMEDY}"
        )
    whole = find_geometry(name).num_hidden_layers
    if len(layers) not in (1, 2) or not 1 <= min(layers) <= max(layers) <= whole:
        raise ContractError(
            f"{where}.case.layers is {shown(layers)}, expected one or two numbers from 1 to "
            f"{whole}; {_REMEDY}"
        )
    expected = {str(each) for each in layers}
    are_times = (
        each.keys() == expected and all(min(t["prefill"], t["decode"]) > 0 for t in each.values())
        for each in rounds
    )
    if not rounds or not all(are_times):
        raise ContractError(
            f"{where}.seconds is {shown(rounds)}, expected rounds of times above 0 for layers "
            f"{', '.join(sorted(expected))}; {_REMEDY}"
        )
    if case["protocol"]["tokens"] < 1:
        raise ContractError(f"{where}.case.protocol.tokens is below 1, expected more; {_REMEDY}")


def store(path: Path, case: SpeedCase, rounds: Sequence[Round]) -> None:
    """Add what was found, in place of what was measured of the same model before.

    Raises:
        ContractError: as ``stored_rows``.
    """
    own = case.geometry, case.quant
    is_whole = len(case.layers) == 1
    kept = [
        row
        for row in stored_rows(path)
        if (row["case"]["geometry"], row["case"]["quant"]) != own
        or (len(row["case"]["layers"]) == 1) != is_whole
    ]
    order = list(GEOMETRIES)
    rows: list[Mapping[str, Any]] = [*kept, {"case": case.as_json(), "seconds": rounds}]
    rows.sort(key=lambda row: order.index(row["case"]["geometry"]))  # the rest as it was measured
    unfinished = path.with_name(f".{path.name}.partial")
    unfinished.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
    replace_file(unfinished, path)


def projected(row: Mapping[str, Any], what: str) -> Spread | None:
    """Tokens per second of all layers; None where a round's times do not grow with layers.

    A row of all layers has what was measured.

    Args:
        row: of the file.
        what: one of ``WHATS``.
    """
    whole = find_geometry(row["case"]["geometry"]).num_hidden_layers
    tokens = row["case"]["protocol"]["tokens"] if what == PREFILL else 1
    rates = []
    for each in row["seconds"]:
        times = {int(layers): float(seconds[what]) for layers, seconds in each.items()}
        (few, first), (many, last) = min(times.items()), max(times.items())
        layer = (last - first) / (many - few) if many > few else 0.0
        if many > few and layer <= 0:
            return None
        rates.append(tokens / (first + (whole - few) * layer))
    return Spread(values=tuple(rates))


def speed_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The section of speeds, a table for each machine; empty where none were measured."""
    if not rows:
        return []
    first = rows[0]["case"]
    tokens = first["protocol"]["tokens"]
    machines = {json.dumps(row["case"]["machine"]): row["case"]["machine"] for row in rows}
    lines = [
        "## Speeds of known geometries",
        "",
        "Printed by `python -m tramontane.bench.artifact.model_speeds`. It takes minutes for each",
        "model; after an interruption, the same command measures those that are missing.",
        "",
        "**The weights are random**: the speed depends on their sizes alone. No row with",
        "`projected` was measured as a whole model. Its figures come from two stand-ins with the",
        "model's widths and few layers. The difference between their times is the time of the",
        "extra layers of the larger one; the rest is the head and all else outside the layers.",
        "The projected time is that rest and the time of all layers.",
        "",
        f"*Prefill*: a prompt of {tokens} tokens into an empty cache. *Decode*: tokens from",
        f"position {tokens} on. Target `ort`, tokens per second: the median of",
        f"{counted(first['rounds'], 'round')} in new processes, with the lowest and highest.",
        "Each machine has a table of its own: compare speeds within one table.",
    ]
    for one in machines.values():
        on_it = [row for row in rows if row["case"]["machine"] == one]
        lines += ["", describe_machines([one]), "", *_tables(on_it)]
    return lines


def _tables(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Speeds on one machine, then those that were both projected and measured."""
    models = [_row(name, rows) for name in GEOMETRIES if _of(name, rows)]
    lines = table(
        ("geometry", "layers", *(f"{w}, {q}" for q in _quants(rows) for w in WHATS)), models
    )
    if both := list(_both(rows)):
        lines += [
            "",
            "Models that were measured with all layers too, beside what was projected:",
            "",
        ]
        lines += table(("geometry", "recipe", "what", "projected", "measured", "difference"), both)
    return lines


def _row(name: str, rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """A model's row: what was measured with all layers, else what is projected."""
    cells: list[str] = []
    found = {is_whole: _of(name, rows, is_whole=is_whole) for is_whole in (True, False)}
    shown = found[True] or found[False]
    for quant in _quants(rows):
        row = next((one for one in shown if one["case"]["quant"] == quant), None)
        cells += ["" if row is None else _cell(projected(row, what)) for what in WHATS]
    whole = find_geometry(name).num_hidden_layers
    how = f"{whole}" if found[True] else f"{whole}, projected from {_stand_ins(shown)}"
    return (name, how, *cells)


def _stand_ins(rows: Sequence[Mapping[str, Any]]) -> str:
    """Layers of the stand-ins of a model's rows; recipes are named where they differ."""
    of = {row["case"]["quant"]: " and ".join(map(str, row["case"]["layers"])) for row in rows}
    first, *others = dict.fromkeys(of.values())
    told = [f"{quant}: {of[quant]}" for quant in _quants(rows) if of[quant] in others]
    return f"{first} ({', '.join(told)})" if told else first


def _both(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """A row of each speed that was both projected and measured."""
    for row in rows:
        case = row["case"]
        others = _of(case["geometry"], rows, is_whole=True)
        other = next((one for one in others if one["case"]["quant"] == case["quant"]), None)
        if other is None or len(case["layers"]) == 1:
            continue
        for what in WHATS:
            ours, real = projected(row, what), projected(other, what)
            off = "" if ours is None or real is None else f"{ours.median / real.median - 1:+.1%}"
            yield (case["geometry"], case["quant"], what, _cell(ours), _cell(real), off)


def _of(
    name: str, rows: Sequence[Mapping[str, Any]], *, is_whole: bool | None = None
) -> list[Mapping[str, Any]]:
    """Rows of a model: of all layers, of stand-ins, or both."""
    return [
        row
        for row in rows
        if row["case"]["geometry"] == name and is_whole in (None, len(row["case"]["layers"]) == 1)
    ]


def _quants(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    found = {row["case"]["quant"] for row in rows}
    return [*(one for one in QUANTS if one in found), *sorted(found - {*QUANTS})]


def _cell(found: Spread | None) -> str:
    if found is None:
        return "not measurable: the times do not grow with layers"
    median, low, high = (
        f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"
        for rate in (found.median, min(found.values), max(found.values))
    )
    return f"{median} ({low} to {high})"
