"""Exports to a disk that is too small by chance, and to the same disk with room.

The disk is a tmpfs in a namespace of mounts of our own, which needs no privileges where the system
lets users make such namespaces (``unshare --user --map-root-user --mount``).
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..runtime.untrusted import environment
from .exports import LIMIT_S, RECIPES, Exports
from .kills import Wholes, judge
from .left_behind import why_lost, why_unlike
from .outcomes import LOST, Outcome

_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")
_INSIDE = "TRAMONTANE_TORTURE_MAY_MOUNT"  # set in that namespace
_NAMES = ("int8", "int8, sharded", "int4-rtn, sharded", "fp32")
_ROOM = "1g"
_CHECKED = 0.2  # of all cases; in the rest a write fails, as where other programs fill the disk
_MARGIN = 1.3  # of the artifact's size: the largest disk, on which an export may succeed


def enter_namespace(module: str, arguments: Sequence[str]) -> None:
    """Go on as the same command in a namespace where disks can be mounted, if there can be one."""
    if may_mount() or not shutil.which("unshare") or not shutil.which("mount"):
        return
    if subprocess.run([*_NAMESPACE, "true"], check=False, capture_output=True).returncode:
        return
    os.environ[_INSIDE] = "1"
    os.execvp(_NAMESPACE[0], [*_NAMESPACE, sys.executable, "-P", "-m", module, *arguments])


def may_mount() -> bool:
    """Whether this process is in such a namespace."""
    return environment.one_of(_INSIDE, ("1",)) == "1"


def fill(wholes: Wholes, exports: Exports, work: Path, *, seed: int, number: int) -> Outcome:
    """Export to a disk of a random size, then to the same with room.

    Args:
        wholes: artifacts to compare with.
        exports: nobody else uses it meanwhile.
        work: an empty folder, where the disk is mounted.
        seed, number: what the case follows from.
    """
    draw = random.Random(f"{seed}/disks/{number}")
    name = draw.choice(_NAMES)
    expected, recipe = wholes.of(name, exports), RECIPES[name]
    needed = sum(path.stat().st_size for path in wholes.path(name).rglob("*") if path.is_file())
    size, case = int(draw.uniform(0.01, _MARGIN) * needed) // 4096 * 4096, f"{name}, full disk"
    with _mounted(work, max(size, 4096)):
        out = work / "artifact"
        export = exports.start(out, recipe, is_room_checked=draw.random() < _CHECKED)
        is_hung = not export.has_ended(LIMIT_S + 10 * expected.seconds)
        if is_hung:
            export.send(signal.SIGKILL, to_all=True)
        ended = export.wait()
        kind, why = judge(ended, is_hung=is_hung)
        if not why and (why := why_lost(out, older={}, expected=expected.contents)):
            kind = LOST
        if not why:
            _mount("-o", f"remount,size={_ROOM}", str(work))
            again = exports.finish(out, recipe)
            why = why_unlike(out, expected.contents) if again.status == 0 else again.said[-2000:]
            kind = LOST if why else kind
    return Outcome(case=case, kind=kind, detail=f"{size} of {needed} bytes: {why}" if why else "")


@contextlib.contextmanager
def _mounted(folder: Path, size: int) -> Iterator[None]:
    _mount("-t", "tmpfs", "-o", f"size={size}", "tramontane", str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True, capture_output=True)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)
