"""Builds the native library for every platform, and runs it where that is possible here.

``python -m tramontane.interop.native_platforms`` prints a table: what was built, loaded and run.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..console.one_line_parser import OneLineParser
from ..console.progress import say
from ..console.status import status_of
from ..environments.errors import Absent
from ..export.options import ExportOptions
from ..native.platforms import PLATFORMS
from ..runtime.errors import ConfigError
from ..validate.sequences.tokens import SAMPLE
from . import native_trial
from .cases import MatrixCase, export
from .native_trial import BOUNDS, Machine, Trial

_TITLE = "| platform | file | size | built | loaded | run |"
_RULE = "| --- | --- | --- | --- | --- | --- |"
_FILES = {  # where pip installs nothing
    "android-arm64": "`libtramontane.so`, to put into `jniLibs/arm64-v8a`",
    "ios-arm64": "`libtramontane.a`, to link into the app",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, and write it into a page."""
    parser = OneLineParser(
        prog="python -m tramontane.interop.native_platforms", description=__doc__
    )
    parser.add_argument("model", type=Path, help="checkpoint: the bundled demo model")
    parser.add_argument("--only", nargs="*", default=[], metavar="PLATFORM", help="some of them")
    parser.add_argument("--page", type=Path, metavar="FILE", help="replace this page's table")
    args = parser.parse_args(argv)
    names, machines = native_trial.find(args.only), native_trial.machines()
    try:
        with tempfile.TemporaryDirectory() as folder:
            trials = list(_try_all(args.model, names, machines, Path(folder)))
    except Absent as error:
        raise ConfigError(f"native platforms: {error}") from error
    lines = table(trials)
    print("\n".join(lines))
    if args.page is not None and not args.only:
        args.page.write_text(with_table(args.page, lines), encoding="utf-8")
    elif args.page is not None:
        say(f"{args.page}: not updated: only runs of everything are recorded")
    return 0


def _try_all(
    model: Path, names: Sequence[str], machines: dict[str, Machine], folder: Path
) -> Iterator[Trial]:
    cases = list(_cases(model)) if set(names) & set(machines) else []
    exported = [export(case, folder / f"artifact-{n}") for n, case in enumerate(cases)]
    right = [native_trial.expected(one) for one in exported]
    for name in names:
        say(f"{name}: building")
        library, size = native_trial.build(name, folder / name)
        if name not in machines:
            yield Trial(platform=name, library_bytes=size)
            continue
        machine = machines[name]
        say(f"{name}: random calls of each kernel")
        num_calls = native_trial.run_checks(name, machine, folder / f"{name}-checks")
        differences: dict[str, float] = {}
        kernels = ""
        for one, answer in zip(exported, right, strict=True):
            say(f"{name}: {one.case.name}")
            site = library.parents[1]
            kernels, difference = native_trial.compare(one, answer, machine, site)
            differences[one.case.options.kv] = difference
        yield Trial(
            platform=name,
            library_bytes=size,
            is_emulated=machine.is_emulated,
            num_calls=num_calls,
            kernels=kernels,
            differences=differences,
        )


def _cases(model: Path) -> Iterator[MatrixCase]:
    """The bundled model with each type of the native graph's cache."""
    for kv in BOUNDS:
        yield MatrixCase(
            name=f"{model.name} fp32, {kv} cache",
            checkpoint=model,
            options=ExportOptions(quant="fp32", target="ort", kv=kv, native=True),
            prompt="def fibonacci(",
            text=SAMPLE,
        )


def table(trials: Sequence[Trial]) -> list[str]:
    """The table's lines, in Markdown."""
    return [_TITLE, _RULE, *map(_row, trials)]


def _row(trial: Trial) -> str:
    is_wheel = PLATFORMS[trial.platform].wheel_tag is not None
    loaded, run = "no", "no"
    if trial.is_emulated is not None:
        loaded = "yes, emulated" if trial.is_emulated else "yes"
        found = ", ".join(f"{one:.0e} ({kv})" for kv, one in trial.differences.items())
        run = (
            f"{loaded}: {trial.kernels}; {trial.num_calls} random calls right; same tokens as "
            f"onnxruntime's kernel, logits within {found}"
        )
    cells = [
        trial.platform,
        "wheel" if is_wheel else _FILES[trial.platform],
        f"{trial.library_bytes / 1e3:.0f} kB",
        "yes",
        loaded,
        run,
    ]
    return f"| {' | '.join(cells)} |"


def with_table(page: Path, lines: Sequence[str]) -> str:
    """The page's text with these lines in place of its table of platforms.

    Raises:
        ConfigError: it has no such table.
    """
    before = page.read_text(encoding="utf-8").splitlines()
    begin = next((n for n, line in enumerate(before) if line.startswith("| platform |")), None)
    if begin is None:
        raise ConfigError(f"{page}: has no table that begins with '| platform |', expected one")
    end = begin
    while end < len(before) and before[end].startswith("|"):
        end += 1
    return "\n".join([*before[:begin], *lines, *before[end:], ""])


if __name__ == "__main__":
    sys.exit(status_of(main))
