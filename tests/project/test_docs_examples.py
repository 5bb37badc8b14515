"""Tests of the examples in docs/*.md and examples/web/README.md.

Python runs with artifacts of the bundled demo model. Shell commands go through the real Makefile
and the real option parsers, which stop before any work. JavaScript, YAML and JSON are parsed.
Languages without a compiler here are skipped by name.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "examples" / "web" / "README.md"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
WORKFLOWS = sorted((ROOT / "examples").rglob("*.yml"))
SHELL = {"sh", "bash", "console"}
NOT_COMPILED = {
    language: f"{language}: not compiled here; docs/mobile.md says what was"
    for language in ("java", "kotlin", "csharp", "swift", "c")
}
NOT_RUN = {"java": "needs a JDK", "javac": "needs a JDK"}
PROGRAMS = {"make", "tramontane", "python", ".venv/bin/python", "optimum-cli", *NOT_RUN}
_HERE = re.compile(r"(?P<command>.*) <<'EOF'")
_INLINE = re.compile(r"`((?:make|tramontane|python -m tramontane[^\s`]+) [^`]+)`")
_STUB = f"""#!{sys.executable} -IS
import json, os, sys
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
if "--print-out" in sys.argv:
    print("artifacts/default")
"""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A fenced or indented block, a command or a script of a page."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> Iterator[Example]:
    """Fenced blocks by their language, and indented ones as shell."""
    lines = page.read_text(encoding="utf-8").splitlines()
    language: str | None = None
    held: list[str] = []
    for number, line in enumerate([*lines, ""], start=1):
        if line.startswith("```"):
            if language is not None:
                text = "\n".join(held) + "\n"
                yield Example(page=page, line=number - len(held), language=language, text=text)
            language, held = (line[3:].strip() or "text", []) if language is None else (None, [])
        elif language is not None or line.startswith("    "):
            held.append(line if language is not None else line[4:])
        elif held:
            text = "\n".join(held) + "\n"
            yield Example(page=page, line=number - len(held), language="sh", text=text)
            held = []


def split_shell(block: Example) -> tuple[list[Example], list[Example]]:
    """Commands of a block, a line each, and its Python scripts between EOF marks."""
    commands, scripts = [], []
    lines = list(enumerate(block.text.splitlines(), start=block.line))
    while lines:
        number, line = lines.pop(0)
        while line.endswith("\\"):
            line = line[:-1] + lines.pop(0)[1]
        if here := _HERE.fullmatch(line):
            end = next(at for at, (_, text) in enumerate(lines) if text == "EOF")
            code = "".join(f"{text}\n" for _, text in lines[:end])
            scripts.append(Example(page=block.page, line=number, language="python", text=code))
            line, lines = here["command"], lines[end + 1 :]
        if line.split()[:1] and line.split()[0] in PROGRAMS:
            commands.append(Example(page=block.page, line=number, language="sh", text=line))
    return commands, scripts


def inline(page: Path) -> Iterator[Example]:
    """Commands with arguments in running text, between backticks."""
    text = page.read_text(encoding="utf-8")
    for found in _INLINE.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        words = found[1].replace("\n", " ")
        yield Example(page=page, line=line, language="sh", text=words)


BLOCKS = [block for page in PAGES for block in blocks(page)]
_SHELL = [split_shell(block) for block in BLOCKS if block.language in SHELL]
COMMANDS = [one for commands, _ in _SHELL for one in commands]
COMMANDS += [one for page in PAGES for one in inline(page)]
SCRIPTS = [one for _, scripts in _SHELL for one in scripts]
SCRIPTS += [block for block in BLOCKS if block.language == "python"]
MODULES = [block for block in BLOCKS if block.language == "js"]


class Parsed(BaseException):
    """Raised in place of a command's work; no command catches it."""


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Sequence[str]], None]:
    """Parse words by the options of a module's command, and do no more."""
    whole = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *args: object, **kwargs: object) -> None:
        whole(self, *args, **kwargs)  # type: ignore[call-overload]
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)

    def check(module: str, words: Sequence[str]) -> None:
        command = importlib.import_module(module)
        if not hasattr(command, "main"):
            command = importlib.import_module(f"{module}.__main__")
        monkeypatch.setattr(sys, "argv", [module, *words])
        try:
            command.main()
        except SystemExit as refused:
            if refused.code == 0 and words[-1] == "--help":
                return
            pytest.fail(f"{shlex.join([module, *words])}: refused with {refused.code}")
        except Parsed:
            return
        pytest.fail(f"{module}: parses no options")

    return check


