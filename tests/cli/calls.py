"""Calls of the command in the tests' own process."""

from __future__ import annotations

import pytest
from tramontane.cli import main as cli
from tramontane.console.status import EXIT_BAD_INPUT


def output(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the command prints when it succeeds."""
    assert cli.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the command prints on standard error when it exits with 2."""
    assert cli.main([str(argument) for argument in arguments]) == EXIT_BAD_INPUT
    return capsys.readouterr().err
