"""The driver runs without a network, and opens no file but the artifact's and Python's own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

APART = ("unshare", "--user", "--map-root-user", "--net")
TRACED = ("strace", "--seccomp-bpf", "-f", "-qq", "-y", "-e", "signal=none")
RUN = """
import sys
from tramontane.runtime import Session
print("".join(Session.load(sys.argv[1]).generate("def f(", max_new_tokens=8)))
"""
OPENED = re.compile(r"openat\w*\(.*?, \"(?P<path>.*?)\", (?P<flags>[\w|]+).*\) = \d+")
# The package itself, other packages, Python, the system's libraries, and facts on the machine.
OWN = tuple(
    f"{Path(path).resolve()}/"
    for path in (
        Path(__file__).parents[2],
        sys.prefix,
        sys.base_prefix,
        *sysconfig.get_paths().values(),
        *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share", "/usr/local/lib"),
        *("/etc", "/proc", "/sys", "/dev"),
    )
)


def works(*command: str) -> bool:
    try:
        return not subprocess.run([*command, "true"], capture_output=True, check=False).returncode
    except OSError:
        return False


def said_by(prefix: Sequence[str], code: str, artifact: Path, cwd: Path) -> str:
    done = subprocess.run(
        [*prefix, sys.executable, "-BP", "-c", code, str(artifact)],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "HOME": str(cwd), "LANG": "C.UTF-8"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def opened(calls: Path) -> dict[str, str]:
    """Flags by path of each file that was opened, without those of Python and the system."""
    found = {}
    for line in calls.read_text(encoding="utf-8", errors="replace").splitlines():
        if match := OPENED.search(line):
            path = os.path.realpath(match["path"])
            if not f"{path}/".startswith(OWN):
                found[path] = match["flags"]
    return found


@pytest.fixture(scope="module")
def artifact(embedded_artifact: Callable[[str], Path]) -> Path:
    """The bundled demo model."""
    return embedded_artifact("int8-ort")


@pytest.mark.slow
@pytest.mark.skipif(not works(*APART), reason="no namespace without a network may be made here")
def test_the_driver_says_the_same_without_a_network(artifact: Path, tmp_path: Path) -> None:
    lists = "import socket; print([name for _, name in socket.if_nameindex()])"
    assert said_by(APART, lists, artifact, tmp_path) == "['lo']\n"
    assert said_by(APART, RUN, artifact, tmp_path) == said_by((), RUN, artifact, tmp_path) != ""


@pytest.mark.slow
@pytest.mark.skipif(not works(*TRACED), reason="strace is missing, or may not trace")
def test_the_driver_opens_no_file_outside_the_artifact(artifact: Path, tmp_path: Path) -> None:
    traced = (*TRACED, "-e", "trace=open,openat,openat2,creat,socket", "-o")
    said_by([*traced, str(tmp_path / "calls")], RUN, artifact, tmp_path)
    found = opened(tmp_path / "calls")
    inside = {path for path in found if path.startswith(f"{artifact.resolve()}/")}
    assert set(found) == inside
    assert {Path(path).name for path in inside} >= {"manifest.json", "model.onnx"}
    assert not any(re.search("O_WRONLY|O_RDWR|O_CREAT", found[path]) for path in inside)
    assert "AF_INET" not in (tmp_path / "calls").read_text(errors="replace")


@pytest.mark.slow
@pytest.mark.skipif(not works(*TRACED), reason="strace is missing, or may not trace")
def test_a_file_elsewhere_is_seen(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    reads = f"open({str(tmp_path / 'elsewhere')!r})"
    said_by(
        [*TRACED, "-e", "trace=openat", "-o", str(tmp_path / "calls")], reads, artifact, tmp_path
    )
    assert str((tmp_path / "elsewhere").resolve()) in opened(tmp_path / "calls")