@pytest.fixture
def calls_of_make(tmp_path: Path) -> Callable[[Sequence[str]], list[list[str]]]:
    """Run our Makefile with commands that write down their words and do nothing."""
    folder, calls = tmp_path / "clone", tmp_path / "calls"
    bin_folder = folder / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    if (ROOT / "console").is_dir():
        shutil.copytree(ROOT / "console", folder / "console")
    for name in ("pyproject.toml", "constraints.txt"):
        (folder / name).touch()
    for name in ("tramontane", "python", "ruff", "mypy"):
        (bin_folder / name).write_text(_STUB, encoding="utf-8")
        (bin_folder / name).chmod(0o755)
    (folder / ".venv" / ".ready").touch()

    def run(words: Sequence[str]) -> list[list[str]]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        done = subprocess.run(
            ["make", *words],
            cwd=folder,
            env={**kept, "PWD": str(folder), "CALLS": str(calls)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in calls.read_text(encoding="utf-8").splitlines()]

    return run


def test_every_block_is_checked_or_of_a_language_that_is_skipped_by_name() -> None:
    known = SHELL | NOT_COMPILED.keys() | {"python", "js", "json", "yaml", "text"}
    assert {block.language for block in BLOCKS} <= known
    assert len(COMMANDS) > 20
    assert len(SCRIPTS) >= 3


@pytest.mark.parametrize("example", COMMANDS, ids=str)
def test_every_command_is_one_that_our_parsers_take(
    example: Example,
    parse: Callable[[str, Sequence[str]], None],
    calls_of_make: Callable[[Sequence[str]], list[list[str]]],
) -> None:
    program, *words = shlex.split(example.text, comments=True)
    if program in NOT_RUN:
        pytest.skip(f"{program}: {NOT_RUN[program]}")
    for word in words if program == "make" else ():
        option, given, _ = word.partition("=")
        assert not given or re.search(rf"\b{option}\b", MAKEFILE), f"no target reads {option}"
    calls = calls_of_make(words) if program == "make" else [[Path(program).name, *words]]
    assert calls
    for name, *given in calls:
        match name, *given:
            case "tramontane", *_:
                parse("tramontane.cli.main", given if len(given) > 1 else [*given, "--help"])
            case "optimum-cli", "export", "tramontane", *options:
                parse("tramontane.cli.main", ["export", "checkpoint", *_without_model(options)])
            case "python", "-m", module, *options if module.startswith("tramontane."):
                parse(module, options)
            case "python", "-m", "tramontane", *options:
                parse("tramontane.cli.main", options)
            case "python", "-m", module, *_:
                assert importlib.util.find_spec(module), module
            case "python", "-", *_:
                pass  # its script is run by the next test
            case _:
                pytest.fail(f"{name}: nobody checks it")


def _without_model(words: Sequence[str]) -> list[str]:
    """Our words for ``--model MODEL ... OUT`` of optimum's command."""
    at = words.index("--model")
    *options, out = [*words[:at], *words[at + 2 :]]
    return [*options, "--out", out]


@pytest.mark.slow
@pytest.mark.parametrize("example", SCRIPTS, ids=str)
def test_every_python_script_runs(
    example: Example, embedded_artifact: Callable[[str], Path], tmp_path: Path
) -> None:
    if "import onnxruntime_genai" in example.text:
        pytest.skip("tests/interop/test_genai_tour.py runs it, where onnxruntime-genai is")
    artifact = embedded_artifact("int4-ort")
    arguments: list[str] = []
    if "InferenceSession(sys.argv[1]" in example.text:
        arguments = [str(artifact / "onnx" / "model.onnx"), "session.disable_prepacking=1"]
    elif "sys.argv" in example.text:
        arguments = [str(artifact), "4", "1", "17", "29"]
    path = tmp_path / "example.py"
    text = example.text.replace('"ARTIFACT"', repr(str(artifact)))
    path.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", path, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.skipif(shutil.which("node") is None, reason="no node here")
@pytest.mark.parametrize("example", MODULES, ids=str)
def test_every_module_is_javascript_whose_imports_are_there(
    example: Example, tmp_path: Path
) -> None:
    path = tmp_path / "example.mjs"
    path.write_text(example.text, encoding="utf-8")
    done = subprocess.run(["node", "--check", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    imports = re.findall(r'import \{ (.+) \} from "\./(.+)";', example.text)
    assert imports
    for names, file in imports:
        module = (example.page.parent / file).read_text(encoding="utf-8")
        for name in names.split(", "):
            assert re.search(rf"^export (?:async )?(?:class|function) {name}\b", module, re.M)


@pytest.mark.parametrize("language", sorted(NOT_COMPILED))
def test_what_is_not_compiled_is_skipped_by_name(language: str) -> None:
    assert any(block.language == language for block in BLOCKS)
    pytest.skip(NOT_COMPILED[language])


@pytest.mark.parametrize(
    "example", [block for block in BLOCKS if block.language in ("json", "yaml")], ids=str
)
def test_every_json_and_yaml_parses(example: Example) -> None:
    json.loads(example.text) if example.language == "json" else yaml.safe_load(example.text)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_command_of_a_workflow_is_one_that_our_parsers_take(
    path: Path, parse: Callable[[str, Sequence[str]], None]
) -> None:
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    commands = [shlex.split(step["run"]) for step in steps if "run" in step]
    ours = [words for program, *words in commands if program == "tramontane"]
    assert len(ours) == 2
    for words in ours:
        parse("tramontane.cli.main", words)
