"""Builds wheel and sdist of tramontane: ``python -m tramontane.deploy.distributions``.

The same commit gives the same bytes, whatever the folder, the umask, the time and the files beside
those of the commit. ``git archive`` gives the sources, ``python -m build`` builds them; what it
leaves to the machine in an archive (order, times, modes, owners) is then written anew.
Source: reproducible-builds.org, SOURCE_DATE_EPOCH.
"""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

from ..console.one_line_parser import OneLineParser
from ..console.progress import say
from ..console.status import status_of
from ..runtime.errors import ConfigError
from ..runtime.manifest import describe_file
from .supply_chain import needs_packages

_SOURCE = Path(__file__).parents[1]
_OUT = Path("dist")
_READABLE, _EXECUTABLE = 0o644, 0o755
_LAST_LINES = 5  # of what a program said, in a message


def main(argv: Sequence[str] | None = None) -> int:
    """Build both, and print name and sha256 of each."""
    options = OneLineParser(prog="python -m tramontane.deploy.distributions", description=__doc__)
    options.add_argument("--out", type=Path, default=_OUT, help="folder (default: %(default)s)")
    args = options.parse_args(argv)
    for path in build(_SOURCE, args.out):
        say(f"{path}: sha256 {describe_file(path)['sha256']}")
    return 0


def build(source: Path, out: Path, *, commit: str = "HEAD") -> list[Path]:
    """Build the sdist and the wheel of a commit.

    Args:
        source: a clone.
        out: folder of both, made if it is missing.
        commit: what is built; uncommitted changes are not.

    Returns:
        The wheel and the sdist.

    Raises:
        ConfigError: the source is no clone, or a program failed; or the package build is missing.
    """
    with needs_packages("building wheels", "build"):
        import build as _  # noqa: F401
    seconds = int(_run(["git", "-C", str(source), "log", "-1", "--format=%ct", commit]))
    with tempfile.TemporaryDirectory() as scratch:
        tree, built = Path(scratch, "tramontane"), Path(scratch, "built")
        packed = _run(["git", "-C", str(source), "archive", "--format=tar", commit])
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(tree, filter="data")
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(built)]
        _run([*command, str(tree)], SOURCE_DATE_EPOCH=str(seconds))
        out.mkdir(parents=True, exist_ok=True)
        wheel, sdist = next(built.glob("*.whl")), next(built.glob("*.tar.gz"))
        _write_zip(wheel, out / wheel.name, seconds)
        _write_tar(sdist, out / sdist.name, seconds)
    return [out / wheel.name, out / sdist.name]


def _write_zip(found: Path, out: Path, seconds: int) -> None:
    """The members of a zip file in order of their names, of one time, with plain modes."""
    moment = time.gmtime(seconds)[:6]
    with zipfile.ZipFile(found) as old, zipfile.ZipFile(out, "w") as new:
        # The list of all files comes last, as the format asks.
        for name in sorted(old.namelist(), key=lambda name: (name.endswith("/RECORD"), name)):
            entry = zipfile.ZipInfo(name, date_time=moment)
            entry.create_system, entry.compress_type = 3, zipfile.ZIP_DEFLATED  # Unix
            entry.external_attr = (0o100000 | _mode(old.getinfo(name).external_attr >> 16)) << 16
            new.writestr(entry, old.read(name))


def _write_tar(found: Path, out: Path, seconds: int) -> None:
    """The members of a tar file in order of their names, of one time and no owner."""
    packed = io.BytesIO()
    with (
        tarfile.open(found) as old,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in sorted(old.getmembers(), key=lambda one: one.name):
            entry = tarfile.TarInfo(member.name)
            entry.type, entry.size, entry.mtime = member.type, member.size, seconds
            entry.mode = _EXECUTABLE if member.isdir() else _mode(member.mode)
            new.addfile(entry, old.extractfile(member))
    with (
        out.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=seconds) as compressed,
    ):
        compressed.write(packed.getvalue())


def _mode(found: int) -> int:
    return _EXECUTABLE if found & 0o100 else _READABLE


def _run(command: Sequence[str], **variables: str) -> bytes:
    done = subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, check=False
    )
    if done.returncode:
        said = " ".join(
            (done.stderr or done.stdout).decode(errors="replace").splitlines()[-_LAST_LINES:]
        )
        raise ConfigError(
            f"{' '.join(command)}: ended with {done.returncode} ({said}), expected 0; build in a "
            "clone, where git and the package build are installed"
        )
    return done.stdout


if __name__ == "__main__":
    sys.exit(status_of(main))
