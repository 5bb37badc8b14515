"""Models whose layers have different windows: exported, run and checked layer by layer."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from tramontane.export.build import (
    export_checkpoint,
)
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.options import (
    ExportOptions,
)
from tramontane.export.window_choice import adapted
from tramontane.runtime import minimal_decode
from tramontane.runtime.cache import CacheLayout
from tramontane.runtime.contract import MODEL_FILE
from tramontane.runtime.errors import ConfigError
from tramontane.runtime.manifest import read_manifest
from tramontane.runtime.session import Session
from tramontane.validate.measurement import GateOptions
from tramontane.validate.run_gate import Verdict, validate

Windows = tuple[int | None, ...]
TWO: Windows = (8, 16, 8)
MIXED: Windows = (None, 8)  # as models that attend to everything in some layers
OTHER_RECIPES: dict[Windows, list[dict[str, str]]] = {
    TWO: [
        {"quant": "int8", "target": "ort", "kv": "int8"},
        {"quant": "int4", "target": "portable"},
    ],
    MIXED: [
        {"quant": "int8", "target": "ort", "cache": "growing"},
        {"quant": "int8", "target": "web"},
    ],
}
ROWS = {8: 24, 16: 32, None: None}
LENGTH = 100  # rows have left every bounded cache several times
LENGTHS = (1, 7, 8, 9, 15, 16, 17, 24, 25, 32, 33, 49)  # on both sides of windows and evictions
BOUND = 1e-4  # largest |difference| of two float32 logits
GATE = GateOptions()


@dataclasses.dataclass(frozen=True)
class Model:
    """A checkpoint, and the folders of what is exported from it."""

    folder: Path
    root: Path
    windows: Windows
    asked: Windows | None  # of the export; None: config.json has them

    def open(self) -> Checkpoint:
        return Checkpoint.open(self.folder)


@pytest.fixture(scope="module", params=[TWO, MIXED], ids=["two windows", "windowed and full"])
def model(
    request: pytest.FixtureRequest,
    tiny_checkpoint: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """A Ministral, whose config.json has the windows; or a Mistral whose export asks for them."""
    windows: Windows = request.param
    published: dict[str, Any] = {"sliding_window": None}
    if windows == MIXED:
        kinds = ["full_attention" if window is None else "sliding_attention" for window in windows]
        published = {"sliding_window": 8, "layer_types": kinds}
    folder = tiny_checkpoint(
        "MinistralForCausalLM" if windows == MIXED else "MistralForCausalLM",
        num_hidden_layers=len(windows),
        **published,
    )
    asked = None if windows == MIXED else windows
    return Model(folder, tmp_path_factory.mktemp("artifacts"), windows, asked)


def artifact(model: Model, **options: Any) -> Path:
    """An artifact of the model, made once for each recipe."""
    recipe = {"quant": "fp32", "target": "ort", **options}
    out = model.root / "-".join(map(str, recipe.values()))
    if not out.exists():
        export_checkpoint(model.folder, out, ExportOptions(**recipe, window=model.asked))
    return out


def tokens(length: int = LENGTH) -> np.ndarray:
    return np.random.default_rng(0).integers(3, 2048, length)


def expected_logits(model: Model, windows: Sequence[int | None], ids: np.ndarray) -> np.ndarray:
    """Logits (T, V) of transformers' model, whose layers each get a mask of their own."""
    published = transformers.AutoModelForCausalLM.from_pretrained(
        model.folder, attn_implementation="eager"
    ).eval()
    i, j = np.arange(len(ids))[:, None], np.arange(len(ids))[None]
    for layer, window in zip(published.model.layers, windows, strict=True):
        is_hidden = (j > i) | (j <= i - (window or len(ids)))
        mask = np.where(is_hidden, np.finfo(np.float32).min, 0).astype(np.float32)
        layer.register_forward_pre_hook(masked_by(torch.from_numpy(mask)), with_kwargs=True)
    with torch.no_grad():
        return np.asarray(published(torch.from_numpy(ids)[None]).logits[0].numpy())


def published_logits(model: Model, ids: np.ndarray) -> np.ndarray:
    """Logits (T, V) of transformers' model as it is published."""
    published = transformers.AutoModelForCausalLM.from_pretrained(model.folder).eval()
    with torch.no_grad():
        return np.asarray(published(torch.from_numpy(ids)[None]).logits[0].numpy())


def masked_by(mask: torch.Tensor) -> Callable[..., Any]:
    def hook(_: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        assert "attention_mask" in kwargs
        return args, {**kwargs, "attention_mask": mask[None, None]}

    return hook


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max())


def fed(session: Session, ids: np.ndarray, first: int, piece: int) -> np.ndarray:
    """Logits (T, V) of a prompt of ``first`` tokens and pieces of ``piece``, one token a step."""
    session.reset()
    found = [session.prefill(ids[:first].tolist(), all_logits=True, chunk=first)]
    for start in range(first, len(ids), piece):
        part = ids[start : start + piece].tolist()
        if piece == 1:
            found.append(session.step(part[0])[None].copy())
        else:
            found.append(session.prefill(part, all_logits=True, chunk=piece))
    return np.concatenate(found)


def failed(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.measurement.checks if check.failures]


