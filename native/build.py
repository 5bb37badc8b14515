"""Build the native library: ``python -m tramontane.native.build``.

For this machine with its C++ compiler (``CXX``, c++, g++ or clang++) or else with zig; for other
platforms with zig, which the package ziglang brings.
"""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .. import __version__
from ..console.one_line_parser import OneLineParser
from ..console.progress import say
from ..console.status import status_of
from ..runtime.durable import replace_file
from ..runtime.errors import ConfigError
from ..runtime.ort.native_library import BUILT
from ..runtime.sizes import format_bytes
from ..runtime.untrusted import environment
from .platforms import KERNEL_FLAGS, PLATFORMS, Platform, find_platform, this_platform

SOURCE = Path(__file__).parent / "source"
KERNEL_SOURCE = "kernels.cpp"  # compiled once for each instruction set
OTHER_SOURCES = ("choose_kernels.cpp", "attention.cpp", "library.cpp")
_CHECKS, _SHAPES = "checks", "random_shapes"  # programs, by the names of their sources
_FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti", "-g0"),
    *("-ffp-contract=fast", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow"),
    *("-Werror", "-Wno-psabi", "-Wno-unknown-warning-option"),
)
_ZIG = (sys.executable, "-m", "ziglang")
_SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1")


def main(argv: Sequence[str] | None = None) -> int:
    """Build it and print where it lies."""
    options = OneLineParser(prog="python -m tramontane.native.build", description=__doc__)
    options.add_argument(
        "--platform", choices=tuple(PLATFORMS), help="build for it with zig (default: this one)"
    )
    options.add_argument("--out", type=Path, default=BUILT, help="folder for the library")
    options.add_argument(
        "--checks",
        action="store_true",
        help="build the program that compares every kernel with attention in double precision; "
        "for this machine, with sanitizers, and the one that gives the operator random shapes too",
    )
    args = options.parse_args(argv)
    path = (build_checks if args.checks else build)(args.out, platform_name=args.platform)
    say(f"{path}: {format_bytes(path.stat().st_size)}")
    return 0


def build(folder: Path, *, platform_name: str | None = None) -> Path:
    """Build the library into a folder.

    Args:
        folder: made if it is missing.
        platform_name: as in ``PLATFORMS``; None for this machine.

    Raises:
        ConfigError: there is no compiler, the platform is unknown, or the compiler failed.
    """
    platform = find_platform(platform_name or this_platform())
    compiler = find_compiler(None if platform_name is None else platform)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        objects = compile_sources(compiler, platform, OTHER_SOURCES, Path(scratch))
        made = Path(scratch) / platform.library
        link(compiler, platform, objects, made)
        replace_file(made, folder / platform.library)
    return folder / platform.library


def link(compiler: Sequence[str], platform: Platform, objects: Sequence[Path], made: Path) -> None:
    """Make the library of object files; what it would lack where it runs is an error."""
    if platform.is_static:
        run([*_ZIG, "ar", "rcs", str(made), *map(str, objects)])
        return
    compiler = _without_libraries(compiler)
    # Without what no function of the library calls: most of what zig links in.
    unused = "-Wl,-dead_strip" if platform.system == "Darwin" else "-Wl,--gc-sections"
    flags = ["-shared", "-o", str(made), *map(str, objects), "-Wl,-s", unused]
    if platform.imports:
        stubs = [
            _make_stub(compiler, made.parent / name, functions)
            for name, functions in platform.imports.items()
        ]
        # Systems with pages of 16 KiB load no library whose segments are aligned to less.
        flags += ["-nostdlib", *map(str, stubs), "-Wl,-z,defs,-z,max-page-size=16384,--as-needed"]
    elif platform.system == "Linux":
        flags += ["-lm", "-Wl,-z,defs,--as-needed"]
    run([*compiler, *flags])


