"""Do the commands that are printed work when pasted, from where the user is?"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from tramontane.cli import main as cli
from tramontane.console import hints, status

from ..support.clone import Clone

PROMPT = "def fibonacci("


def last_line(text: str) -> str:
    return text.rstrip("\n").splitlines()[-1].strip()


def pasted(line: str, *, cwd: Path, path: str | None = None) -> str:
    """What a line prints, pasted into a shell whose PATH has no tramontane unless it is given."""
    done = subprocess.run(
        ["sh", "-c", line],
        cwd=cwd,
        env={"PATH": path or "/usr/bin:/bin", "HOME": str(cwd)},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def real(clone: Clone) -> Clone:
    """A clone whose tramontane is the real one, with the traces of this run."""
    with_traces = f"PYTHONPATH={shlex.quote(os.environ['PYTHONPATH'])}"
    clone.program(
        "tramontane", f'#!/bin/sh\n{with_traces} exec {sys.executable} -m tramontane "$@"\n'
    )
    return clone


@pytest.fixture
def artifact(embedded_artifact: Callable[[str], Path], tmp_path: Path) -> Path:
    """An artifact whose path has a space and an apostrophe."""
    folder = tmp_path / "it's here" / "an artifact"
    shutil.copytree(embedded_artifact("int8-ort"), folder)
    return folder


@pytest.mark.slow
def test_the_hint_after_make_export_is_a_line_of_make(real: Clone, two_layers: Path) -> None:
    given = [f"MODEL={two_layers}", "OUT=it's an artifact", "NO_VALIDATE=1"]
    for cwd, words in ((real.folder, []), (real.folder.parent, ["-C", str(real.folder)])):
        done = real.make(*words, "export", *given, cwd=cwd)
        assert done.returncode == 0, done.stderr
        hint = next(
            line for line in done.stdout.splitlines() if " run " in line and "OUT" in line
        ).strip()
        assert hint.startswith("make")
        assert "Once upon a time" in pasted(hint, cwd=cwd)
        assert (real.folder / "it's an artifact").is_dir()


@pytest.mark.slow
def test_the_hint_of_the_bare_command_works_on_the_path_or_not(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = sysconfig.get_path("scripts")
    monkeypatch.chdir(tmp_path)
    for path, start in (
        (f"{scripts}:/usr/bin:/bin", "tramontane run "),
        ("/usr/bin:/bin", f"{scripts}/tramontane run "),
    ):
        monkeypatch.setenv("PATH", path)
        hint = hints.suggest("run", OUT=artifact.relative_to(tmp_path), PROMPT=PROMPT)
        assert hint.startswith(start)
        assert PROMPT in pasted(hint, cwd=tmp_path, path=path)


def test_the_hint_where_no_script_is_installed_is_a_module_of_this_python(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.chdir(tmp_path)
    hint = hints.suggest("run", OUT=artifact, PROMPT=PROMPT)
    assert " -m tramontane run " in hint
    assert PROMPT in pasted(hint, cwd=tmp_path)


def test_another_tramontane_on_the_path_is_not_hinted_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "tramontane"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not hints.suggest("run", OUT="a").startswith("tramontane")


def test_a_program_below_the_working_folder_is_named_from_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scripts = Path(sysconfig.get_path("scripts"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(scripts.parent)
    assert hints.suggest("run", OUT="a") == "bin/tramontane run a"
    monkeypatch.chdir(scripts)
    assert hints.suggest("run", OUT="a") == "./tramontane run a"


def test_the_hint_after_synthesize_names_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "it's random"
    assert cli.main(["synthesize", "stdlib-5m", str(out), "--layers", "1"]) == 0
    hint = last_line(capsys.readouterr().out)
    told = pasted(f"{hint} --print-out", cwd=tmp_path)
    assert told == "artifacts/it's random-int8-ort\n"


@pytest.mark.slow
def test_flags_of_a_message_have_the_names_of_make_where_make_calls(
    real: Clone, stdlib_5m: Path
) -> None:
    told = real.make("export", f"MODEL={stdlib_5m}", f"OUT={real.folder}").stderr.splitlines()
    assert f"tramontane: {real.folder}: exists and is not an artifact" in told[0]
    assert told[1] == "tramontane: with make, --out is OUT="


def test_switches_have_their_value_and_what_make_lacks_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert hints.names_in_make("--no-validate") == ""
    monkeypatch.setenv(hints.CALLER, "make")
    monkeypatch.setenv(hints.OPTIONS, "NO_VALIDATE MODEL OUT")
    assert hints.names_in_make("--no-validate or --reference, --dump DIR, --no-validate") == (
        "with make, --no-validate is NO_VALIDATE=1, --reference is MODEL="
    )
    line = hints.suggest("validate", OUT="a b", MODEL="m", EXPLAIN=True)
    assert line == f"make -C {os.getcwd()} validate 'OUT=a b' MODEL=m" or line == (
        "make validate 'OUT=a b' MODEL=m"
    )


@pytest.mark.parametrize("maker", ["", "make"])
def test_a_known_model_without_weights_says_how_to_get_some(
    maker: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(hints.CALLER, maker)
    monkeypatch.setenv(hints.OPTIONS, "GEOMETRY MODEL OUT")
    assert cli.main(["export", "mistral-7b-v0.1"]) == 2
    said = capsys.readouterr().err
    assert "mistral-7b-v0.1: a known model's geometry, without weights; expected a che" in said
    download = "hf download mistralai/Mistral-7B-v0.1 --local-dir models/mistral-7b-v0.1"
    synthesize = (
        "make synthetic GEOMETRY=mistral-7b-v0.1 OUT=artifacts/mistral-7b-v0.1"
        if maker
        else "tramontane synthesize mistral-7b-v0.1 artifacts/mistral-7b-v0.1"
    )
    assert f"{download}, or write random weights: " in said
    assert f"{synthesize}; then name its folder\n" in said
    assert cli.main(["inspect", "mistral-7b-v0.1"]) == 0
    printed = capsys.readouterr().out
    assert "\nweights: none, this is a known model's name; download a model: " in printed
    assert printed.endswith(f"{synthesize}; then name its folder\n")
    (tmp_path / "models" / "mistral-7b-v0.1").mkdir(parents=True)
    assert cli.main(["export", "mistral-7b-v0.1"]) == 2
    assert "; name models/mistral-7b-v0.1\n" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["export", "inspect", "validate"])
def test_a_name_on_the_hub_says_how_to_download_it(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    words = {"validate": ["x.onnx", "--reference"]}.get(command, [])
    assert cli.main([command, *words, "mistralai/Mistral-7B-v0.1"]) == status.EXIT_BAD_INPUT
    told = capsys.readouterr().err
    hint = told.partition("download it: ")[2].partition(", then name models/Mistral-7B-v0.1")[0]
    program, *rest = hint.rsplit(" download ", 1)
    assert rest == ["mistralai/Mistral-7B-v0.1 --local-dir models/Mistral-7B-v0.1"]
    assert "download" in pasted(f"{program} download --help", cwd=tmp_path)
    assert cli.main([command, *words, "models/mistypt"]) == status.EXIT_BAD_INPUT
    assert "download" not in capsys.readouterr().err


def test_an_installation_from_a_clone_a_wheel_or_neither_is_extended_as_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = sys.executable
    clone = tmp_path / "it's a clone"
    clone.mkdir()
    named = f"{tmp_path}/it'\"'\"'s a clone"
    for source, expected in (
        (clone, f"make -C '{named}' dev, or {python} -m pip install -e '{named}[export]'"),
        (tmp_path / "it's.whl", f"{python} -m pip install '{tmp_path}/it'\"'\"'s.whl[export]'"),
        (None, f"from a wheel: {python} -m pip install 'tramontane-0.1.0-py3-none-any.whl"),
    ):
        monkeypatch.setattr(hints, "_source", lambda source=source: source)
        monkeypatch.chdir(tmp_path)
        assert expected in hints.install()
        assert "install 'tramontane[export]'" not in hints.install()


@pytest.mark.parametrize(
    ("noted", "expected"),
    [
        ('{"url": "file:///"}', Path("/")),
        ('{"url": "https://example.org"}', None),
        ('{"url": "http://[x"}', None),
        ('{"url": 5}', None),
        ("[]", None),
        ("{", None),
        ("", None),
    ],
)
def test_what_pip_noted_of_an_installation_may_be_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noted: str, expected: Path | None
) -> None:
    class Installed:
        def read_text(self, _: str) -> str:
            return noted

    monkeypatch.setattr(hints, "__file__", str(tmp_path / "console" / "hints.py"))
    monkeypatch.setattr(metadata, "distribution", lambda _: Installed())
    assert hints._source() == expected
