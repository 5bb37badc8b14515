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
from tramontane.graphs.quantization.recipes.all_recipes import open_recipe, recipe_names
from tramontane.graphs.targets.all_targets import TARGETS
from tramontane.validate import tolerance

from .calls import refusal


def test_defaults_are_those_of_the_stages() -> None:
    defaults = flags.CHOICE_DEFAULTS
    required = {"quant": defaults["quant"], "target": defaults["target"]}
    assert ExportOptions(**required) == ExportOptions(**defaults)
    assert defaults["quant"] in recipe_names()
    assert defaults["target"] in TARGETS
    assert (flags.MAX_KL, flags.MIN_AGREEMENT) == (
        tolerance.MAX_KL,
        tolerance.MIN_AGREEMENT,
    )


def test_choices_have_every_option_that_the_parser_adds() -> None:
    parser = argparse.ArgumentParser()
    flags.add_choices(parser)
    args = parser.parse_args([])
    assert flags.choices_of(args) == flags.CHOICE_DEFAULTS
    assert vars(args) == {**flags.CHOICE_DEFAULTS, "recipe": None}


def test_a_recipe_of_one_s_own_takes_the_place_of_quant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "my.toml"
    file.write_text('[matrices]\n"*" = { bits = 8, block = 32 }\n')
    assert cli.main(["export", "a/model", "--recipe", str(file), "--print-out"]) == 0
    name = open_recipe(file).name
    assert capsys.readouterr().out == f"artifacts/model-{name}-ort\n"
    with pytest.raises(SystemExit):
        cli.main(["export", "a/model", "--recipe", str(file), "--quant", "int4"])
    assert "--quant: given with --recipe, expected one of them" in capsys.readouterr().err
    message = refusal(capsys, "export", "a/model", "--recipe", tmp_path / "no.toml", "--json")
    assert "--recipe" in message
    file.write_text('[matrices]\n"*" = { bits = 3, block = 32 }\n')
    message = refusal(capsys, "export", "a/model", "--recipe", file, "--json")
    assert "my.toml:2" in message


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
