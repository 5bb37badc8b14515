"""Tests of wheel and sdist: the same commit gives the same bytes, which can be installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from tramontane.deploy.distributions import build
from tramontane.runtime.errors import ConfigError

PROJECT = """[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "tiny"
version = "1"
[tool.setuptools]
packages = ["tiny"]
script-files = ["tool"]
"""


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository of one commit, as small as a package can be."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    folder = tmp_path / "project"
    (folder / "tiny").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "tiny" / "__init__.py").write_text('"""Tiny."""\n')
    (folder / "tool").write_text("#!/bin/sh\n")
    (folder / "tool").chmod(0o755)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "One")
    return folder


def built_elsewhere(source: Path, folder: Path, *, umask: int) -> list[bytes]:
    """Wheel and sdist of a clone in another folder, whose files have other times and modes."""
    before = os.umask(umask)
    try:
        git(source, "clone", "-q", str(source), str(folder))
        for number, path in enumerate(sorted(folder.rglob("*"))):
            if ".git" not in path.relative_to(folder).parts:
                os.utime(path, (number * 10**6 * umask, number * 10**6 * umask))
        (folder / "of-nobody.txt").write_text("not in the commit")
        return [path.read_bytes() for path in build(folder, folder / "out")]
    finally:
        os.umask(before)


@pytest.mark.slow
def test_the_same_commit_gives_the_same_bytes(project: Path, tmp_path: Path) -> None:
    one = built_elsewhere(project, tmp_path / "one", umask=0o022)
    two = built_elsewhere(project, tmp_path / "deep" / "er" / "two", umask=0o077)
    assert one == two
    with zipfile.ZipFile(tmp_path / "one" / "out" / "tiny-1-py3-none-any.whl") as wheel:
        modes = {info.filename: info.external_attr >> 16 for info in wheel.infolist()}
        assert len({info.date_time for info in wheel.infolist()}) == 1
        assert wheel.namelist()[-1] == "tiny-1.dist-info/RECORD"
    assert modes["tiny/__init__.py"] == 0o100644
    assert modes["tiny-1.data/scripts/tool"] == 0o100755
    with tarfile.open(tmp_path / "one" / "out" / "tiny-1.tar.gz") as sdist:
        members = sdist.getmembers()
    assert {(one.uid, one.gid, one.uname, one.gname) for one in members} == {(0, 0, "", "")}
    assert len({one.mtime for one in members}) == 1
    (project / "tiny" / "__init__.py").write_text('"""Other."""\n')
    git(project, "commit", "-qam", "Two")
    assert built_elsewhere(project, tmp_path / "three", umask=0o022) != one


@pytest.mark.slow
def test_our_own_wheel_is_reproducible_and_can_be_installed(tmp_path: Path) -> None:
    source = Path(__file__).parents[2]
    if not (source / ".git").exists() or shutil.which("git") is None:
        pytest.skip("no clone")
    one = built_elsewhere(source, tmp_path / "one", umask=0o022)
    assert built_elsewhere(source, tmp_path / "two", umask=0o027) == one
    (wheel,) = (tmp_path / "one" / "out").glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "-q", "--target"]
    subprocess.run([*pip, tmp_path / "installed", wheel], check=True)
    done = subprocess.run(
        [sys.executable, "-m", "tramontane", "--version"],
        cwd=tmp_path / "installed",
        check=True,
        capture_output=True,
    )
    assert done.stdout.startswith(b"tramontane ")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if "of-nobody" in name]
        assert "tramontane/py.typed" in archive.namelist()  # for type checkers of apps


def test_a_folder_that_is_no_clone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"git -C .* expected 0; build in a clone, where git"):
        build(tmp_path, tmp_path / "out")
