"""No command of ours opens a network connection, looks a name up, or leaves a device id at home."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

# Loaded by every Python process, as it is first on PYTHONPATH: notes what asks for the network.
WATCH = """
import os, sys
def note(event, arguments):
    looks_up = event in ("socket.getaddrinfo", "socket.gethostbyname")
    connects = event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple)
    if looks_up or connects:  # an address that is no tuple is a path: AF_UNIX
        with open(os.environ["WATCHED"], "a") as file:
            print(event, arguments, file=file)
sys.addaudithook(note)
"""
TRACED = ("strace", "--seccomp-bpf", "-f", "-qq")
APART = ("unshare", "--user", "--map-root-user", "--net")
# What libraries keep of their own work: fonts, and what a run of the reference made.
KEPT = (".cache/tramontane/", ".cache/matplotlib/", ".config/matplotlib/")


@functools.cache
def _works(*command: str) -> bool:
    return (
        shutil.which(command[0]) is not None
        and subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    )


@dataclass(kw_only=True)
class Room:
    """A fresh home without a network, and what was seen in it."""

    folder: Path
    status: int = 0
    said: str = ""

    def run(self, *words: object) -> None:
        """Run a Python command with nothing of our environment but where Python is."""
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "USERPROFILE": str(self.home),
            "PYTHONPATH": str(self.folder / "watch"),
            "WATCHED": str(self.folder / "asked.txt"),
        }
        if sys.platform == "win32":
            variables["SYSTEMROOT"] = os.environ["SYSTEMROOT"]
        traced = (*TRACED, "-A", "-e", "trace=socket", "-e", "signal=none", "-o", str(self.calls))
        done = subprocess.run(
            [
                *(APART if _works(*APART) else ()),
                *(traced if _works(*TRACED) else ()),
                sys.executable,
                *map(str, words),
            ],
            env=variables,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        self.status, self.said = done.returncode, done.stdout + done.stderr

    @property
    def home(self) -> Path:
        """The home folder."""
        return self.folder / "home"

    @property
    def calls(self) -> Path:
        """The system calls that were traced."""
        return self.folder / "calls.txt"

    def left_at_home(self) -> list[str]:
        """Files that nobody needs to find there."""
        found = (path.relative_to(self.home) for path in self.home.rglob("*") if path.is_file())
        return [path.as_posix() for path in found if not path.as_posix().startswith(KEPT)]

    def asked(self) -> list[str]:
        """What Python or a library below it asked of the network."""
        lines = []
        for path in (self.folder / "asked.txt", self.calls):
            if path.is_file():
                lines += path.read_text().splitlines()
        return [line for line in lines if "socket(AF_UNIX" not in line]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Room]:
    """A fresh room at each call."""

    def make() -> Room:
        made = Room(folder=tmp_path_factory.mktemp("room"))
        made.home.mkdir()
        (made.folder / "watch").mkdir()
        (made.folder / "watch" / "sitecustomize.py").write_text(WATCH)
        return made

    return make


# Runs commands one after the other, in one process: what it imports and traces, it does so once.
RUN_ALL = """
import json, sys
from tramontane.cli.main import main
for words in json.loads(sys.argv[1]):
    if main(words):
        sys.exit(f"failed: {words}")
"""


def commands(checkpoint: Path) -> list[Sequence[object]]:
    """Every subcommand, on the results of those before."""
    return [
        ("export", checkpoint, "--quant", "fp32", "--out", "out"),
        ("export", checkpoint, "--quant", "int8-dynamic", "--out", "bytes", "--no-validate"),
        ("inspect", checkpoint),
        ("inspect", "out"),
        ("inspect", "out/onnx/model.onnx"),
        ("card", "out"),
        ("run", "out", "--prompt", "def ", "--max-new-tokens", "4"),
        ("validate", "out", "--reference", checkpoint, "--report", "report"),
        ("bench", "out", "--rounds", "1"),
        ("synthesize", "stdlib-5m", "random", "--layers", "1"),
    ]


@pytest.mark.slow
def test_no_command_asks_the_network_or_leaves_an_id(
    tiny_checkpoint: Callable[..., Path], room: Callable[[], Room]
) -> None:
    at = room()
    words = commands(tiny_checkpoint(num_hidden_layers=1, sliding_window=16))
    at.run("-c", RUN_ALL, json.dumps(words, default=str))
    assert at.left_at_home() == []
    assert at.asked() == []
    assert at.status == 0, at.said


@pytest.mark.parametrize("said", [{}, {"ORT_DISABLE_TELEMETRY": ""}], ids=["unset", "empty"])
def test_telemetry_is_off_before_anything_else_is_imported(said: dict[str, str]) -> None:
    code = "import os, tramontane; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    variables = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"} | said
    found = subprocess.check_output([sys.executable, "-c", code], env=variables, text=True)
    assert found == "1\n"


def test_an_id_at_home_is_seen(room: Callable[[], Room]) -> None:
    at = room()
    at.run("-c", "import onnxruntime")
    assert any("onnxruntime" in name for name in at.left_at_home())


def test_a_look_up_and_a_connection_are_seen(room: Callable[[], Room]) -> None:
    at = room()
    at.run("-c", "import socket; socket.getaddrinfo('localhost', 1)")
    assert any("getaddrinfo" in line for line in at.asked())
    at = room()
    at.run("-c", "import socket; socket.socket().connect_ex(('127.0.0.1', 1))")
    assert any("socket.connect" in line for line in at.asked())


@pytest.mark.skipif(not _works(*TRACED), reason="strace is not here, or may not")
def test_a_connection_below_python_is_seen(room: Callable[[], Room]) -> None:
    at = room()
    at.run("-c", "import ctypes; ctypes.CDLL(None).socket(2, 1, 0)")
    assert any("AF_INET" in line for line in at.asked())


@pytest.mark.slow
def test_a_card_is_rendered_without_onnxruntime() -> None:
    code = (
        "import sys; from tramontane.export.sidecars.card import render_card\n"
        "assert 'onnxruntime' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
