"""Windows of layers that are asked for, and two files of one checkpoint that differ in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tramontane.cli import main as command
from tramontane.export.config import MistralConfig
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.formats.huggingface import to_hugging_face
from tramontane.export.formats.layouts import read_config
from tramontane.export.formats.mistral import to_params_json
from tramontane.export.options import ExportOptions
from tramontane.export.planning.preflight import preflight
from tramontane.export.window_choice import adapted, parse_window
from tramontane.runtime.errors import ConfigError

PARAMS = {
    "dim": 64,
    "n_layers": 4,
    "head_dim": 16,
    "hidden_dim": 128,
    "n_heads": 4,
    "n_kv_heads": 2,
    "norm_eps": 1e-5,
    "vocab_size": 2048,
    "max_seq_len": 256,
}
PATTERN = [None, 8, 8, 8]


def read(folder: Path, **changes: Any) -> MistralConfig:
    (folder / "params.json").write_text(json.dumps({**PARAMS, **changes}))
    return read_config(folder)


@pytest.mark.parametrize("name", ["sliding_window", "_sliding_window"])
@pytest.mark.parametrize(
    ("value", "windows"),
    [
        (PATTERN, (None, 8, 8, 8)),
        ([256, 8], (None, 8, None, 8)),
        ([8, 16], (8, 16, 8, 16)),
        ([8], (8, 8, 8, 8)),
        (8, (8, 8, 8, 8)),
    ],
    ids=str,
)
def test_pattern_of_windows_is_repeated_over_the_layers(
    tmp_path: Path, name: str, value: Any, windows: tuple[int | None, ...]
) -> None:
    config = read(tmp_path, **{name: value})
    assert config.windows == windows
    (tmp_path / "params.json").write_text(json.dumps(to_params_json(config)))
    assert read_config(tmp_path).windows == windows


def test_first_of_the_two_names_that_is_not_null_counts(tmp_path: Path) -> None:
    config = read(tmp_path, sliding_window=None, _sliding_window=[None, 8])
    assert config.windows == (None, 8, None, 8)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([8, 8, 8], "sliding_window has 3 entries for 4 layers"),
        ([], "sliding_window has 0 entries for 4 layers"),
        ([0, 8], "expected windows of at least 1, or null"),
        (["x", 8], "sliding_window is 'x'; expected a number"),
    ],
    ids=str,
)
def test_pattern_that_fits_no_layers_is_refused(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, sliding_window=value)


@pytest.fixture
def doubtful(tiny_checkpoint: Callable[..., Path]) -> Path:
    """As Ministral-8B was published: one window in config.json, a pattern in params.json."""
    folder = tiny_checkpoint(num_hidden_layers=4, sliding_window=8)
    (folder / "params.json").write_text(json.dumps({**PARAMS, "sliding_window": PATTERN}))
    return folder


def test_two_files_that_differ_in_windows_are_asked_about(doubtful: Path, tmp_path: Path) -> None:
    expected = (
        r"config.json gives the layers windows of 8, and params.json beside it none, 8, 8, 8 "
        r"\(layer by layer\).* --window none,8,8,8 .* or --window 8 "
    )
    for number, asked in enumerate((None, 8, (None, 8, 8, 8))):
        options = ExportOptions(quant="fp32", target="ort", window=asked)
        if asked is None:
            with pytest.raises(ConfigError, match=expected):
                preflight(doubtful, tmp_path / "out", options)
            continue
        ready = preflight(doubtful, tmp_path / f"out{number}", options)
        with ready.weights:
            assert ready.config.windows == ((8,) * 4 if asked == 8 else asked)


@pytest.mark.parametrize("whole", [None, 1024])
def test_windows_as_long_as_the_text_of_config_json_are_asked_about_as_they_are(
    doubtful: Path, tmp_path: Path, whole: int | None
) -> None:
    """As Ministral-8B: its config.json has one window, as many positions, and fewer than params.json."""
    described = json.loads((doubtful / "config.json").read_bytes())
    described |= {"sliding_window": 256, "max_position_embeddings": 256}
    (doubtful / "config.json").write_text(json.dumps(described))
    published = {**PARAMS, "max_seq_len": 1024, "sliding_window": [whole, 256, 256, 256]}
    (doubtful / "params.json").write_text(json.dumps(published))
    windows = (None, 256, 256, 256)
    options = ExportOptions(quant="fp32", target="ort", window=windows)
    with pytest.raises(ConfigError, match=r"--window none,256,256,256 .* or --window 256 "):
        preflight(doubtful, tmp_path / "out", ExportOptions(quant="fp32", target="ort"))
    ready = preflight(doubtful, tmp_path / "out", options)
    with ready.weights:
        assert ready.config.windows == windows


def test_command_asks_too_and_takes_either_answer(
    doubtful: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inspect = ["inspect", str(doubtful), "--quant", "fp32", "--no-validate"]
    assert command.main(inspect) != 0
    assert "--window none,8,8,8" in capsys.readouterr().err
    assert command.main([*inspect, "--window", "none,8,8,8"]) == 0
    assert "none, 8, 8, 8 (layer by layer)" in capsys.readouterr().out
    assert command.main([*inspect, "--window", "8"]) == 0


@pytest.mark.parametrize("value", [8, [8], None, [8, 8]], ids=str)
def test_two_files_that_agree_or_have_no_pattern_raise_no_question(
    doubtful: Path, value: Any
) -> None:
    (doubtful / "params.json").write_text(json.dumps({**PARAMS, "sliding_window": value}))
    with Checkpoint.open(doubtful) as checkpoint:
        assert checkpoint.config.other_windows == ()


def test_pattern_makes_a_mistral_a_ministral(doubtful: Path) -> None:
    config = adapted(read_config(doubtful), window=(None, 8, 8, 8))
    described = to_hugging_face(config)
    assert described["architectures"] == ["MinistralForCausalLM"]
    assert described["model_type"] == "ministral"
    assert described["layer_types"] == ["full_attention", *["sliding_attention"] * 3]
    assert described["sliding_window"] == 8


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ("none,8,8", "--window none,8,8: 3 windows for 4 layers, expected a pattern"),
        ("none,4", "--window none,4: the checkpoint's window is 8, expected at most that"),
        ("8,16", "--window 8,16: the checkpoint's window is 8"),
        ("8,0", "--window 8,0: expected 1 to 256"),
    ],
)
def test_pattern_that_the_model_cannot_have_is_refused(
    doubtful: Path, window: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        adapted(read_config(doubtful), window=parse_window(window))
