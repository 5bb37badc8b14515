"""Tests of the name that an artifact gets where none is given."""

from __future__ import annotations

import itertools

import pytest
from tramontane.cli import main as cli


def test_recipes_of_one_checkpoint_have_each_a_folder_of_their_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    kinds = [
        ["--quant", "int4"],
        ["--target", "portable"],
        ["--window", "32"],
        ["--window", "64"],
        ["--block", "32"],
        ["--block", "64"],
        ["--cache", "growing"],
        ["--kv", "int8"],
    ]
    names = []
    for words in itertools.chain([()], *(itertools.combinations(kinds, n) for n in (1, 2))):
        flags = [word for pair in words for word in pair]
        assert cli.main(["export", "a/model", *flags, "--print-out"]) == 0
        names.append(capsys.readouterr().out)
    assert names[0] == "artifacts/model-int8-ort\n"
    assert "artifacts/model-int8-ort-b32-kv-int8\n" in names
    # A window or a block that is given twice counts once.
    assert len(set(names)) == len(names) - 2
    assert cli.main(["export", "a/model", "--block", "128", "--print-out"]) == 0
    assert capsys.readouterr().out == names[0]
    assert cli.main(["export", "a/model", "--out", "b", "--print-out"]) == 0
    assert capsys.readouterr().out == "b\n"
