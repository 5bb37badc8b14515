"""Has every end of a command its own exit status, and every output its characters?"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import requires
from pathlib import Path

import pytest
from tramontane.cli import main as cli
from tramontane.cli.commands import card
from tramontane.console import status, streams
from tramontane.runtime import errors
from tramontane.runtime.errors import ConfigError

# Packages of the extra, by the names that are imported.
EXTRA = sorted(
    {"protobuf": "google.protobuf"}.get(name, name.replace("-", "_"))
    for one in requires("tramontane") or []
    if "extra == 'export'" in one.replace('"', "'")
    for name in re.findall(r"^[A-Za-z0-9_-]+", one)
)
_BLOCKED = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if any(name == one or name.startswith(one + ".") for one in {absent!r}):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from tramontane.cli import main as cli
sys.exit(cli.main(sys.argv[1:]))
"""


def run(
    *words: object, code: str | None = None, env: dict[str, str] | None = None, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """The command, in a process of its own, with its output as bytes."""
    start = ["-m", "tramontane"] if code is None else ["-c", code]
    return subprocess.run(
        [sys.executable, *start, *map(os.fsencode, map(str, words))],
        env={**os.environ, **(env or {})},
        input=stdin,
        capture_output=True,
        check=False,
    )


def raising(error: BaseException) -> Callable[[], int]:
    def stage() -> int:
        raise error

    return stage


@pytest.mark.parametrize(
    ("error", "expected", "told"),
    [
        (errors.ParityError("logits: 3 apart"), 1, "tramontane: logits: 3 apart\n"),
        (errors.ConfigError("a: b"), 2, "tramontane: a: b\n"),
        (errors.ContractError("a: b"), 2, "tramontane: a: b\n"),
        (OSError(errno.ENOSPC, "full", "a/b"), 2, "tramontane: a/b: full; make room"),
        (PermissionError(errno.EACCES, "closed", "a/b"), 2, "tramontane: a/b: closed; check who"),
        (
            IsADirectoryError(errno.EISDIR, "a folder", "a\nb"),
            2,
            "tramontane: a\\nb: a folder; name",
        ),
        (OSError(errno.ENAMETOOLONG, "long", "x" * 9999), 2, "tramontane: xxxxx"),
        (OSError(errno.EROFS, "no", "a", None, "b"), 2, "tramontane: a to b: no; check who may"),
        (OSError(errno.ENOSPC, "full"), 2, "tramontane: a file or standard output: full; make r"),
        (MemoryError(), 2, "tramontane: out of memory"),
        (
            type("PanicException", (BaseException,), {})("index\n1"),
            2,
            r"tramontane: tokenizer.json: the package tokenizers cannot run it (index\n1)",
        ),
        (KeyboardInterrupt(), 130, "\ntramontane: interrupted\n"),
        (ValueError("a bug"), 70, "tramontane: this is a bug: please report it"),
        (AssertionError(), 70, "tramontane: this is a bug: please report it"),
        (ModuleNotFoundError("no", name="tramontane.none"), 70, "tramontane: this is a bug"),
        (
            ModuleNotFoundError("no", name="no_such_package"),
            2,
            "tramontane: export needs the pack",
        ),
    ],
)
def test_each_error_has_its_status_and_its_words(
    error: BaseException, expected: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status.status_of(raising(error), name="export") == expected
    assert expected in status.MEANINGS
    printed = capsys.readouterr().err
    assert told in printed
    assert ("Traceback" in printed) == (expected == 70)
    assert expected == 70 or printed.count("\n") <= 2


def test_an_error_is_a_line_of_json_too_where_it_is_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for error in (errors.GraphError("node 3: bad"), ValueError("x")):
        status.status_of(raising(error), as_json=True)
        found = json.loads(capsys.readouterr().out)
        assert found["error"] == type(error).__name__


def test_the_statuses_are_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    printed = capsys.readouterr().out
    for number, meaning in status.MEANINGS.items():
        assert f"{number:<4} {meaning}" in printed


def test_a_bug_in_a_subcommand_is_not_taken_for_parity_that_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(card, "main", lambda _: {}["none"])
    assert cli.main(["card", "x"]) == status.EXIT_BUG
    assert "KeyError: 'none'" in capsys.readouterr().err


@pytest.mark.slow
def test_an_output_that_is_full_is_no_bug(embedded_artifact: Callable[[str], Path]) -> None:
    artifact = embedded_artifact("int8-ort")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tramontane", "card", str(artifact)],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert b"No space left on device; make room" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["card", "{artifact}"],
        ["export", "{model}", "--no-validate"],
        ["inspect", "{model}"],
        ["inspect", "{artifact}/onnx/model.onnx"],
        ["validate", "{artifact}", "--reference", "{model}"],
        ["bench", "{artifact}", "--rounds", "1"],
        ["synthesize", "stdlib-5m", "{out}"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_driver_alone_names_what_is_absent_and_the_command_that_needs_it(
    words: list[str],
    embedded_artifact: Callable[[str], Path],
    stdlib_5m: Path,
    tmp_path: Path,
) -> None:
    places = {
        "artifact": embedded_artifact("int8-ort"),
        "model": stdlib_5m,
        "out": tmp_path / "out",
    }
    given = [word.format(**places) for word in words]
    done = run(*given, code=_BLOCKED.format(absent=EXTRA))
    told = done.stderr.decode()
    assert done.returncode == 2, told
    assert told.count("\n") == 1
    found = re.match(rf"tramontane: tramontane {words[0]} needs the package (\S+),", told)
    assert found is not None, told
    assert found[1] in EXTRA or found[1].partition(".")[0] in EXTRA
    assert "install 'tramontane[export]'" not in told
    assert "[export]" in told


def test_a_driver_alone_decodes_and_describes_an_artifact(
    embedded_artifact: Callable[[str], Path],
) -> None:
    artifact, code = embedded_artifact("int8-ort"), _BLOCKED.format(absent=EXTRA)
    assert run("run", artifact, "x", "--max-new-tokens", "2", code=code).stdout.startswith(b"x")
    assert b"int8 for ort" in run("inspect", artifact, code=code).stdout


ENCODINGS = [
    {"PYTHONIOENCODING": "cp1252"},
    {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]
_TABLE = """
import sys
from tramontane.console.status import status_of
from tramontane.export.parity_labels import PARITY_LABELS
from tramontane.validate.report.summaries import print_verdict
def main():
    figures = {"max_logit_difference": 2.0}
    failed = {"name": "y", "kind": "logits", "figures": figures, "bounds": figures, "failures": ["z"]}
    unmeasured = {"name": "u", "kind": "interface", "figures": {}, "bounds": {}, "failures": ["w"]}
    head = dict.fromkeys(PARITY_LABELS)
    print_verdict({"checks": [failed, unmeasured], "notes": [], "artifact": {"name": "x"}, "headline": head,
                   "tolerance": {"max_kl": 1, "min_agreement": 0}, "passed": False,
                   "explanation": None})
    print(chr(0x2192), chr(0x394))
    return 0
sys.exit(status_of(main))
"""


@pytest.mark.slow
@pytest.mark.parametrize("env", ENCODINGS, ids=lambda env: next(iter(env.values())))
def test_no_output_dies_of_its_encoding(
    env: dict[str, str],
    embedded_artifact: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    artifact = tmp_path / "Δ→é"
    artifact.symlink_to(embedded_artifact("int8-ort"))
    for words in (
        ["run", artifact, "-- Δ", "--max-new-tokens", "2"],
        ["inspect", artifact],
        ["inspect", artifact / "onnx" / "model.onnx"],
        ["card", artifact],
    ):
        done = run(*words, env=env)
        assert done.returncode == 0, done.stderr.decode("latin-1")
        if words[0] == "run" and "LC_ALL" in env:  # bytes are UTF-8 whatever the locale says
            assert done.stdout.startswith("-- Δ".encode())
    absent = run("run", tmp_path / "Δ-absent", "x", env=env)
    assert absent.returncode == 2
    assert b"-absent: no such folder" in absent.stderr


@pytest.mark.parametrize("env", ENCODINGS, ids=lambda env: next(iter(env.values())))
def test_a_character_that_an_encoding_lacks_is_escaped_in_tables_too(env: dict[str, str]) -> None:
    done = run(code=_TABLE, env={"PYTHONUTF8": "0", **env})
    assert done.returncode == 0, done.stderr.decode("latin-1")
    assert b"|\\u0394logit|" in done.stdout
    assert b"nothing measured: u" in done.stdout
    assert b"FAILED: u: w" in done.stdout
    assert b"\\u2192 \\u0394" in done.stdout


def test_an_artifact_whose_name_is_not_utf8_is_refused_or_described(
    embedded_artifact: Callable[[str], Path], tmp_path: Path
) -> None:
    artifact = tmp_path / os.fsdecode(b"not\xfftext")
    artifact.symlink_to(embedded_artifact("int8-ort"))
    done = run("run", artifact, "x")
    assert done.returncode == 2
    assert b"not\xfftext/onnx/model.onnx: its name is not UTF-8" in done.stderr
    assert run("inspect", artifact).returncode == 0


@pytest.mark.slow
def test_a_byte_of_a_file_name_comes_out_as_that_byte(tmp_path: Path) -> None:
    name = os.fsdecode(b"not\xfftext")
    for env in [{"PYTHONIOENCODING": "utf-8"}, *ENCODINGS]:
        done = run("run", tmp_path / name, "x", env=env)
        assert b"not\xfftext: no such folder" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("tramontane.faults", ["--only", "Δ no such"]),
        ("tramontane.bench.pages.performance", ["Δ-none", "--out", "x"]),
        ("tramontane.interop", ["Δ-none", "--only", "Δ"]),
    ],
)
def test_other_mains_have_the_same_end(module: str, words: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert b"\\u0394" in done.stderr


def test_a_prompt_that_is_not_utf8_is_one_clear_line(
    embedded_artifact: Callable[[str], Path],
) -> None:
    artifact = embedded_artifact("int8-ort")
    for words in (["a\udcffb"], ["--prompt", "a\udcffb"]):
        done = run("run", artifact, *words)
        assert done.returncode == 2
        assert done.stderr.startswith(b"tramontane: the prompt: byte 0xff at character 1 is not")
        assert done.stderr.count(b"\n") == 1
    done = run("run", artifact, stdin=b"ab\xe9")
    assert done.returncode == 2
    assert done.stderr.startswith(
        b"tramontane: standard input: byte 0xe9 at offset 2 is not UTF-8"
    )
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("module", ["tramontane", "tramontane.cli.main"])
def test_python_m_runs_the_command(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "tramontane 0.1.0\n"


_COMMAND = [sys.executable, "-m", "tramontane", "inspect", "mistral-7b-v0.1"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_full_standard_output_is_one_line_of_error(options: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*_COMMAND, *options], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr.startswith("tramontane: a file or standard output: No space left")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("is_buffered", [True, False])
@pytest.mark.parametrize(
    "words",
    [
        *("tramontane --help", "tramontane run --help", "tramontane --version"),
        *("tramontane synthesize --list", "tramontane.native.build --help"),
    ],
)
def test_help_into_a_full_or_closed_output_is_as_any_output(words: str, is_buffered: bool) -> None:
    command = [sys.executable, "-m", *words.split()]
    env = {**os.environ, "PYTHONUNBUFFERED": "" if is_buffered else "1"}
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=env
        )
    assert done.returncode == 2
    assert done.stderr.startswith("tramontane: a file or standard output: No space left")
    assert done.stderr.count("\n") == 1
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as unread:
        done = subprocess.run(
            command, stdout=unread, stderr=subprocess.PIPE, text=True, check=False, env=env
        )
    assert (done.returncode, done.stderr) == (141, "")


def test_a_table_that_nobody_reads_ends_quietly() -> None:
    with subprocess.Popen(_COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        command.stdout.close()
        assert command.stderr.read() == b""
    assert command.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("stdout", [subprocess.PIPE, "/dev/full"])
@pytest.mark.parametrize("words", [["inspect", "no such model"], ["nosuch"], ["run", "--nosuch"]])
def test_a_full_standard_error_leaves_the_exit_status(stdout: int | str, words: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*_COMMAND[:3], *words],
            stdout=full if stdout == "/dev/full" else subprocess.PIPE,
            stderr=full,
            check=False,
        )
    assert done.returncode == 2
    assert not done.stdout


@pytest.mark.skipif(os.name != "posix", reason="descriptors are closed so by a Unix shell")
def test_closed_streams_are_no_files() -> None:
    program = (
        "from tramontane.console.status import complain\n"
        "from tramontane.console.streams import accept_any_text\n"
        "accept_any_text()\n"
        "complain('nobody reads this')\n"
        "print('nor this')\n"
        "file = open('/dev/null')\n"
        "raise SystemExit(file.fileno())\n"
    )
    for closed in ("<&- >&- 2>&-", ">&- 2>&-", "2>&-"):
        command = f"{shlex.quote(sys.executable)} -c {shlex.quote(program)} {closed}"
        done = subprocess.run(command, shell=True, stdout=subprocess.PIPE, check=False)
        assert done.returncode > 2
        assert b"nobody" not in done.stdout


def test_a_prompt_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_MOST_BYTES", 10)
    for read in (streams.read_standard_input, lambda: list(streams.read_lines())):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x" * 11)))
        with pytest.raises(ConfigError, match="standard input: is larger than 10 B, expected"):
            read()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x" * 10)))
        assert "".join(read()) == "x" * 10
