"""Tests of the options that several subcommands share."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from tramontane.cli import flags
from tramontane.cli import main as cli
from tramontane.console import status
from tramontane.export.options import (
    ExportOptions,
)
from tramontane.graphs.quantization.weight_formats import format_names
from tramontane.graphs.targets.known import TARGETS
from tramontane.validate import tolerance

from .calls import refusal


def test_defaults_are_those_of_the_stages() -> None:
    defaults = flags.RECIPE_DEFAULTS
    required = {"quant": defaults["quant"], "target": defaults["target"]}
    assert ExportOptions(**required) == ExportOptions(**defaults)
    assert defaults["quant"] in format_names()
    assert defaults["target"] in TARGETS
    assert (flags.MAX_KL, flags.MIN_AGREEMENT) == (
        tolerance.MAX_KL,
        tolerance.MIN_AGREEMENT,
    )


def test_a_recipe_has_every_option_that_the_parser_adds() -> None:
    parser = argparse.ArgumentParser()
    flags.add_recipe(parser)
    args = parser.parse_args([])
    assert flags.recipe_of(args) == vars(args) == flags.RECIPE_DEFAULTS


def test_an_unknown_recipe_is_refused_with_the_known_ones(
    stdlib_5m: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["export", str(stdlib_5m), "--quant", "int3"])
    assert stop.value.code == status.EXIT_BAD_INPUT
    message = capsys.readouterr().err
    assert "--quant" in message
    assert "int8" in message


@pytest.mark.parametrize("flag", ["--max-memory", "--max-shard"])
def test_what_is_no_size_is_refused_by_its_flag(
    stdlib_5m: Path, tmp_path: Path, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = {"--max-memory": "run", "--max-shard": "export"}[flag]
    message = refusal(capsys, command, stdlib_5m, flag, "6 parsecs", "--json")
    assert f"{flag} 6 parsecs: not a size" in message