TARGETS = ["ort", "portable"]
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("target", TARGETS)
def test_the_driver_s_logits_are_those_of_a_mask_for_each_layer(model: Model, target: str) -> None:
    session, ids = Session.load(artifact(model, target=target), threads=1), tokens()
    expected = expected_logits(model, model.windows, ids)
    if model.asked is None:
        assert difference(published_logits(model, ids), expected) <= BOUND
    for length in (*LENGTHS, LENGTH):
        assert difference(fed(session, ids[:length], length, 1), expected[:length]) <= BOUND
    for first, piece in ((1, 1), (5, 7), (30, 19), (12, 1), (40, 1)):
        assert difference(fed(session, ids, first, piece), expected) <= BOUND, (first, piece)


@pytest.mark.parametrize("target", TARGETS)
def test_the_order_of_the_windows_shows_in_the_logits(model: Model, target: str) -> None:
    session, ids = Session.load(artifact(model, target=target), threads=1), tokens()
    found, number = fed(session, ids, 12, 1), len(model.windows)
    others = [(8,) * number, (16,) * number, (None,) * number, (*model.windows[1:], 8)]
    for windows in others:
        if windows != model.windows:
            assert difference(found, expected_logits(model, windows, ids)) > 100 * BOUND


@pytest.mark.parametrize("target", TARGETS)
def test_each_layer_holds_the_rows_of_its_own_layout(model: Model, target: str) -> None:
    session = Session.load(artifact(model, target=target), threads=1)
    layouts = [CacheLayout(window=window, rows=ROWS[window]) for window in model.windows]
    assert session.manifest.geometry.layers == tuple(layouts)
    for length in (*LENGTHS, LENGTH):
        session.reset()
        session.prefill(tokens(length).tolist(), chunk=9)
        held = [key.shape[1] for key, _ in session.cache()]
        assert held == [layout.held(length) for layout in layouts]


def test_a_cache_that_grows_in_some_layers_grows_past_its_first_rows(model: Model) -> None:
    session = Session.load(artifact(model, target="portable"), threads=1)
    ids = np.resize(tokens(), 256)
    found = fed(session, ids, 250, 1)
    assert difference(found, expected_logits(model, model.windows, ids)) <= BOUND


@pytest.mark.parametrize("target", TARGETS)
def test_the_gate_passes(model: Model, target: str) -> None:
    verdict = validate(artifact(model, target=target), model.open(), GATE)
    assert failed(verdict) == []
    notes = " ".join(verdict.measurement.notes)
    assert ("it was exported with --window" in notes) == (model.asked is not None)
    assert {7, 8, 9} <= set(verdict.measurement.spans.lengths)
    if 16 in model.windows:
        assert {15, 16, 17} <= set(verdict.measurement.spans.lengths)
    described = verdict.as_json()["artifact"]
    assert described["layer_windows"] == list(model.windows)
    assert described["layer_rows"] == [ROWS[window] for window in model.windows]


@pytest.mark.parametrize("number", [0, 1])
def test_the_gate_passes_in_other_recipes(model: Model, number: int) -> None:
    out = artifact(model, **OTHER_RECIPES[model.windows][number])
    assert failed(validate(out, model.open(), GATE)) == []


def test_the_gate_finds_a_window_that_is_another_layer_s(model: Model, tmp_path: Path) -> None:
    out = artifact(model, target="ort")
    path = out / MODEL_FILE
    graph = onnx.load(path, load_external_data=False)
    nodes = [node for node in graph.graph.node if node.op_type == "GroupQueryAttention"]
    (window,) = [one for one in nodes[-1].attribute if one.name == "local_window_size"]
    assert window.i == 8
    window.i = 16
    planted = model.root / f"planted-{len(model.windows)}"
    planted.mkdir()
    for file in out.iterdir():
        (planted / file.name).symlink_to(file.resolve())
    (planted / "onnx").unlink()
    (planted / "onnx").mkdir()
    onnx.save(graph, planted / MODEL_FILE)
    data = f"{MODEL_FILE}_data"
    (planted / data).hardlink_to(out / data)
    verdict = validate(planted, model.open(), GATE, explains=True)
    assert failed(verdict)
    assert verdict.explanation is not None
    assert verdict.explanation.place.startswith(f"layer {len(nodes) - 1}, ")
    assert "the window is 16, expected 8" in verdict.explanation.cause


def test_files_of_other_runtimes_have_the_windows_where_they_can(model: Model) -> None:
    out = artifact(model, target="ort")
    config = json.loads((out / "config.json").read_bytes())
    assert config["model_type"] == "ministral"
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "(layer by layer)" in card
    if model.windows == TWO:
        assert config["layer_windows"] == list(TWO)
        assert not (out / "genai_config.json").exists()
        assert "onnxruntime-genai cannot run this folder" in card
    else:
        assert config["layer_types"] == ["full_attention", "sliding_attention"]
        genai = json.loads((out / "genai_config.json").read_bytes())
        window = genai["model"]["decoder"]["sliding_window"]
        assert (window["layers"], window["window_size"], window["cache_slack"]) == ([1], 8, 16)
        assert genai["search"]["past_present_share_buffer"]
    manifest = read_manifest(out)
    assert manifest.geometry.windows == model.windows
    assert manifest.geometry.shared_layout is None


def test_the_script_of_the_card_decodes(model: Model) -> None:
    out, prompt = artifact(model, target="ort"), [5, 6, 7]
    session = Session.load(out, threads=1)
    expected = session.generate(prompt, max_new_tokens=40).finish().tokens
    found = minimal_decode.decode(out, prompt, 40)
    assert found[: len(expected)] == expected


def test_another_window_for_all_layers_is_refused(model: Model) -> None:
    config = adapted(model.open().config, window=model.asked)
    with pytest.raises(ConfigError, match="--window 4: the checkpoint's layers have windows of"):
        adapted(config, window=4)
