"""The benchmark of artifacts in turns compares each with the first of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tramontane.bench.artifact import relative_speed
from tramontane.runtime import Model
from tramontane.runtime.errors import ConfigError


@pytest.mark.slow
def test_each_artifact_is_compared_with_the_first(
    embedded_artifact: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("int8-ort", "int8-ort", "fp32-ort")
    paths = [embedded_artifact(name) for name in names]
    assert relative_speed.main([*map(str, paths), "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.count(paths[1].name) == 3  # in the heading of two columns, and as a row
    assert "32.0" in printed

    seconds = iter([9.0, 9.0] * 2 + [3.0, 2.0, 3.0, 6.0] + [3.0, 1.0, 3.0, 4.0])
    monkeypatch.setattr(relative_speed, "_seconds", lambda *_: next(seconds))
    found = relative_speed.measure([Model.load(path) for path in paths[:2]], rounds=2)
    assert [each[0].values for each in found.values()] == [(1.5, 3.0), (0.5, 0.75)]


def test_no_rounds_are_refused() -> None:
    with pytest.raises(ConfigError, match="--rounds 0: expected 1 or more"):
        relative_speed.main(["first", "other", "--rounds", "0"])


def test_artifact_of_another_model_is_refused() -> None:
    def of(vocab_size: int) -> Any:
        manifest = SimpleNamespace(geometry=SimpleNamespace(vocab_size=vocab_size))
        return SimpleNamespace(manifest=manifest, folder=f"of-{vocab_size}")

    with pytest.raises(ConfigError, match="of-7: a vocabulary of 7 tokens, expected 5 as of of-5"):
        relative_speed.measure([of(5), of(7)], rounds=1)
