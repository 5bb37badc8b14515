"""Build wheels that bring the native library: ``python -m tramontane.native.wheels``.

Each is the package ``tramontane_native``, which holds the library of one platform and no code. The
same sources give the same bytes: names are sorted, times are fixed.
Source: the binary distribution format, PyPA, version 1.0.
"""

from __future__ import annotations

import base64
import hashlib
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from .. import __version__
from ..console.one_line_parser import OneLineParser
from ..console.progress import say, track
from ..console.status import status_of
from ..runtime.errors import ConfigError
from ..runtime.ort.native_library import PACKAGE
from ..runtime.sizes import format_bytes
from .build import build
from .platforms import WHEELS, find_platform

_WHEELS = Path("artifacts/wheels")
_LICENSE = Path(__file__).parents[1] / "LICENSE"
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # that a zip file can name
_READABLE, _EXECUTABLE = 0o644, 0o755
_SUMMARY = "The attention kernel of tramontane, a custom-operator library for onnxruntime"


def main(argv: Sequence[str] | None = None) -> int:
    """Build a wheel for each platform and print where it lies."""
    options = OneLineParser(prog="python -m tramontane.native.wheels", description=__doc__)
    options.add_argument("--out", type=Path, default=_WHEELS, help="folder (%(default)s)")
    options.add_argument("--only", nargs="*", default=[], metavar="PLATFORM", help="some of them")
    args = options.parse_args(argv)
    names = args.only or WHEELS
    for name in track(names, "building wheels"):
        path = build_wheel(args.out, name)
        say(f"{path}: {format_bytes(path.stat().st_size)}")
    return 0


def build_wheel(folder: Path, platform_name: str) -> Path:
    """Build the library of a platform with zig, and pack it into a wheel.

    Args:
        folder: made if it is missing.
        platform_name: as in ``PLATFORMS``.

    Raises:
        ConfigError: the platform is unknown, zig is not installed, or it failed.
    """
    tag = find_platform(platform_name).wheel_tag
    if tag is None:
        raise ConfigError(
            f"{platform_name}: pip installs nothing there, expected one of {', '.join(WHEELS)}; "
            f"make native PLATFORM={platform_name} builds the library alone"
        )
    with tempfile.TemporaryDirectory() as scratch:
        library = build(Path(scratch), platform_name=platform_name)
        return pack(folder, library, tag=f"py3-none-{tag}")


def pack(folder: Path, library: Path, *, tag: str) -> Path:
    """Pack a library into a wheel for platforms of a tag."""
    info = f"{PACKAGE}-{__version__}.dist-info"
    metadata = (
        f"Metadata-Version: 2.4\nName: {PACKAGE.replace('_', '-')}\nVersion: {__version__}\n"
        f"Summary: {_SUMMARY}\nLicense-Expression: Apache-2.0\nLicense-File: LICENSE\n"
        "Requires-Python: >=3.11\n"
    )
    wheel = f"Wheel-Version: 1.0\nGenerator: tramontane\nRoot-Is-Purelib: false\nTag: {tag}\n"
    files = {
        f"{PACKAGE}/__init__.py": b'"""Holds the native library of tramontane."""\n',
        f"{PACKAGE}/{library.name}": library.read_bytes(),
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": wheel.encode(),
        f"{info}/licenses/LICENSE": _LICENSE.read_bytes(),
    }
    record = "".join(
        f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in files.items()
    )
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{PACKAGE}-{__version__}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, date_time=_EARLIEST)
            entry.compress_type = zipfile.ZIP_DEFLATED
            is_library = name.endswith(library.name)
            entry.external_attr = (_EXECUTABLE if is_library else _READABLE) << 16
            archive.writestr(entry, data)
    return path


def _digest(data: bytes) -> str:
    """Sha256 as RECORD has it: base64 for URLs, without padding."""
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


if __name__ == "__main__":
    sys.exit(status_of(main))
