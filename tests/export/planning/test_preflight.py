"""Does preflight say what the user should know before an export starts?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tramontane.export.options import ExportOptions
from tramontane.export.planning.preflight import preflight

Write = Callable[..., Path]
OPTIONS = ExportOptions(quant="fp32", target="ort", block=32)


def test_gguf_without_a_window_brings_the_reminder_of_the_window_that_it_omits(
    tiny_checkpoint: Write, as_gguf: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = as_gguf(tiny_checkpoint("LlamaForCausalLM"))
    preflight(path, tmp_path / "out", OPTIONS)
    assert (
        f"{path}: has no window, expected one for Mistral-7B v0.1, whose window GGUF files omit; "
        "for that model pass --window 4096" in capsys.readouterr().err.replace("\n", " ")
    )


@pytest.mark.parametrize("named", ["by the file", "by the user", "by a folder's config"])
def test_window_that_is_known_brings_no_reminder(
    tiny_checkpoint: Write,
    as_gguf: Write,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    named: str,
) -> None:
    source = tiny_checkpoint(
        "MistralForCausalLM" if named == "by the file" else "LlamaForCausalLM"
    )
    path = source if named == "by a folder's config" else as_gguf(source)
    window = 16 if named == "by the user" else None
    options = ExportOptions(quant="fp32", target="ort", block=32, window=window)
    capsys.readouterr()
    preflight(path, tmp_path / "out", options)
    assert "window" not in capsys.readouterr().err
