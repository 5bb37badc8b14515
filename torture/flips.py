"""Artifacts with one damaged byte, which must be found."""

from __future__ import annotations

import os
import random
from pathlib import Path

from ..runtime.errors import TramontaneError
from ..runtime.manifest import read_manifest, verify_files
from .outcomes import LOST, TYPED, UNTYPED, Outcome


def flip(folder: Path, *, seed: int, number: int) -> Outcome:
    """Flip one bit of one file of an artifact, verify the artifact, and flip it back.

    Args:
        folder: the artifact, which nobody else reads.
        seed, number: what the case follows from.
    """
    draw = random.Random(f"{seed}/flips/{number}")
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    sizes = [path.stat().st_size for path in paths]
    # Every other case takes each byte as likely as any other; the rest each file, so that small
    # files have their share.
    path = draw.choices(paths, sizes if draw.random() < 0.5 else None)[0]
    place, bit = draw.randrange(path.stat().st_size), 1 << draw.randrange(8)
    name = path.relative_to(folder).as_posix()
    _flip(path, place, bit)
    try:
        verify_files(folder, read_manifest(folder))
    except TramontaneError:
        return Outcome(case=name, kind=TYPED)
    except Exception as error:
        return Outcome(case=name, kind=UNTYPED, detail=f"byte {place}: {error!r}")
    finally:
        _flip(path, place, bit)
    return Outcome(case=name, kind=LOST, detail=f"bit {bit} of byte {place} was not found")


def _flip(path: Path, place: int, bit: int) -> None:
    with path.open("r+b", buffering=0) as file:
        byte = os.pread(file.fileno(), 1, place)[0]
        os.pwrite(file.fileno(), bytes([byte ^ bit]), place)
