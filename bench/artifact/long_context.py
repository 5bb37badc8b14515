"""Check that a long sequence costs as much per step as a short one, in time and in memory.

The bundled demo model is exported with more positions than it was trained for: only its cost is
measured, not its text. The last thousand steps run in turns with the thousand steps after two
windows of a second session, so that other load on the machine affects both. Memory is the
process's own, without pages of the artifact's file, which the system can drop at any time. Exits
with 1 if memory grows or steps slow down.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from rich.table import Table

from ...console.one_line_parser import OneLineParser
from ...console.progress import say, track
from ...console.rich_console import rich_console
from ...console.status import status_of
from ...export.formats.huggingface import CONFIG_FILE
from ...runtime import Session
from ...runtime.errors import ContractError
from ...runtime.sizes import format_bytes
from .. import option_types
from ..machine import machine
from ..process import run
from .speed_table import Line, plot_lines

TOKENS = 50_000
_TURN = 20  # steps of one session before the other's
AT_ONCE = 1000  # steps whose median is one point
# Bounds, with room for noise. Expected: memory grows by less than 1 %, and steps differ as two
# medians of a thousand steps do when nothing changes.
MOST_GROWTH = 0.02
MOST_SLOWER = 0.25
MOST_BYTES = 4 << 30  # of the export's memory


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """Cost of a thousand steps."""

    position: int  # after them
    step_us: float  # the median
    resident_bytes: int
    own_bytes: int  # of these, without mapped files


@dataclass(frozen=True, kw_only=True, slots=True)
class LongDecode:
    """Cost of one long sequence."""

    window: int
    points: list[Point]
    early_us: float  # a step of the second session, after two windows; the median
    late_us: float  # a step at the end, in turns with it

    @property
    def full(self) -> Point:
        """The first point after two windows: the cache is full and rows were evicted."""
        return next(p for p in self.points if p.position - AT_ONCE >= 2 * self.window)

    @property
    def growth(self) -> float:
        """Growth of the process's own memory since then, as a share."""
        return self.points[-1].own_bytes / self.full.own_bytes - 1

    @property
    def slower(self) -> float:
        """Slowdown of the last thousand steps over those after two windows, as a share."""
        return self.late_us / self.early_us - 1


def main(argv: list[str] | None = None) -> int:
    """Decode, print cost and broken bounds, draw a plot; return 1 if a bound is broken."""
    parser = OneLineParser(
        prog="python -m tramontane.bench.artifact.long_context", description=__doc__
    )
    parser.add_argument("model", type=Path, help="checkpoint with a window")
    parser.add_argument("--quant", default="int8", help="(%(default)s)")
    parser.add_argument(
        "--tokens", type=option_types.TOKENS, default=TOKENS, help="to decode (%(default)s)"
    )
    parser.add_argument("--threads", type=option_types.THREADS, help="(physical cores)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="plot both by position (.svg)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON")
    parser.add_argument("--json", action="store_true", help="print one line of JSON, no table")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        artifact = export_long(
            args.model, Path(folder), quant=args.quant, positions=args.tokens + 1
        )
        sessions = [Session.load(artifact, threads=args.threads) for _ in range(2)]
        found = decode(*sessions, tokens=args.tokens)
    broken = list(broken_bounds(found))
    for line in broken:
        say(f"bound broken: {line}")
    about = {"model": args.model.name, "quant": args.quant, "window": found.window}
    line = json.dumps(
        {
            **about,
            "since": found.full.position,
            "growth": found.growth,
            "slower": found.slower,
            "early_us": found.early_us,
            "late_us": found.late_us,
            "points": [dataclasses.asdict(point) for point in found.points],
            "broken": broken,
            "machine": machine(args.threads),
        }
    )
    print(line) if args.json else print_table(found, model=args.model.name)
    if args.out is not None:
        args.out.write_text(f"{line}\n", encoding="utf-8")
    if args.plot is not None:
        plot_lines(_lines(found), args.plot)
    return 1 if broken else 0


def print_table(found: LongDecode, *, model: str) -> None:
    """The table: cost early and late, with bounds."""
    late = found.points[-1]
    table = Table(f"{model}, window {found.window}", "early", "late", "change", "allowed")
    table.add_row("position, tokens", str(found.full.position), str(late.position), "", "")
    table.add_row(
        "a step, us (median)",
        f"{found.early_us:.0f}",
        f"{found.late_us:.0f}",
        f"{found.slower:+.1%}",
        f"<= {MOST_SLOWER:+.0%}",
    )
    table.add_row(
        "the process's own memory",
        format_bytes(found.full.own_bytes),
        format_bytes(late.own_bytes),
        f"{found.growth:+.2%}",
        f"<= {MOST_GROWTH:+.0%}",
    )
    rich_console(width=100).print(table)


def export_long(model: Path, folder: Path, *, quant: str, positions: int) -> Path:
    """Export a checkpoint with ``positions`` positions.

    Raises:
        ContractError: it is not in Hugging Face's layout.
    """
    config = model / CONFIG_FILE
    if not config.is_file():
        raise ContractError(f"{model}: has no {CONFIG_FILE}; expected Hugging Face's layout")
    copy = folder / "checkpoint"
    shutil.copytree(model, copy)
    said = json.loads(config.read_text(encoding="utf-8"))
    said["max_position_embeddings"] = max(positions, said["max_position_embeddings"])
    (copy / CONFIG_FILE).write_text(json.dumps(said), encoding="utf-8")
    out = folder / "artifact"
    # In a separate process, so that the export's memory is not counted as the session's.
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "tramontane.cli.main",
        "export",
        copy,
        "--out",
        out,
    ]
    found = run([*command, "--quant", quant, "--no-validate"], limit_bytes=MOST_BYTES)
    if found.status:
        raise ContractError(f"{model}: the export failed: {found.last_words}")
    return out


