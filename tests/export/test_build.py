"""Does an export change of the architecture what was asked for, and refuse the rest by name?"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from safetensors.numpy import load_file, save_file
from tramontane.export import build
from tramontane.export.cache_choice import (
    GROWING,
    WINDOWED,
    CacheChoice,
    choose_cache,
    geometry_of,
)
from tramontane.export.config import MistralConfig
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.formats.layouts import read_config
from tramontane.export.known_models import GEOMETRIES
from tramontane.export.options import (
    ExportOptions,
)
from tramontane.export.window_choice import adapted
from tramontane.graphs import weights
from tramontane.runtime.errors import CheckpointError, ConfigError, TramontaneError

LLAMA = GEOMETRIES["llama-2-7b"]
ODD_TYPES = b"""{"bos_token_id": "x", "eos_token_id": {}, "chat_template": 3, "bos_token": 4,
"added_tokens_decoder": 4, "pad_token_id": [1], "add_bos_token": "x", "tokenizer_class": 1}"""


@pytest.fixture
def config(stdlib_5m: Path) -> MistralConfig:
    return read_config(stdlib_5m)


def test_nothing_asked_for_changes_nothing(config: MistralConfig) -> None:
    assert adapted(config, window=None) == config
    assert choose_cache("windowed", kv="float32") == WINDOWED


def test_window_makes_a_llama_a_mistral_and_changes_nothing_else() -> None:
    assert LLAMA.sliding_window is None
    found = adapted(LLAMA, window=4096)
    assert (found.architecture, found.sliding_window) == ("MistralForCausalLM", 4096)
    before = {"architecture": LLAMA.architecture, "sliding_window": None}
    assert dataclasses.replace(found, **before) == LLAMA


@pytest.mark.parametrize("window", [None, 16])
def test_growing_cache_keeps_the_window_and_bounds_no_rows(
    config: MistralConfig, window: int | None
) -> None:
    windowed = geometry_of(adapted(config, window=window), WINDOWED)
    growing = geometry_of(adapted(config, window=window), choose_cache("growing", kv="float32"))
    assert growing == geometry_of(adapted(config, window=window), GROWING)
    assert windowed.is_bounded
    without_rows = [dataclasses.replace(layer, rows=None) for layer in windowed.layers]
    assert growing == dataclasses.replace(windowed, layers=tuple(without_rows))
    assert set(growing.windows) == {window or config.sliding_window}


def test_largest_and_smallest_window_are_taken(config: MistralConfig) -> None:
    assert config.sliding_window is not None
    for window in (1, config.sliding_window):
        assert adapted(config, window=window).sliding_window == window
    assert adapted(LLAMA, window=2048).sliding_window == 2048  # all of its positions


def test_window_beyond_the_one_that_the_model_was_trained_with_is_refused(
    config: MistralConfig,
) -> None:
    assert config.sliding_window is not None
    larger = config.sliding_window + 1
    with pytest.raises(ConfigError, match=rf"--window {larger}: the checkpoint's window is"):
        adapted(config, window=larger)


@pytest.mark.parametrize("window", [0, -1, 4097])
def test_window_out_of_range_is_refused(config: MistralConfig, window: int) -> None:
    message = f"^--window {window}: expected 1 to 4096, the positions that the model has$"
    with pytest.raises(ConfigError, match=message):
        adapted(config, window=window)


@pytest.mark.parametrize("cache", ["", "bounded", "Growing"])
def test_unknown_cache_is_refused(cache: str) -> None:
    message = f"^--cache {cache}: unknown; expected one of windowed, growing$"
    with pytest.raises(ConfigError, match=message):
        choose_cache(cache, kv="float32")


def test_unknown_cache_is_refused_before_anything_is_written(
    stdlib_5m: Path, tmp_path: Path
) -> None:
    options = ExportOptions(quant="int8", target="ort", cache="endless")
    with pytest.raises(ConfigError, match="--cache endless: unknown"):
        build.export_checkpoint(stdlib_5m, tmp_path / "out", options)
    assert not list(tmp_path.iterdir())


def test_tokenizer_that_cannot_be_written_stops_the_export_before_tracing(
    stdlib_5m: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> str:
        raise CheckpointError("tokenizer.json: not one that can be written")

    monkeypatch.setattr(build, "write_tokenizer", refuse)
    monkeypatch.setattr(build, "trace_in_subprocess", lambda *_: pytest.fail("it was traced"))
    options = ExportOptions(quant="fp32", target="ort")
    with pytest.raises(CheckpointError, match="not one that can be written"):
        build.export_checkpoint(stdlib_5m, tmp_path / "out", options)
    assert list(tmp_path.iterdir()) == []


SHARD = "model-00001-of-00001.safetensors"
BAD = [b'{"a":', b"[1]", b'{"a": "\xff"}', b"{% if %}", ODD_TYPES]


@pytest.mark.slow
@pytest.mark.parametrize("content", BAD)
@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "params.json",
        "model.safetensors",
        "generation_config.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "tokenizer.model",
        "tokenizer.json",
        "tekken.json",
        "chat_template.jinja",
        "additional_chat_templates/tool.jinja",
        "README.md",
        "LICENSE",
    ],
)
def test_a_bad_file_stops_the_export_before_tracing_or_not_at_all(
    stdlib_5m: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    source = tmp_path / "source"
    shutil.copytree(stdlib_5m, source)
    (source / name).parent.mkdir(exist_ok=True)
    (source / name).write_bytes(content)
    stops_before_tracing(source, tmp_path / "out", monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("content", BAD)
@pytest.mark.parametrize("name", [SHARD, "model.safetensors.index.json"])
def test_a_bad_shard_or_index_stops_the_export_before_tracing_or_not_at_all(
    stdlib_5m: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    source = tmp_path / "source"
    shutil.copytree(stdlib_5m, source)
    whole = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    save_file(whole, source / SHARD)
    index = {"metadata": {}, "weight_map": dict.fromkeys(whole, SHARD)}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    (source / name).write_bytes(content)
    stops_before_tracing(source, tmp_path / "out", monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("content", BAD)
@pytest.mark.parametrize(
    "name",
    ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "added_tokens.json"],
)
def test_a_bad_file_of_an_adapter_stops_the_export_before_tracing_or_not_at_all(
    stdlib_5m: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    described = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(described))
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    with Checkpoint.open(stdlib_5m) as checkpoint:
        rows, columns = checkpoint.read("layers.0.attention.query.weight").shape
    save_file(
        {
            f"{module}.lora_A.weight": np.ones((2, columns), np.float32),
            f"{module}.lora_B.weight": np.ones((rows, 2), np.float32),
        },
        adapter / "adapter_model.safetensors",
    )
    with Checkpoint.open(stdlib_5m, [adapter]):
        pass  # it is good before it is spoilt
    (adapter / name).write_bytes(content)
    stops_before_tracing(stdlib_5m, tmp_path / "out", monkeypatch, adapters=[adapter])


def stops_before_tracing(
    source: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    adapters: Sequence[Path] = (),
) -> None:
    """Export; where that is refused, nothing may have been traced, and nothing may stay."""
    traced: list[MistralConfig] = []
    trace = build.trace_in_subprocess

    def noted(config: MistralConfig, cache: CacheChoice) -> ir.Model:
        traced.append(config)
        return trace(config, cache)

    monkeypatch.setattr(build, "trace_in_subprocess", noted)
    options = ExportOptions(quant="fp32", target="ort")
    try:
        build.export_checkpoint(source, out, options, adapters=adapters)
    except TramontaneError:
        assert not traced
        assert not [path for path in out.parent.iterdir() if path.name.startswith(".out")]
    assert out.exists() == bool(traced)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quant", "tie"), [("int8", True), ("int8-smooth", True), ("int4-rtn", False)]
)
def test_matrices_that_are_read_by_rows_give_the_same_files(
    tiny_checkpoint: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quant: str,
    tie: bool,
) -> None:
    source = tiny_checkpoint(tie=tie)
    options = ExportOptions(quant=quant, target="ort")
    taken: list[slice] = []
    take = weights.Rows.__getitem__

    def counted(self: weights.Rows, rows: slice) -> np.ndarray:
        taken.append(rows)
        return take(self, rows)

    monkeypatch.setattr(weights.Rows, "__getitem__", counted)
    found = []
    for most in (weights.WHOLE_BYTES, 0):
        assert not taken
        monkeypatch.setattr(weights, "WHOLE_BYTES", most)
        out = tmp_path / "artifact"
        build.export_checkpoint(source, out, options, resume=False)
        files = [path for path in sorted(out.rglob("*")) if path.is_file()]
        found.append({str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files})
    assert taken
    assert found[0] == found[1]
