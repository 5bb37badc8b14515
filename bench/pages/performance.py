"""Writes docs/performance.md from the benchmarks' JSON files."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...console.one_line_parser import OneLineParser
from ...console.status import status_of
from ...runtime.errors import ContractError
from ...runtime.sizes import format_bytes
from ..artifact.long_context import MOST_GROWTH, MOST_SLOWER
from ..machine import describe_machines
from ..stored_reports import (
    RESIDENT,
    Comparison,
    Flat,
    Kernels,
    Peers,
    Range,
    Runtime,
    Speed,
    read_flat,
    read_kernels,
    read_peers,
    read_speed,
)
from .template import fill_in, put_figures

_TEMPLATE = Path(__file__).with_name("performance.md.jinja")
SPEED, PEERS, FLAT, KERNELS = "speed-*.json", "peers-*.json", "flat.json", "kernels.json"


def main(argv: list[str] | None = None) -> int:
    """Read a folder of measurements, write the page and its plots."""
    parser = OneLineParser(
        prog="python -m tramontane.bench.pages.performance", description=__doc__
    )
    parser.add_argument("folder", type=Path, help=f"holds {SPEED}, {PEERS}, {FLAT} and {KERNELS}")
    parser.add_argument("--out", type=Path, required=True, help="the page, Markdown")
    args = parser.parse_args(argv)
    speeds = [read_speed(path) for path in sorted(args.folder.glob(SPEED))]
    peers = [read_peers(path) for path in sorted(args.folder.glob(PEERS))]
    of_flat, of_kernels = args.folder / FLAT, args.folder / KERNELS
    flat = read_flat(of_flat) if of_flat.is_file() else None
    kernels = read_kernels(of_kernels) if of_kernels.is_file() else None
    if not (speeds or peers or flat or kernels):
        raise ContractError(
            f"{args.folder}: no {SPEED}, {PEERS}, {FLAT} or {KERNELS}; expected what make bench, "
            "make bench-peers, make bench-flat or make bench-kernels write"
        )
    plots = put_figures(args.folder.glob("*.svg"), page=args.out)
    text = render(speeds, peers, flat, kernels, folder=args.folder, plots=plots)
    args.out.write_text(text, encoding="utf-8")
    print(f"wrote {args.out}")
    return 0


def render(
    speeds: Sequence[Speed],
    peers: Sequence[Peers],
    flat: Flat | None,
    kernels: Kernels | None,
    *,
    folder: Path,
    plots: Mapping[str, str],
) -> str:
    """The page.

    Args:
        speeds: reports of ``tramontane bench``.
        peers: lines of ``bench-peers``.
        flat: the JSON of ``bench-flat``; None: not measured.
        kernels: the JSON of ``bench-kernels``; None: not measured.
        folder: that was read.
        plots: links to the pictures that exist, by name.
    """
    single = [one for one in (flat, kernels) if one]
    machines = [one["machine"] for one in (*speeds, *peers, *single)]
    whats = list(dict.fromkeys(what for one in speeds for what in one["shares"]))
    prefill, decode = (
        [what.removeprefix(kind) for what in whats if what.startswith(kind)]
        for kind in ("prefill ", "decode at ")
    )
    return fill_in(
        _TEMPLATE,
        folder=folder.as_posix(),
        machine=describe_machines(machines),
        threads=machines[0]["threads"],
        speeds=[_speed(one, whats, plots) for one in speeds],
        prefill=prefill,
        decode=decode,
        peer_runs=[_peers(one) for one in peers],
        flat={**_flat(flat), "plot": plots.get("flat.svg", "")} if flat else None,
        kernels=_kernels(kernels) if kernels else None,
    )


def _kernels(line: Kernels) -> dict[str, Any]:
    return {
        "rounds": line["rounds"],
        "read": _spread(line["limits"]["read"], scale=1e9),
        "multiply": _spread(line["limits"]["multiply"], scale=1e9),
        "rows": [
            [
                one["does"],
                one["way"],
                *(f"{one['seconds'][name] * 1e3:.2f}" for name in ("median", "low", "high")),
                *(f"{one[share]['median']:.0%}" for share in ("of_reading", "of_multiplying")),
            ]
            for one in line["kernels"]
        ],
    }


def _speed(report: Speed, whats: Sequence[str], plots: Mapping[str, str]) -> dict[str, Any]:
    figures, limits = report["figures"], report["limits"]
    resident = [what for what in figures if what.startswith(RESIDENT)]
    driver, share = figures["driver"]["median"], figures["driver's share"]["median"]
    return {
        "name": report["artifact"],
        "weights": format_bytes(report["file_bytes"]),
        "load": f"{figures['load']['median']:.1f}",
        "first": f"{figures['first token']['median']:.2f}",
        "speeds": [
            f"{figures[what]['median']:.1f} ({report['shares'][what]['median']:.0%})"
            if what in report["shares"]
            else ""
            for what in whats
        ],
        "driver": f"{driver * 1e6:.0f} us, {share:.1%}",
        "resident": format_bytes(int(figures[resident[-1]]["median"])),
        "read": _spread(limits["read"], scale=1e9),
        "multiply": _spread(limits["multiply"], scale=1e9),
        "step": format_bytes(report["step_bytes"]),
        "peak": f"{figures['peak of load']['median'] / report['file_bytes']:.2f}",
        "plot": plots.get(f"speed-{report['artifact']}.svg", ""),
    }


def _spread(found: Range, *, scale: float) -> str:
    median, low, high = (found[name] / scale for name in ("median", "low", "high"))
    return f"{median:.1f} ({low:.1f} to {high:.1f})"


def _peers(line: Peers) -> dict[str, Any]:
    absent = [f"Absent: {name}: {why}." for name, why in line["absent"].items()]
    failed = [
        f"Failed: {name}, {what}: {why}."
        for name, one in line["runtimes"].items()
        for what, why in one["failed"].items()
    ]
    whats = list(
        dict.fromkeys(
            what
            for one in line["runtimes"].values()
            for what in one["figures"]
            if what.startswith(("prefill", "decode"))
        )
    )
    notes = [f"{name}: {note}" for name, note in line["notes"].items()]
    return {
        "command": " ".join(
            (
                f"make bench-peers MODEL={line['model']}",
                *(
                    f'{kind.upper()}="{" ".join(map(str, line["protocol"][kind]))}"'
                    for kind in ("prefill", "decode")
                ),
            )
        ),
        "rounds": line["protocol"]["rounds"],
        "whats": whats,
        "speeds": [
            [name, format_bytes(one["file_bytes"]), *(_speed_of(one, what) for what in whats)]
            for name, one in line["runtimes"].items()
        ],
        "rows": [_row(one) for one in line["comparisons"]],
        "notes": [*notes, *failed, *absent],
    }


def _speed_of(runtime: Runtime, what: str) -> str:
    if what not in runtime["figures"]:
        return "failed" if what in runtime["failed"] else ""
    return f"{runtime['figures'][what]['median']:.1f}"


def _row(one: Comparison) -> list[str]:
    ratio, floor = one["ratio"], one["floor"]
    names = [one["ours"], one["theirs"], one["what"]]
    asked = "" if floor is None else f">= {floor:g}"
    if ratio is None:
        return [*names, one["why"], "", asked, "", ""]
    met = {True: "met", False: "**not met**", None: ""}[one["met"]]
    return [
        *names,
        f"{ratio['median']:.2f}",
        f"{ratio['low']:.2f} to {ratio['high']:.2f}",
        asked,
        met,
        ", ".join(f"{way} {each['median']:.2f}" for way, each in one["by_way"].items() if way),
    ]


def _flat(line: Flat) -> dict[str, str]:
    points = line["points"]
    return {
        "tokens": str(points[-1]["position"]),
        "window": str(line["window"]),
        "since": str(line["since"]),
        "growth": f"{line['growth']:+.2%}",
        "slower": f"{line['slower']:+.1%}",
        "before": f"{line['early_us']:.0f}",
        "after": f"{line['late_us']:.0f}",
        "most_growth": f"{MOST_GROWTH:.0%}",
        "most_slower": f"{MOST_SLOWER:.0%}",
    }


if __name__ == "__main__":
    sys.exit(status_of(main))
