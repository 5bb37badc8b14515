"""Is an error in a command line one line that says what was found and what is expected?"""

from __future__ import annotations

from pathlib import Path

import pytest
import tramontane
from tramontane.cli import main as cli
from tramontane.console import hints

SEE = "; tramontane export --help lists all arguments\n"
REFUSED = [
    (
        [],
        "tramontane: missing arguments, expected COMMAND; tramontane --help lists all arguments\n",
    ),
    (["export"], f"tramontane export: missing arguments, expected CHECKPOINT{SEE}"),
    (
        ["export", "m", "--qant", "int8"],
        f"tramontane export: --qant: unknown argument, expected --quant{SEE}",
    ),
    (["export", "m", "n"], f"tramontane export: n: unknown argument, expected nothing more{SEE}"),
    (
        ["export", "m", "--block", "x"],
        f"tramontane export: --block x: expected a whole number{SEE}",
    ),
    (
        ["export", "m", "--tolerance", "x"],
        f"tramontane export: --tolerance x: expected a number{SEE}",
    ),
    (
        ["export", "m", "--target", "t'p"],
        f"tramontane export: --target t'p: expected one of ort, portable, web{SEE}",
    ),
    (
        ["export", "m", "--quant"],
        f"tramontane export: --quant: no value, expected one argument{SEE}",
    ),
    (["export", "m", "--json=3"], f"tramontane export: --json='3': a value, expected none{SEE}"),
    (
        ["export", "m", "--no-re"],
        "tramontane export: --no-re: several options, expected one of --no-resume, --no-replace"
        f"{SEE}",
    ),
    (
        ["export", "m", "--size", "3GB", "--bits", "2"],
        f"tramontane export: --bits: given with --size, expected one of them{SEE}",
    ),
    (
        ["export", "m", "--window", "a"],
        "tramontane export: --window a: expected a number of tokens, such as 4096, or a pattern by "
        f"layer, such as none,4096{SEE}",
    ),
    (
        ["export", "m", "a\nb"],
        rf"tramontane export: a\nb: unknown argument, expected nothing more{SEE}",
    ),
]


@pytest.mark.parametrize(("words", "expected"), REFUSED, ids=lambda one: str(one)[:40])
def test_a_usage_error_is_one_line(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    assert stopped.value.code == 2
    assert capsys.readouterr() == ("", expected)


def test_an_unknown_command_lists_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["exprot"])
    said = capsys.readouterr().err
    assert said.startswith("tramontane: COMMAND exprot: expected one of export, run, validate,")
    assert said.count("\n") == 1


def test_where_make_calls_the_option_has_its_name_in_make(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(hints.CALLER, "make")
    monkeypatch.setenv(hints.OPTIONS, "BLOCK")
    with pytest.raises(SystemExit):
        cli.main(["export", "m", "--block", "x"])
    assert capsys.readouterr().err == (
        "tramontane export: --block x: expected a whole number; with make, --block is BLOCK=\n"
    )
    monkeypatch.setenv(hints.CALLER, "nobody")
    assert cli.main(["export", "m", "--block", "x"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("tramontane: TRAMONTANE_CALLER='nobody': expected make, or none; ")


def test_every_module_with_an_exit_status_of_ours_parses_its_arguments_so() -> None:
    root = Path(tramontane.__file__).parent
    paths = [
        each for each in root.glob("[a-z]*/**/*.py") if each.parts[len(root.parts)] != "tests"
    ]
    texts = {path: path.read_text(encoding="utf-8") for path in paths}
    own = [path for path, text in texts.items() if "status_of(main" in text]
    assert len(own) > 20
    assert [path for path in own if "argparse.ArgumentParser(" in texts[path]] == []
