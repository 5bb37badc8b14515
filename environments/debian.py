"""Unpacks packages of a distribution without installing them.

apt downloads them into a folder of our own, so no right to install is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import commands


def host() -> str:
    """The distribution's name for this machine's architecture, e.g. ``amd64``.

    Raises:
        Absent: the distribution has no dpkg.
    """
    return commands.run(["dpkg", "--print-architecture"]).strip()


def apt_options(scratch: Path, *architectures: str) -> list[str]:
    """Options that give apt its own lists and downloads, and a system without any package.

    Args:
        scratch: folder that holds them.
        architectures: known to apt; packages are taken from the first.
    """
    (scratch / "status").touch()
    for partial in ("state/lists/partial", "cache/archives/partial"):
        (scratch / partial).mkdir(parents=True, exist_ok=True)
    settings = [
        f"Dir::State={scratch / 'state'}",
        f"Dir::State::status={scratch / 'status'}",
        f"Dir::Cache={scratch / 'cache'}",
        f"APT::Architecture={architectures[0]}",
        *(f"APT::Architectures::={name}" for name in architectures),
        "APT::Sandbox::User=root",  # the user that apt would switch to cannot write here
        "APT::Install-Recommends=false",
    ]
    return ["--yes", *(word for setting in settings for word in ("-o", setting))]


def unpack(packages: Sequence[str], options: list[str], scratch: Path, folder: Path) -> None:
    """Unpack packages and their dependencies, without running their scripts."""
    commands.run(["apt-get", "install", *packages, "--download-only", *options])
    folder.mkdir(parents=True, exist_ok=True)
    for package in sorted((scratch / "cache" / "archives").glob("*.deb")):
        commands.run(["dpkg", "-x", package, folder])
        package.unlink()
