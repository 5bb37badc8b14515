"""Do options reach commands as they were typed, and does ``make help`` explain all of them?"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from tramontane.cli import main as cli
from tramontane.console.make_help import Makefile, describe, describe_target

from ..support.clone import ROOT, Clone

MAKEFILE = Makefile((ROOT / "Makefile").read_text(encoding="utf-8"))
TARGETS = [target for targets in MAKEFILE.groups.values() for target in targets]
# Their recipes run no command that takes options.
WITHOUT_OPTIONS = {"help", "dev", "dist", "test", "test-fast", "lint", "types", "clean"}
SWITCHES = {"NATIVE", "THOROUGH", "NO_VALIDATE", "NO_RESUME", "NO_REPLACE"}
LISTS = {
    ("interop", "ONLY"),
    ("interop", "REQUIRE"),
    ("bench-peers", "ONLY"),
    ("bench-quality", "ONLY"),
    ("native-wheels", "ONLY"),
    ("native-platforms", "ONLY"),
    ("gguf", "ONLY"),
    ("bench-peers", "PREFILL"),
    ("bench-peers", "DECODE"),
    ("bench-export", "LAYERS"),
    ("bench-export", "QUANTS"),
    ("sweep", "MODELS"),
    ("sweep", "QUANTS"),
    ("sweep", "TARGETS"),
}
REPEATED = {"ADAPTER", "CALIBRATION_TEXT"}  # lists whose words are each given with the flag
WORD = 'it\'s$5$(HOME)$$"q"#\\;&|*?~`id`{a,b}%=:<>!'
TEXT = f"{WORD}  two spaces, a trailing backslash\\\nand\ta second line\\"


def typed(target: str) -> dict[str, str]:
    """A value for each option of a target that no shell and no make leaves alone."""
    values = {}
    for name in MAKEFILE.options_of(target):
        is_list = (target, name) in LISTS or name in REPEATED
        values[name] = "1" if name in SWITCHES else f"{name}{WORD if is_list else TEXT}"
    return {name: value for name, value in values.items() if name != "PYTHON"}


def lost(target: str, values: dict[str, str], calls: list[list[str]]) -> list[str]:
    """Options whose value is in no call."""
    words = [word for call in calls for word in call]
    return [
        name
        for name, value in values.items()
        if (
            f"--{name.lower().replace('_', '-')}" not in words
            if name in SWITCHES
            else not any(value in word for word in words)
        )
    ]


@pytest.mark.parametrize("target", sorted(set(TARGETS) - WITHOUT_OPTIONS))
def test_every_option_reaches_its_command_as_it_was_typed(clone: Clone, target: str) -> None:
    values = typed(target)
    assert values
    if "SHARED" in values:
        (clone.folder / values["SHARED"] / "models" / "stories15M").mkdir(parents=True)
    unnamed = {name: value for name, value in values.items() if name != "OUT"}
    for given in (values, unnamed):  # where OUT is given, its name is not asked for
        assert clone.make(target, *(f"{n}={v}" for n, v in given.items())).returncode == 0
    assert lost(target, values, clone.calls()) == []
    for given in (values, unnamed):
        assert clone.make(target, env=given).returncode == 0
    assert lost(target, values, clone.calls()) == []


@pytest.mark.parametrize(("target", "key"), [("sign", "key.pem"), ("verify", "key.pub")])
def test_a_signature_has_a_default_key(clone: Clone, target: str, key: str) -> None:
    assert clone.make(target).returncode == 0
    assert f"--key={key}" in clone.calls()[-1]


def test_an_option_of_two_lines_is_explained_whole() -> None:
    explained = MAKEFILE.options_of("export")["SCHEDULER"]
    assert explained.endswith("or local:N for N processes (default: this process)")


def test_only_make_itself_drops_a_space_before_a_value_and_not_from_the_environment(
    clone: Clone,
) -> None:
    prompt = "    return "
    assert f"--prompt={prompt}" in clone.called(["run"], env={"PROMPT": prompt})[0]


@pytest.mark.parametrize(("target", "option"), sorted(LISTS))
def test_a_list_is_cut_into_words_and_no_further(clone: Clone, target: str, option: str) -> None:
    call = clone.called([target, f"{option}={WORD}1  *"])[-1]
    assert [word for word in call if word in (f"{WORD}1", "*")] == [f"{WORD}1", "*"]


@pytest.mark.parametrize("target", ["export", "inspect", "validate"])
def test_each_word_of_adapters_is_given_with_the_flag(clone: Clone, target: str) -> None:
    call = clone.called([target, f"ADAPTER={WORD}1  *"])[-1]
    found = [word for word in call if word.startswith("--adapter")]
    assert found == [f"--adapter={WORD}1", "--adapter=*"]


def test_a_switch_of_zero_is_off(clone: Clone) -> None:
    assert "--no-validate" not in clone.called(["export", "NO_VALIDATE=0"])[0]
    assert "--no-validate" in clone.called(["export", "NO_VALIDATE=1"])[0]


def test_options_of_one_target_have_their_own_defaults(clone: Clone) -> None:
    assert "--target=web" in clone.called(["web"])[0]
    assert "--target=ort" in clone.called(["web", "TARGET=ort"])[0]
    assert "--geometry=mistral-7b-v0.1" in clone.called(["bench-export"])[0]
    assert clone.called(["synthetic", "LAYERS=2"])[0][:4] == [
        "tramontane",
        "synthesize",
        "stdlib-5m",
        "artifacts/stdlib-5m-2-layers",
    ]


@pytest.mark.parametrize("target", ["run", "card", "validate", "reduced", "bench", "web"])
def test_the_artifact_that_is_not_named_is_the_one_that_export_names(
    clone: Clone, target: str
) -> None:
    assert any("artifacts/default" in call for call in clone.called([target]))


def test_the_name_is_asked_for_with_every_option_that_it_is_made_of(clone: Clone) -> None:
    clone.program("tramontane", '#!/bin/sh\n[ "$1" = export ] && echo "$@" >&2\n')
    given = ["QUANT=int4", "TARGET=portable", "WINDOW=8", "BLOCK=32", "CACHE=growing", "KV=int8"]
    words = clone.make("card", *given).stderr
    options = "--quant=int4 --target=portable --window=8 --block=32 --cache=growing --kv=int8"
    assert f"export models/stdlib-5m {options} --print-out" in words


@pytest.mark.parametrize("target", sorted(set(TARGETS) - {"help", "dev", "clean"}))
def test_every_command_line_is_one_that_the_command_takes(clone: Clone, target: str) -> None:
    calls = clone.called([target])
    assert calls
    for program, *words in calls:
        if program == "tramontane":
            cli.parser().parse_args(words)
        elif program == "python":
            assert words[0] == "-m"
            found = importlib.util.find_spec(words[1])
            assert found is not None, words[1]


def test_every_flag_of_a_module_is_one_that_it_knows(clone: Clone) -> None:
    for target in sorted(set(TARGETS) - WITHOUT_OPTIONS):
        given = [f"{name}=1" for name in MAKEFILE.options_of(target) if name != "PYTHON"]
        for program, *words in clone.called([target, *given]):
            if program != "python":
                continue
            path = ROOT.joinpath(*words[1].split(".")[1:])
            path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
            text = path.read_text(encoding="utf-8")
            flags = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert {flag for flag in flags if f'"{flag}"' not in text} == set(), target


def test_make_alone_prints_every_target_once_in_a_group(clone: Clone) -> None:
    printed = clone.make().stdout
    assert printed == clone.make("help").stdout == f"{describe(MAKEFILE)}\n"
    assert re.findall(r"^([a-z ]+):$", printed, re.MULTILINE) == [
        "start here",
        "use",
        "prove",
        "measure",
        "develop",
    ]
    listed = re.findall(r"^  ([a-z-]+)  +\S", printed, re.MULTILINE)
    rules = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(set(rules))


@pytest.mark.parametrize("target", TARGETS)
def test_a_targets_help_explains_every_option_that_it_reads_in_a_line(target: str) -> None:
    assert max(map(len, describe(MAKEFILE).splitlines())) <= 99
    printed = describe_target(MAKEFILE, target).splitlines()
    assert max(map(len, printed)) <= 99
    recipe = MAKEFILE.recipes[target] or MAKEFILE.recipes["$(READY)"]  # of dev
    for _ in range(4):
        recipe = re.sub(r"\$\(([a-z-]+)\)", lambda m: MAKEFILE.macros.get(m[1], ""), recipe)
    read = set(re.findall(r"\$\$\{?([A-Z_]+)|\((?:call \w+,|if )(?:\$\()?([A-Z_]+)", recipe))
    names = {name for pair in read for name in pair if name}
    explained = {line.split("=")[0].strip(): line for line in printed[1:]}
    assert names == {name for name in explained if name.isupper()}
    assert all(
        len(line.split("=", 1)[1].split()) > 1 for line in explained.values() if "=" in line
    )


def test_every_option_that_is_explained_is_read_by_a_target() -> None:
    read = {(name, target) for target in TARGETS for name in MAKEFILE.options_of(target)}
    for name, target in MAKEFILE.options:
        assert (name, target) in read or (not target and name in {one for one, _ in read}), name


REFUSED = [
    ("export QANT=int8", "make export: unknown option QANT=, expected QUANT=; make help-export"),
    ("export quant=int8", "make export: unknown option quant=, expected QUANT=; make help-export"),
    ("sweep MODEL=x", "make sweep: it has no option MODEL=, expected MODELS=; make help-sweep"),
    ("sweep QUANT=x", "make sweep: it has no option QUANT=, expected QUANTS=; make help-sweep"),
    ("card -j2 zebra=1 MODEL=x", "make card: unknown option zebra=; make help-card"),
    ("lint types ONLY=x", "make lint types: it has no option ONLY=; make help-lint"),
]


@pytest.mark.parametrize(("typed", "expected"), REFUSED)
def test_an_option_that_would_be_ignored_ends_make(
    clone: Clone, typed: str, expected: str
) -> None:
    done = clone.make(*typed.split())
    assert done.returncode == 2
    assert f"*** {expected} lists its options.  Stop.\n" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (clone.folder / "calls").exists()


def test_an_option_is_of_any_target_of_a_call_and_other_programs_keep_their_variables(
    clone: Clone,
) -> None:
    given = ["KEY=k", "PYTHON=python3", "SHELL=/bin/sh", "CXX=c++", "CFLAGS=-O2", "HF_HOME=h"]
    given += [
        "PIP_INDEX_URL=p",
        "PYTHONPATH=.",
        "TMPDIR=/tmp",
        "https_proxy=s",
        "OMP_NUM_THREADS=1",
    ]
    assert clone.make("card", "sign", *given).returncode == 0
    assert clone.make("dev", "PYTHON=python3").returncode == 0
    assert clone.make("card", env={"QANT": "int8", "KEY": "k"}).returncode == 0


def test_a_name_that_the_shell_would_read_is_refused_unread(clone: Clone) -> None:
    done = clone.make("card", "it's;touch$(x)=1")
    assert done.returncode == 2
    assert "unknown option it's;touch" in done.stderr
    assert not (clone.folder / "x").exists()


def test_help_of_one_target_and_of_none(clone: Clone) -> None:
    assert "QUANT=" in clone.make("help-export").stdout
    assert "(default: int8)" in clone.make("help-export").stdout
    unknown = clone.make("help-exprot")
    assert unknown.returncode == 2
    assert "no such target, expected one of bench," in unknown.stdout


PIP = """#!/bin/sh
echo '  Installing build dependencies: started'
echo 'Collecting torch<3 (from tramontane==0.1.0)'
echo '  Downloading torch-2.13.0.whl (180 MB)'
echo 'Requirement already satisfied: numpy'
echo 'Installing collected packages: torch, and a hundred more'
echo 'WARNING: a setting of the user' >&2
exit {status}
"""


def test_the_first_run_says_how_large_it_is_and_keeps_warnings_to_its_log(clone: Clone) -> None:
    (clone.folder / ".venv" / ".ready").unlink()
    clone.program("python", PIP.format(status=0))
    done = clone.make("card")
    assert done.returncode == 0
    assert "GB to download" in done.stdout
    assert "  Collecting torch<3\n  Downloading torch-2.13.0.whl (180 MB)\n" in done.stdout
    assert "  Installing them, a minute or so\n" in done.stdout
    assert "WARNING" not in done.stdout + done.stderr
    assert "Requirement" not in done.stdout
    assert "dependencies" not in done.stdout
    log = clone.folder / ".venv" / "install.log"
    assert "WARNING: a setting of the user" in log.read_text()
    assert clone.calls()
    assert "GB to download" not in clone.make("card").stdout


def test_an_installation_that_fails_shows_its_last_lines_and_names_its_log(clone: Clone) -> None:
    ready = clone.folder / ".venv" / ".ready"
    ready.unlink()
    clone.program("python", PIP.format(status=1))
    done = clone.make("card")
    assert done.returncode == 2
    assert "WARNING: a setting of the user" in done.stdout
    assert "the installation failed; its whole log is .venv/install.log" in done.stdout
    assert not ready.exists()


def test_a_python_that_is_too_old_is_named(clone: Clone) -> None:
    (clone.folder / ".venv" / ".ready").unlink()
    old = clone.folder / "python 3.10"
    old.write_text("#!/bin/sh\necho 'Python 3.10, expected 3.11 or newer' >&2; exit 1\n")
    old.chmod(0o755)
    done = clone.make("card", f"PYTHON={old}")
    assert done.returncode == 2
    assert "expected 3.11 or newer" in done.stderr
    assert not Path(clone.folder / ".venv" / ".ready").exists()
