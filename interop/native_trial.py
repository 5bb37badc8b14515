"""Builds the native library for a platform, and runs it where that is possible on this machine.

Run means: random calls of every kernel are compared with attention in double precision, and the
bundled model's native graph with its other graph.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..environments import arm64, commands, python
from ..environments.errors import Absent
from ..native.platforms import PLATFORMS, this_platform
from ..runtime.errors import ConfigError, ParityError
from .cases import Exported, read_logits, write_job

ZIG = ("ziglang==0.17.1",)
CALLS = 25  # random calls of each kernel
NEW_TOKENS, NUM_SCORED = 48, 160  # each more than the rows that the cache has beyond the window
# Largest difference of logits of size 20 from those of onnxruntime's kernel on this machine. With
# an int8 cache, a number that lies between two codes may become either.
BOUNDS = {"float32": 1e-4, "float16": 0.05, "int8": 0.5}
_RUNNERS = Path(__file__).with_name("runners") / "python"
_EMULATED = "linux-aarch64"
Command = list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """How programs of one platform are run here."""

    is_emulated: bool
    python: Callable[[Path], Command]  # imports packages from that folder too
    programs: Callable[[Path], Mapping[str, Command]]  # by the processor's name


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What was found of one platform."""

    platform: str
    library_bytes: int
    is_emulated: bool | None = None  # None: it cannot be run here
    num_calls: int = 0
    kernels: str = ""  # those that the model's head size takes
    differences: dict[str, float] = field(default_factory=dict)  # of logits, by type of the cache


def machines() -> dict[str, Machine]:
    """The platforms whose programs run here."""
    here = Machine(
        is_emulated=False,
        python=lambda site: ["env", f"PYTHONPATH={site}", sys.executable],
        programs=lambda path: {"this processor": [str(path)]},
    )
    emulated = Machine(
        is_emulated=True,
        python=lambda site: arm64.python(also=[site]),
        programs=lambda path: {one.name: arm64.program(path, one) for one in arm64.PROCESSORS},
    )
    return {_EMULATED: emulated, this_platform(): here}


def build(platform: str, folder: Path) -> tuple[Path, int]:
    """Build a platform's wheel, or the library alone where pip installs nothing.

    Returns:
        What was built, and the bytes of the library in it.

    Raises:
        Absent: zig cannot be installed, or it failed.
    """
    if PLATFORMS[platform].wheel_tag is None:
        _build("build", "--platform", platform, "--out", folder)
    else:
        _build("wheels", "--only", platform, "--out", folder)
        (wheel,) = folder.glob("*.whl")
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps")
        tag = ("--only-binary=:all:", "--platform", str(PLATFORMS[platform].wheel_tag))
        commands.run([*pip, *tag, "--target", folder / "site", wheel])
    (library,) = folder.rglob(PLATFORMS[platform].library)
    return library, library.stat().st_size


def run_checks(platform: str, machine: Machine, folder: Path) -> int:
    """Compare random calls of every kernel with attention in double precision.

    Returns:
        How many calls were compared.

    Raises:
        Absent: the program cannot be built or run.
        ParityError: a call differs, or a kernel was left out.
    """
    _build("build", "--checks", "--platform", platform, "--out", folder)
    compared = 0
    for seed, (name, command) in enumerate(machine.programs(folder / "checks").items()):
        try:
            said = commands.run([*command, str(seed), str(CALLS)])
        except Absent as error:
            raise ParityError(f"{platform}, {name}: {error}") from error
        found = re.search(r"^(\d+) of (\d+) as expected$", said, re.MULTILINE)
        kernels = re.findall(r"^(\w+): compared$", said, re.MULTILINE)
        if found is None or found[1] != found[2] or int(found[2]) != CALLS * len(kernels):
            raise ParityError(f"{platform}, {name}: {said.strip()[-200:]}")
        if machine.is_emulated and kernels != list(PLATFORMS[platform].kernels):
            raise ParityError(f"{platform}, {name}: compared {kernels}, expected all kernels")
        compared += int(found[2])
    return compared


def ask(command: Sequence[str], exported: Exported, **changes: Any) -> tuple[dict[str, Any], Any]:
    """Run an artifact's job by a runner.

    Returns:
        The runner's answer, and logits (T, V) float32.

    Raises:
        Absent: it failed; the message has its last lines.
    """
    wanted = {
        "prompts": [exported.job["score"][: NUM_SCORED - NEW_TOKENS]],
        "new_tokens": NEW_TOKENS,
        "score": exported.job["score"][:NUM_SCORED],
        "texts": [],
        "strings": [],
        **changes,
    }
    job = write_job(exported, exported.folder.with_suffix(".json"), **wanted)
    return commands.answer([*command, str(job)]), read_logits(exported)


def expected(exported: Exported) -> tuple[list[list[int]], np.ndarray]:
    """Tokens and logits of an artifact's other graph, on this machine."""
    answer, logits = ask([sys.executable, str(_RUNNERS / "driver.py")], exported, native=False)
    return answer["tokens"], logits


def compare(
    exported: Exported,
    right: tuple[list[list[int]], np.ndarray],
    machine: Machine,
    site: Path,
) -> tuple[str, float]:
    """Run an artifact's native graph with the library of a wheel, and compare it with the other.

    Returns:
        The kernels that computed, and the largest difference of logits.

    Raises:
        Absent: it cannot be run; the message has the last lines that were printed.
        ParityError: another library was loaded, the plain kernels computed, or logits or tokens
            differ.
    """
    name = exported.case.name
    answer, logits = ask([*machine.python(site), str(_RUNNERS / "native.py")], exported)
    library = answer["library"]
    if site not in Path(library["path"]).parents or library["version"] != __version__:
        raise ParityError(f"{name}: loaded {library}, expected {__version__} in {site}")
    if library["kernels"] == "plain":
        raise ParityError(
            f"{name}: computed by the plain kernels, expected those of the processor"
        )
    tokens, reference = right
    difference = float(np.abs(logits - reference).max())
    bound = BOUNDS[exported.case.options.kv]
    if logits.shape != reference.shape or not difference <= bound:
        raise ParityError(
            f"{name}: logits differ by {difference:.2g} from the other graph's, expected {bound:g}"
        )
    if answer["tokens"] != tokens:
        raise ParityError(f"{name}: tokens {answer['tokens']}, expected {tokens}")
    return str(library["kernels"]), difference


def _build(module: str, *words: str | Path) -> None:
    """Run a command of ``native/`` with zig, which is installed apart if it is not here.

    Raises:
        Absent: zig cannot be installed, or the command failed.
    """
    variables = {}
    if importlib.util.find_spec("ziglang") is None:
        there = python.packages_of(python.python_with("zig", ZIG))
        variables["PYTHONPATH"] = str(there)
    command: list[str | Path] = [sys.executable, "-m", f"tramontane.native.{module}", *words]
    commands.run(command, env=variables)


def find(names: Sequence[str]) -> list[str]:
    """The platforms of these names; all, if none is given.

    Raises:
        ConfigError: there is none of a name.
    """
    for name in names:
        if name not in PLATFORMS:
            raise ConfigError(f"--only {name}: expected one of {', '.join(PLATFORMS)}")
    return [name for name in PLATFORMS if not names or name in names]
