"""Do the examples in docstrings, in the docs and in --help still hold?"""

from __future__ import annotations

import argparse
import doctest
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tramontane.cli import main as cli

from ..support.clone import Clone

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [ROOT / "CONTRIBUTING.md", ROOT / "examples" / "web" / "README.md"]
MODULES = [
    "tramontane.bench.artifact.speed_table",
    *(
        ".".join(["tramontane", *path.relative_to(ROOT).with_suffix("").parts])
        for layer in ("console", "runtime", "graphs", "export", "validate", "faults")
        for path in sorted((ROOT / layer).rglob("*.py"))
        if path.stem not in ("__init__", "__main__")
    ),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_print_what_they_say(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = importlib.import_module(name)
    if '"ARTIFACT"' in Path(str(module.__file__)).read_text(encoding="utf-8"):
        artifact = request.getfixturevalue("embedded_artifact")("int8-ort")
        (tmp_path / "ARTIFACT").symlink_to(artifact)
        monkeypatch.chdir(tmp_path)
    assert doctest.testmod(module).failed == 0


def commands_in(path: Path) -> list[str]:
    """Lines of a page, and words in backticks, that call make or tramontane."""
    text = path.read_text(encoding="utf-8")
    lines = re.findall(r"^(?:    |)((?:make|tramontane) .+)$", text, re.MULTILINE)
    quoted = re.findall(r"`((?:make|(?:\.venv/bin/)?tramontane) [^`]+)`", text)
    return [re.sub(r"\s+# .*", "", line) for line in [*lines, *quoted]]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_of_a_page_is_one_that_make_and_the_parser_take(
    page: Path, clone: Clone
) -> None:
    for command in commands_in(page):
        if command.startswith("make"):
            calls = clone.pasted(command)
        else:
            calls = [["tramontane", *shlex.split(command)[1:]]]
        for program, *words in calls:
            if program == "tramontane":
                parsed(words)


def parsed(words: list[str]) -> argparse.Namespace:
    """What our parser makes of a command line; --help, and a subcommand's name alone, are fine."""
    if words[-1] == "--help" or words in [[name] for name in subcommands()]:
        return argparse.Namespace()
    return cli.parser().parse_args(words)


def subcommands() -> dict[str, argparse.ArgumentParser]:
    actions = cli.parser()._actions
    found = next(one for one in actions if isinstance(one, argparse._SubParsersAction))
    return dict(found.choices)


def test_the_first_commands_of_the_readme_are_make_export_and_make_run() -> None:
    commands = commands_in(ROOT / "README.md")
    assert commands[:2] == ["make export QUANT=int8", 'make run PROMPT="def fibonacci("']


@pytest.fixture
def furnished(
    clone: Clone, embedded_artifact: Callable[[str], Path], stdlib_5m: Path
) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Run a command line in a clone with the bundled model, and an artifact of it."""
    artifact = embedded_artifact("int8-ort")
    for place, there in (
        ("models/stdlib-5m", stdlib_5m),
        ("artifacts/stdlib-5m-int8-ort", artifact),
        ("artifacts/mine", artifact),
        ("other", artifact / "onnx"),
    ):
        (clone.folder / place).parent.mkdir(exist_ok=True)
        (clone.folder / place).symlink_to(there)
    program = f'#!/bin/sh\nexec {sys.executable} -m tramontane "$@"\n'
    clone.program("tramontane", program)

    def run(line: str) -> subprocess.CompletedProcess[str]:
        path = f"{clone.folder / '.venv' / 'bin'}:/usr/bin:/bin"
        return subprocess.run(
            ["sh", "-c", line.replace("path/to/checkpoint", "models/stdlib-5m")],
            cwd=clone.folder,
            env={"PATH": path, "HOME": os.environ.get("HOME", "/")},
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )

    return run


@pytest.mark.slow
def test_the_fast_commands_of_the_readme_and_of_help_do_what_they_say(
    furnished: Callable[[str], subprocess.CompletedProcess[str]],
) -> None:
    examples = list(cli.EXAMPLES)
    lines = [*commands_in(ROOT / "README.md"), *examples]
    fast = ("make run", "make inspect", "make help", "make card")
    fast += ("tramontane run", "tramontane inspect", "tramontane card")
    ran = [line for line in lines if line.startswith(fast)]
    assert len(ran) >= 10
    for line in dict.fromkeys(ran):
        done = furnished(line)
        assert done.returncode == 0, f"{line}: {done.stderr}"
        assert done.stdout, line


def test_every_example_of_help_names_what_is_there_or_is_made(
    furnished: Callable[[str], subprocess.CompletedProcess[str]],
    clone: Clone,
) -> None:
    made = {"artifacts/stdlib-5m-int8-ort"}
    for line in cli.EXAMPLES:
        args = parsed(shlex.split(line)[1:])
        given = [getattr(args, name, None) for name in ("checkpoint", "artifact", "reference")]
        for path in filter(None, given):
            assert str(path) in made or (clone.folder / path).exists(), line
    printed = furnished("tramontane export models/stdlib-5m --quant int8 --print-out").stdout
    assert {printed.strip()} == made


def test_the_readme_has_the_lines_for_a_machine_without_make() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    assert "python -m venv .venv" in lines
    install, *ours = (line for line in lines if line.startswith(".venv\\Scripts\\python -m"))
    flags = shlex.split(install.replace("\\", "/"))[1:]
    assert flags == ["-m", "pip", "install", "-c", "constraints.txt", "-e", ".[export]"]
    assert (ROOT / "constraints.txt").is_file()
    calls = [shlex.split(line.replace("\\", "/"))[1:] for line in ours]
    assert [words[:3] for words in calls] == [
        ["-m", "tramontane", command] for command in ("export", "run", "validate")
    ]
    export, run, validate = (parsed(words[2:]) for words in calls)
    assert (ROOT / export.checkpoint / "config.json").is_file()
    assert validate.reference == export.checkpoint
    assert run.artifact == validate.artifact == Path("artifacts/stdlib-5m-int8-ort")


def test_every_option_in_help_is_described_with_its_default() -> None:
    for name, parser in subcommands().items():
        for action in parser._actions:
            described = (action.help or "").replace("%(default)s", str(action.default))
            assert len(described.split()) > 1, (name, action.dest)
            if action.option_strings and action.nargs != 0 and action.default is not None:
                assert "(default: " in described, (name, action.dest)


def test_the_script_that_the_docs_show_is_the_one_that_is_run() -> None:
    shown = (ROOT / "docs" / "runtimes.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", shown, re.DOTALL | re.MULTILINE)
    assert (ROOT / "runtime" / "minimal_decode.py").read_text(encoding="utf-8") in blocks
