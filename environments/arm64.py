"""An aarch64 Python that runs on this machine under emulation.

The distribution's packages for arm64 and the driver's wheels, unpacked below the user's cache and
run by qemu.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from . import commands, debian, folders, qemu
from .errors import Absent

_PACKAGES = ("python3", "libstdc++6", "libgomp1")  # wheels bring no C++ runtime
_WHEELS = ("numpy", "onnxruntime", "sentencepiece")
_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
_CACHES = ((1, "Data", 64), (1, "Instruction", 64), (2, "Unified", 512), (3, "Unified", 4096))
_LINE_BYTES = 64
_WAYS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Processor:
    """A processor as qemu emulates it and as Linux would describe it.

    onnxruntime reads both to choose its kernels, so they must agree: where Linux describes more
    than qemu emulates, onnxruntime ends with an illegal instruction.
    """

    name: str
    qemu: str
    part: int  # Arm's number of the core
    features: str  # in addition to those that all have


NEON = Processor(name="neon", qemu="cortex-a72", part=0xD08, features="")
DOT_PRODUCT = Processor(
    name="dot-product", qemu="cortex-a76", part=0xD0B, features=" atomics fphp asimdhp asimddp"
)
I8MM = Processor(  # Neoverse V1's, without its vectors of free length: those are slow in qemu
    name="i8mm",
    qemu="max,sve=off,sme=off,pauth-impdef=on",
    part=0xD40,
    features=" atomics fphp asimdhp asimddp i8mm bf16",
)
PROCESSORS = (NEON, DOT_PRODUCT, I8MM)


def python(processor: Processor = DOT_PRODUCT, *, also: Sequence[Path] = ()) -> list[str]:
    """A command that runs aarch64 Python; it imports numpy, onnxruntime, and ``tramontane``.

    Args:
        processor: on which it runs.
        also: folders of further packages that it imports.

    Raises:
        Absent: the packages, the wheels or qemu cannot be had.
    """
    folder = _folder()
    root = folder / processor.name
    paths = [_link_package(folder), folder / "site", *also]
    variables = {
        "PYTHONPATH": ":".join(map(str, paths)),
        "PYTHONPYCACHEPREFIX": folder / "pycache",
        "PYTHONNOUSERSITE": 1,
        "ORT_DISABLE_TELEMETRY": 1,
    }
    return [
        "env",
        *(f"{name}={value}" for name, value in variables.items()),
        *_emulated(processor, root),
        str(_python_in(root)),
    ]


def program(path: Path, processor: Processor) -> list[str]:
    """A command that runs an aarch64 program, which may be linked with C's library.

    Raises:
        Absent: as ``python``.
    """
    return [*_emulated(processor, _folder() / processor.name), str(path)]


def wheels() -> list[str]:
    """The driver's packages, at the versions that are installed here."""
    return [f"{name}=={version(name)}" for name in _WHEELS]


def _folder() -> Path:
    """The folder of all that was unpacked."""
    made_of = [_PACKAGES, wheels(), PROCESSORS, os.cpu_count()]
    folder = folders.home() / "arm64"
    return folders.make_once(folder, made_of, _make, saying="unpacking an aarch64 Python")


def _emulated(processor: Processor, root: Path) -> list[str]:
    return [qemu.program("qemu-aarch64-static"), "-cpu", processor.qemu, "-L", str(root)]


def describe(processor: Processor, folder: Path, *, cpus: int) -> None:
    """Write ``proc/cpuinfo`` and ``sys/devices/system/cpu``, which onnxruntime reads on import.

    An Arm build cannot parse the host's own files and ends the process.
    """
    cpuinfo = folder / "proc" / "cpuinfo"
    cpuinfo.parent.mkdir(parents=True)
    cores = (
        f"processor\t: {cpu}\n"
        f"Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid{processor.features}\n"
        "CPU implementer\t: 0x41\n"
        "CPU architecture: 8\n"
        "CPU variant\t: 0x1\n"
        f"CPU part\t: {processor.part:#x}\n"
        "CPU revision\t: 0\n"
        for cpu in range(cpus)
    )
    cpuinfo.write_text("\n".join(cores), encoding="ascii")
    everyone = f"0-{cpus - 1}" if cpus > 1 else "0"
    system = folder / "sys" / "devices" / "system" / "cpu"
    _write_values(system, possible=everyone, present=everyone, online=everyone)
    for cpu in range(cpus):
        for index, (level, kind, kib) in enumerate(_CACHES):
            _write_values(
                system / f"cpu{cpu}" / "cache" / f"index{index}",
                level=level,
                type=kind,
                size=f"{kib}K",
                coherency_line_size=_LINE_BYTES,
                ways_of_associativity=_WAYS,
                number_of_sets=(kib << 10) // (_LINE_BYTES * _WAYS),
                shared_cpu_list=everyone if level == 3 else cpu,
            )


def _make(folder: Path) -> None:
    """Fetch and unpack all that the command needs.

    Raises:
        Absent: something cannot be had.
    """
    with tempfile.TemporaryDirectory() as scratch:
        options = debian.apt_options(Path(scratch), "arm64", debian.host())
        commands.run(["apt-get", "update", *options])
        debian.unpack(_PACKAGES, options, Path(scratch), folder)
    if not (folder / "lib").exists():  # where packages put all below /usr, /lib is a link
        (folder / "lib").symlink_to("usr/lib")
    for processor in PROCESSORS:
        root = folder / processor.name
        describe(processor, root, cpus=os.cpu_count() or 1)
        for name in ("etc", "lib", "usr"):
            (root / name).symlink_to(f"../{name}", target_is_directory=True)
    spoken = _python_in(folder).name.removeprefix("python")
    platforms = [word for name in _PLATFORMS for word in ("--platform", name)]
    commands.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"),
            *("--target", folder / "site", "--only-binary=:all:", "--python-version", spoken),
            *platforms,
            *wheels(),
        ]
    )


def _python_in(folder: Path) -> Path:
    """The Python that was unpacked.

    Raises:
        Absent: there is none.
    """
    found = [
        path
        for path in sorted((folder / "usr" / "bin").glob("python3.*"))
        if re.fullmatch(r"python3\.\d+", path.name)
    ]
    if not found:
        raise Absent(f"{folder}: no usr/bin/python3.N in the packages for arm64")
    return found[0]


def _link_package(folder: Path) -> Path:
    """A folder from which ``tramontane`` is imported; each installation has one of its own."""
    package = Path(__file__).resolve().parents[1]
    name = hashlib.sha256(str(package).encode()).hexdigest()[:16]
    link = folder / "packages" / name / "tramontane"
    if not link.is_symlink():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(package, target_is_directory=True)
    return link.parent


def _write_values(folder: Path, **values: str | int) -> None:
    folder.mkdir(parents=True)
    for name, value in values.items():
        (folder / name).write_text(f"{value}\n", encoding="ascii")
