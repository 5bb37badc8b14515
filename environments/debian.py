"""Unpacks packages of a distribution without installing them.

Fetched by apt into folders of its own and unpacked, so no right to install is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import commands


def host() -> str:
    """The distribution's name of this machine's processor.

    Raises:
        Absent: the distribution is of another kind.
    """
    return commands.run(["dpkg", "--print-architecture"]).strip()


def apt_options(scratch: Path, *architectures: str) -> list[str]:
    """Options for lists and downloads of its own, and for a system that holds nothing yet.

    Args:
        scratch: where they are kept.
        architectures: to know of; packages are of the first.
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
        "APT::Sandbox::User=root",  # the one it would change to cannot write here
        "APT::Install-Recommends=false",
    ]
    return ["--yes", *(word for setting in settings for word in ("-o", setting))]


def unpack(packages: Sequence[str], options: list[str], scratch: Path, folder: Path) -> None:
    """Unpack packages and all that they depend on, without running anything of theirs."""
    commands.run(["apt-get", "install", *packages, "--download-only", *options])
    folder.mkdir(parents=True, exist_ok=True)
    for package in sorted((scratch / "cache" / "archives").glob("*.deb")):
        commands.run(["dpkg", "-x", package, folder])
        package.unlink()
