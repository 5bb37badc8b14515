"""The platforms that the library is built for, and the instruction sets of each."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..runtime.errors import ConfigError
from ..runtime.ort.native_library import library_name

_STATIC = "libtramontane.a"
_X86, _ARM = ("plain", "avx2", "avx512"), ("plain", "neon")
# What the compiler may assume of a processor, for each set of kernels.
KERNEL_FLAGS = {
    "plain": (),
    "neon": (),  # part of every aarch64
    "avx2": ("-mavx2", "-mfma", "-mf16c"),
    "avx512": (
        *("-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mfma", "-mf16c"),
        # GCC 12 warns of its own intrinsics, which begin with an undefined register on purpose.
        *("-Wno-uninitialized", "-Wno-maybe-uninitialized"),
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Platform:
    """One system and processor."""

    system: str  # as Python's platform.system() names it
    zig: str  # processor, system and oldest C library, as ``zig -target`` names them
    wheel_tag: str | None  # of the wheels that pip installs there; None: apps bring the file
    kernels: tuple[str, ...]  # instruction sets, each compiled from the same source
    headers: str | None = None  # of those that zig brings, a folder that it would not look into
    is_static: bool = False  # linked into the app
    # By library of the system: the functions that are taken from it, where zig brings no such
    # library to link with.
    imports: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def library(self) -> str:
        """Name of the library's file."""
        return _STATIC if self.is_static else library_name(self.system)


PLATFORMS: dict[str, Platform] = {
    "linux-x86_64": Platform(
        system="Linux",
        zig="x86_64-linux-gnu.2.17",
        wheel_tag="manylinux2014_x86_64",
        kernels=_X86,
    ),
    "linux-aarch64": Platform(
        system="Linux",
        zig="aarch64-linux-gnu.2.17",
        wheel_tag="manylinux2014_aarch64",
        kernels=_ARM,
    ),
    "macos-arm64": Platform(
        system="Darwin",
        zig="aarch64-macos.11.0",
        wheel_tag="macosx_11_0_arm64",
        kernels=_ARM,
    ),
    "macos-x86_64": Platform(
        system="Darwin",
        zig="x86_64-macos.11.0",
        wheel_tag="macosx_11_0_x86_64",
        kernels=_X86,
    ),
    "windows-x86_64": Platform(
        system="Windows",
        zig="x86_64-windows-gnu",
        wheel_tag="win_amd64",
        kernels=_X86,
    ),
    # musl's headers declare what bionic has too: functions of C alone are called.
    "android-arm64": Platform(
        system="Android",
        zig="aarch64-linux-musl",
        wheel_tag=None,
        kernels=_ARM,
        imports={
            "libc.so": ("free", "malloc", "memcpy", "memmove", "memset", "snprintf", "strcmp"),
            "libm.so": ("expf",),
        },
    ),
    "ios-arm64": Platform(
        system="iOS",
        zig="aarch64-ios.13.0",
        wheel_tag=None,
        kernels=_ARM,
        headers="any-darwin-any",
        is_static=True,
    ),
}
WHEELS = tuple(name for name, one in PLATFORMS.items() if one.wheel_tag is not None)
_PROCESSORS = {"amd64": "x86_64", "arm64": "aarch64"}  # other names of the same


def find_platform(name: str) -> Platform:
    """The platform of a name.

    Raises:
        ConfigError: there is none.
    """
    if name not in PLATFORMS:
        raise ConfigError(f"--platform {name}: expected one of {', '.join(PLATFORMS)}")
    return PLATFORMS[name]


def this_platform() -> str:
    """The name of the platform that runs.

    Raises:
        ConfigError: the library is not built for it.
    """
    system, machine = platform.system(), platform.machine().lower()
    processor = _PROCESSORS.get(machine, machine)
    for name, one in PLATFORMS.items():
        if one.system == system and one.zig.startswith(f"{processor}-"):
            return name
    raise ConfigError(
        f"{system} on {machine}: the native library is not built for it, expected one of "
        f"{', '.join(PLATFORMS)}; artifacts run without it"
    )