def decode(session: Session, second: Session, *, tokens: int) -> LongDecode:
    """Decode greedily: one point per thousand steps; the second session runs only at the end.

    Raises:
        ContractError: no window, or too few tokens to pass it twice.
    """
    geometry = session.manifest.geometry
    if None in geometry.windows:
        raise ContractError(f"{session.folder}: no window; its cache grows by design")
    window = max(one for one in geometry.windows if one is not None)
    if tokens < 2 * window + 2 * AT_ONCE:
        raise ContractError(
            f"--tokens {tokens}: expected at least {2 * window + 2 * AT_ONCE}, two windows and "
            f"two times {AT_ONCE} steps"
        )
    thousands = _thousands(tokens)
    label = "decoding, by the thousand"
    points = [_point(session, steps) for steps in track(thousands[:-1], label)]
    _steps(second, 2 * window)
    turns = [(_steps(second, _TURN), _steps(session, _TURN)) for _ in range(AT_ONCE // _TURN)]
    early, late = (np.concatenate(seconds) for seconds in zip(*turns, strict=True))
    points.append(_measured(session, late))
    return LongDecode(
        window=window,
        points=points,
        early_us=float(np.median(early) * 1e6),
        late_us=float(np.median(late) * 1e6),
    )


def broken_bounds(found: LongDecode) -> Iterator[str]:
    """One line per broken bound, with the excess."""
    for what, share, most in (
        ("memory grew", found.growth, MOST_GROWTH),
        ("steps took longer", found.slower, MOST_SLOWER),
    ):
        if share > most:
            yield (
                f"{what} by {share:.1%} between {found.full.position} and "
                f"{found.points[-1].position} tokens, expected at most {most:.0%}"
            )


def _thousands(tokens: int) -> list[int]:
    return [AT_ONCE] * (tokens // AT_ONCE)


def _point(session: Session, steps: int) -> Point:
    return _measured(session, _steps(session, steps))


def _steps(session: Session, steps: int) -> np.ndarray:
    """Seconds of each of ``steps`` greedy steps."""
    seconds = np.empty(steps)
    token = session.tokens % session.manifest.geometry.vocab_size
    for number in range(steps):
        start = time.perf_counter()
        logits = session.step(token)
        seconds[number] = time.perf_counter() - start
        token = int(logits.argmax())
    return seconds


def _measured(session: Session, seconds: np.ndarray) -> Point:
    memory = psutil.Process().memory_info()
    return Point(
        position=session.tokens,
        step_us=float(np.median(seconds) * 1e6),
        resident_bytes=memory.rss,
        own_bytes=memory.rss - getattr(memory, "shared", 0),  # only Linux reports it
    )


def _lines(found: LongDecode) -> tuple[Line, Line]:
    positions = [point.position for point in found.points]
    steps = [point.step_us for point in found.points]
    sizes = [point.own_bytes / 1e6 for point in found.points]
    return (
        Line(title="a step, microseconds (medians of 1000)", x=positions, y=steps),
        Line(title="memory of its own, MB", x=positions, y=sizes),
    )


if __name__ == "__main__":
    sys.exit(status_of(main))
