"""A terminal is sent no control characters of files, graphs, models or prompts; a pipe is."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from tramontane.console.terminal import escaped
from tramontane.export.published_tokenizer import sentencepiece_model
from tramontane.runtime import manifest as manifests

from ..project.test_layers import LAYERS, imports
from ..runtime.conftest import write_artifact

EVIL = "\x1b]0;owned\x07\x9b31m\r\x08\u202e"
SHOWN = r"\x1b]0;owned\x07\x9b31m\r\x08\u202e"
VERDICT = """
from tramontane.console.status import status_of
from tramontane.console.rich_console import rich_console
from tramontane.console.progress import say, track
from rich.table import Table
import sys, warnings
EVIL = {evil!r}
def main():
    table = Table("name", "found")
    table.add_row(EVIL + "[link=http://x]y[/link][/z]", "1")
    rich_console(width=120).print(table)
    for _ in track([1, 2], "doing"):
        say("note: " + EVIL)
    warnings.warn(EVIL)
    sys.stdout.writelines([EVIL, "\\n"])
    raise ValueError(EVIL)
sys.exit(status_of(main))
"""


def on_a_terminal(*words: object, term: str = "dumb") -> tuple[int, str]:
    """Status of a process, and what it writes to a terminal, its standard output and error."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": term, "COLUMNS": "200", "PYTHONUTF8": "1"},
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            piece = os.read(ours, 1 << 16)
        except OSError:  # how Linux says that nobody writes any more
            break
        if not piece:
            break
        written += piece
    os.close(ours)
    return process.wait(), written.decode().replace("\r\n", "\n")


def piped(*words: object) -> bytes:
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact whose pieces and names hold what terminals obey."""
    folder = write_artifact(tmp_path_factory.mktemp("evil") / "artifact")
    path = folder / "tokenizer.model"
    proto = sentencepiece_model.parse(path.read_bytes())
    for number, piece in enumerate(proto.pieces):
        if piece.type == sentencepiece_model.KIND.NORMAL:
            piece.piece = f"{EVIL}{number}"
    path.write_bytes(sentencepiece_model.serialize(proto))
    content = json.loads((folder / "manifest.json").read_text("utf-8"))
    del content["manifest_sha256"]
    content["origin"] = {"name": EVIL, "base_model": EVIL}
    content["tools"], content["quant"] = {"tramontane": EVIL}, EVIL
    content["files"]["tokenizer.model"] = manifests.describe_file(path)
    (folder / "manifest.json").write_bytes(manifests._text(content).encode())
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ("run", "ARTIFACT", "--max-new-tokens", "8", "--prompt", f"a{EVIL}"),
        ("inspect", "ARTIFACT"),
        ("card", "ARTIFACT"),
        ("inspect", f"no{EVIL}such"),
        ("inspect", "ARTIFACT", f"--{EVIL}"),
    ],
    ids=["run", "inspect", "card", "message", "usage"],
)
@pytest.mark.slow
def test_a_terminal_is_sent_no_control_characters(artifact: Path, words: tuple[str, ...]) -> None:
    command = [str(artifact) if word == "ARTIFACT" else word for word in words]
    _, written = on_a_terminal("-m", "tramontane", *command)
    assert escaped(written) == written
    assert r"\x1b]0;owned\x07" in written


@pytest.mark.slow
def test_a_pipe_is_sent_what_the_model_wrote(artifact: Path) -> None:
    written = piped("-m", "tramontane", "run", artifact, "--max-new-tokens", "8", "--prompt", "a")
    assert EVIL.encode() in written


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_tables_bars_warnings_and_tracebacks_are_escaped_and_cells_are_no_markup(
    term: str,
) -> None:
    status, written = on_a_terminal("-c", VERDICT.format(evil=EVIL), term=term)
    assert status == 70
    if term == "dumb":
        assert escaped(written) == written
    else:  # rich's own colors and moves are there
        assert [one for one in ("\x1b]", "\x07", "\x9b", "\x08", "\u202e") if one in written] == []
    assert "[link=http://x]y[/link][/z]" in written
    assert f"note: {SHOWN}" in written
    assert f"ValueError: {SHOWN}" in written
    assert written.count("owned") == 6


def test_consoles_of_rich_are_made_in_one_place() -> None:
    root = Path(__file__).parents[2]
    makers = [
        path.relative_to(root).as_posix()
        for layer in LAYERS
        for path in (root / layer).rglob("*.py")
        if any(name.startswith("rich.console.") for name in imports(path))
    ]
    assert makers == ["console/rich_console.py"]