def _make_stub(compiler: Sequence[str], path: Path, functions: Sequence[str]) -> Path:
    """A library of nothing but names of functions, to link with in place of a system's."""
    source = path.with_suffix(".s")
    source.write_text("".join(f".globl {name}\n{name}:\n" for name in functions), encoding="utf-8")
    run(
        [
            *compiler,
            "-shared",
            "-nostdlib",
            f"-Wl,-soname,{path.name}",
            str(source),
            "-o",
            str(path),
        ]
    )
    return path


def build_checks(folder: Path, *, platform_name: str | None = None) -> Path:
    """Build the program of ``checks.cpp``, and beside it for this machine ``random_shapes.cpp``.

    For this machine with sanitizers of addresses and undefined behaviour; for another platform
    without them, since zig brings none that run there, nor the C++ library of the second.

    Raises:
        ConfigError: as ``build``.
    """
    platform = find_platform(platform_name or this_platform())
    compiler = find_compiler(None if platform_name is None else platform)
    is_here = platform_name is None
    programs, more = ((_CHECKS, _SHAPES), _SANITIZERS) if is_here else ((_CHECKS,), ())
    others = OTHER_SOURCES if is_here else ("choose_kernels.cpp", "attention.cpp", "memory.cpp")
    folder.mkdir(parents=True, exist_ok=True)
    sources = [*others, *(f"{name}.cpp" for name in programs)]
    objects = compile_sources(compiler, platform, sources, folder, more=more)
    linker = compiler if is_here else _without_libraries(compiler)
    for name in programs:
        parts = [str(one) for one in objects if one.stem == name or one.stem not in programs]
        run([*linker, *more, "-o", str(folder / name), *parts, "-lm"])
    return folder / _CHECKS


def _without_libraries(compiler: Sequence[str]) -> list[str]:
    """The same compiler, linking no C++ library: zig would first build one of its sources."""
    return ["cc" if word == "c++" and "ziglang" in compiler else word for word in compiler]


def compile_sources(
    compiler: Sequence[str],
    platform: Platform,
    sources: Sequence[str],
    folder: Path,
    *,
    more: Sequence[str] = (),
) -> list[Path]:
    """Compile the kernels for each instruction set, and other sources; the object files."""
    jobs = [
        (
            KERNEL_SOURCE,
            name,
            (
                *KERNEL_FLAGS[name],
                f"-DKERNELS={name}",
                f"-DKERNELS_{name.upper()}",
                f'-DKERNELS_NAME="{name}"',
            ),
        )
        for name in platform.kernels
    ]
    jobs += [(name, Path(name).stem, (f'-DVERSION="{__version__}"',)) for name in sources]
    objects = []
    for source, stem, flags in jobs:
        made = folder / f"{stem}.o"
        run([*compiler, *_FLAGS, *more, *flags, "-c", str(SOURCE / source), "-o", str(made)])
        objects.append(made)
    return objects


def find_compiler(target: Platform | None) -> list[str]:
    """The command of a C++ compiler: this machine's, or zig for a target.

    Raises:
        ConfigError: there is none, or CXX is no command.
    """
    if target is None:
        for command in (environment.command("CXX"), ["c++"], ["g++"], ["clang++"]):
            if command and shutil.which(command[0]):
                # The driver for C links no C++ library, and the library needs none.
                return command
    zig = importlib.util.find_spec("ziglang")
    if zig is None or zig.origin is None:
        what = "C++ compiler" if target is None else "zig"
        raise ConfigError(f"no {what} found; pip install ziglang, which brings one")
    if target is None:
        return [*_ZIG, "c++"]
    headers = []
    if target.headers is not None:
        headers = ["-isystem", str(Path(zig.origin).parent / "lib/libc/include" / target.headers)]
    return [*_ZIG, "c++", "-target", target.zig, *headers]


def run(command: Sequence[str]) -> None:
    """Run a command of the compiler.

    Raises:
        ConfigError: it failed; with what it printed last.
    """
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if done.returncode:
        printed = "\n".join(done.stderr.strip().splitlines()[-20:])
        raise ConfigError(f"{shlex.join(command)}: status {done.returncode}\n{printed}")


if __name__ == "__main__":
    sys.exit(status_of(main))
