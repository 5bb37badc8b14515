"""Environment variables are read as their types, or refused by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tramontane.console import hints, status
from tramontane.runtime.errors import ConfigError
from tramontane.runtime.untrusted import environment

NAME = "TRAMONTANE_TEST"


def test_a_variable_that_is_not_set_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NAME, raising=False)
    assert not environment.is_set(NAME)
    assert environment.one_of(NAME, ("1",)) == ""
    assert environment.words(NAME, "[A-Z]+", what="names") == []
    assert environment.folder(NAME) is None
    assert environment.command(NAME) == []


def test_variables_are_read_as_their_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "1")
    assert environment.is_set(NAME)
    assert environment.one_of(NAME, ("0", "1")) == "1"
    monkeypatch.setenv(NAME, " OUT  MODEL ")
    assert environment.words(NAME, "[A-Z]+", what="names") == ["OUT", "MODEL"]
    monkeypatch.setenv(NAME, "ccache 'my c++'")
    assert environment.command(NAME) == ["ccache", "my c++"]
    monkeypatch.setenv(NAME, os.fsdecode(b"/a\xff\n"))  # a name that a folder may have
    assert environment.folder(NAME) == Path(os.fsdecode(b"/a\xff\n"))


@pytest.mark.parametrize("value", ["x", "x\n\x1b[31m", "9" * 100_000, os.fsdecode(b"\xff")])
def test_what_is_refused_is_one_short_line(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(NAME, value)
    for read, expected in (
        (lambda: environment.one_of(NAME, ("0", "1")), "expected 0 or 1, or none"),
        (lambda: environment.words(NAME, "[A-Z]+", what="names"), "expected names"),
        (lambda: environment.folder(NAME), "expected the absolute path of a folder"),
    ):
        with pytest.raises(ConfigError) as refused:
            read()
        said = str(refused.value)
        assert said.startswith(f"{NAME}=")
        assert said.endswith(f"{expected}; unset {NAME}")
        assert said.isprintable()
        assert len(said) < 200


@pytest.mark.parametrize(
    ("value", "said"), [("'c++", "No closing quotation, "), ("c++\n\x1b[31m", "")]
)
def test_what_is_no_command_is_refused(
    monkeypatch: pytest.MonkeyPatch, value: str, said: str
) -> None:
    monkeypatch.setenv(NAME, value)
    with pytest.raises(ConfigError, match=f"{NAME}=.*: {said}expected a command .*; unset {NAME}"):
        environment.command(NAME)


def test_a_change_lasts_as_long_as_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NAME, raising=False)
    with environment.changed(NAME, "1"):
        assert os.environ[NAME] == "1"
        with environment.changed(NAME, "2"):
            assert os.environ[NAME] == "2"
        assert os.environ[NAME] == "1"
    assert NAME not in os.environ


@pytest.mark.parametrize(
    ("name", "value"),
    [(hints.CALLER, "nmake"), (hints.OPTIONS, "OUT;rm"), (hints.CALLED_FROM, "here")],
)
def test_a_command_refuses_what_no_makefile_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(hints.CALLER, "make")
    monkeypatch.setenv(name, value)
    assert status.status_of(lambda: 0) == status.EXIT_BAD_INPUT
    said = capsys.readouterr().err
    assert said.startswith(f"tramontane: {name}='{value.partition(' ')[0]}': expected ")
    assert said.count("\n") == 1
