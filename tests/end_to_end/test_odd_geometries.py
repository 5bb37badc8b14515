"""Does every geometry either run as the model does, or get refused before it is traced?"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from tramontane.export.build import (
    export_checkpoint,
)
from tramontane.export.cache_choice import CacheChoice, geometry_of
from tramontane.export.calibrate.calibrate import calibrate
from tramontane.export.calibrate.tokens import CalibrationTokens
from tramontane.export.config import MistralConfig
from tramontane.export.model.model import Mistral
from tramontane.export.options import (
    ExportOptions,
)
from tramontane.export.planning.plan import plan
from tramontane.export.planning.planned_weights import PlannedWeights
from tramontane.export.trace.bind_weights import bind
from tramontane.export.trace.trace import trace
from tramontane.graphs import pipeline, weights
from tramontane.graphs.probing.attention_caches import find_cache_scales
from tramontane.graphs.quantization.matrix_schemes import Role
from tramontane.graphs.quantization.recipes.all_recipes import find_recipe
from tramontane.graphs.quantization.recipes.recipe import DEFAULT_BLOCK
from tramontane.graphs.targets.all_targets import find_target
from tramontane.runtime.errors import GraphError
from tramontane.runtime.ort.cpu_features import multiplies_int8, saturates
from tramontane.runtime.ort.ort_session import ort
from tramontane.validate.run_gate import require_parity
from tramontane.validate.run_graph import GraphRunner, feed_all

from ..support.once import keep_torchlib

SMALL = MistralConfig(
    architecture="MistralForCausalLM",
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=97,
    max_position_embeddings=96,
    rms_norm_eps=1e-5,
    rope_theta=1e4,
    sliding_window=8,
    tie_word_embeddings=False,
    bos_token_id=1,
    eos_token_ids=(2,),
)
ODD: dict[str, dict[str, Any]] = {
    "heads of 2": {"head_dim": 2},
    "heads of 20": {"head_dim": 20},
    "heads of 24": {"head_dim": 24, "grows": True},
    "heads of 100": {"head_dim": 100, "grows": True},
    "one head of 8": {
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "hidden_size": 8,
    },
    "five heads on one": {"num_attention_heads": 5, "num_key_value_heads": 1},
    "hidden size of 33, tied": {"hidden_size": 33, "tie_word_embeddings": True},
    "rows of 7 and 13": {"hidden_size": 7, "intermediate_size": 13, "sliding_window": None},
    "rows shorter than a block": {"hidden_size": 20, "intermediate_size": 50},
    "window of 1": {"sliding_window": 1},
    "window beyond all positions": {"sliding_window": 200},
    "biases": {"has_qkv_bias": True},
    "biases, heads of 24": {"has_qkv_bias": True, "head_dim": 24},
    "norms of heads": {"has_head_norms": True, "grows": True},
    "norms of heads, of 24": {"has_head_norms": True, "head_dim": 24},
    "a layer without rope": {"num_hidden_layers": 2, "unrotated_layers": (1,)},
    "a layer without rope, heads of 24": {
        "num_hidden_layers": 1,
        "unrotated_layers": (0,),
        "head_dim": 24,
    },
    "all parts, by layer": {
        "num_hidden_layers": 3,
        "sliding_window": 8,
        "layer_windows": (None, 8, None),
        "unrotated_layers": (2,),
        "has_qkv_bias": True,
        "has_head_norms": True,
    },
    "two positions, three tokens": {"max_position_embeddings": 2, "vocab_size": 3},
}
RECIPES = [
    ("portable", "fp32", "float32"),
    ("portable", "int8", "float32"),
    ("portable", "int4-rtn", "float32"),
    ("ort", "fp32", "float32"),
    ("ort", "int8", "float32"),
    ("ort", "int4-rtn", "float32"),
    ("ort", "int8-dynamic", "float32"),
    ("ort", "fp32", "int8"),
    ("web", "int8", "float32"),
]
# Most that rounding may move logits, as a share of their spread, both root mean squares. What is
# rounded to 4 bits is compared with the first target, which rounds alike.
MOST = {"fp32": 1e-5, "int8": 0.1, "int4-rtn": 0.1, "int8-dynamic": 0.1}
# Between targets in 4 bits, where a matrix has blocks of another size: its scales differ then, and
# most codes with them, so that each target's own rounding error counts.
OF_OTHER_BLOCKS = 0.25


class Small:
    """One geometry: its reference, and its graph traced once."""

    def __init__(self, config: MistralConfig, *, grows: bool) -> None:
        torch.manual_seed(0)
        self.config, self.grows = config, grows
        cache = CacheChoice(grows=grows)
        model = Mistral(config, cache).eval()
        for name, parameter in model.named_parameters():
            start = torch.nn.init.uniform_ if "norm" in name else torch.nn.init.normal_
            with torch.no_grad():
                start(parameter, *((0.5, 1.5) if "norm" in name else (0, 0.3)))
        self.weights = {name: p.detach().numpy() for name, p in model.state_dict().items()}
        length = min(60, config.max_position_embeddings)
        self.tokens = np.random.default_rng(0).integers(0, config.vocab_size, length)
        mask = torch.ones(1, length, dtype=torch.int64)
        with torch.no_grad():
            logits, _ = model(torch.tensor(self.tokens)[None], mask, model.empty_cache())
        self.logits = logits[0].numpy()
        keep_torchlib()
        self._traced = ir.to_proto(trace(config, cache)).SerializeToString()

    def run(self, *, target: str, quant: str, kv: str) -> list[np.ndarray]:
        """Logits in one shot and token by token, by a recipe's graph in onnxruntime."""
        config, cache = self.config, CacheChoice(grows=self.grows, dtype=kv)
        plan(config, quant=quant, target=target, cache=cache)
        calibration = None
        if find_recipe(quant).is_calibrated(kv):
            checkpoint: Any = types.SimpleNamespace(read=self.weights.__getitem__)
            tokens = CalibrationTokens(text=[self.tokens], random=self.tokens)
            planned = PlannedWeights(
                config=config,
                target=find_target(target),
                recipe=find_recipe(quant),
                block=DEFAULT_BLOCK,
                cache=cache,
            )
            smoothing = planned.smoothed()
            calibration = calibrate(config, checkpoint, tokens, smoothing=smoothing)
        model = ir.from_proto(onnx.load_model_from_string(self._traced))
        bind(model.graph, self.weights.__getitem__)
        geometry = geometry_of(config, cache)
        passes = pipeline.passes(target=target, quant=quant, kv=kv, calibration=calibration)
        pipeline.run(model, geometry, passes)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        graph = ir.to_proto(model).SerializeToString()
        if saturates() and multiplies_int8(graph):
            options.add_session_config_entry("session.x64quantprecision", "1")
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        scales = find_cache_scales(model.graph)
        runner = GraphRunner(session, geometry, Path("model.onnx"), scales=scales)
        count = len(self.tokens)
        first = min(5, count - 1)
        return [
            feed_all(runner, self.tokens, cuts)
            for cuts in ([count], [first, *[1] * (count - first)])
        ]


@functools.cache
def small(name: str) -> Small:
    return Small(config_of(name), grows=ODD[name].get("grows", False))


def config_of(name: str) -> MistralConfig:
    changes = {field: value for field, value in ODD[name].items() if field != "grows"}
    return dataclasses.replace(SMALL, **changes)


def refused_by(config: MistralConfig, *, target: str, quant: str, kv: str) -> str:
    """What a recipe's refusal says; nothing where it has none."""
    if target != "portable" and config.head_dim % 8:
        return f"head_dim is {config.head_dim}, expected a multiple of 8"
    if kv == "int8" and config.head_dim % 16:
        return f"--kv int8: heads of {config.head_dim} numbers, expected a multiple of 16"
    if quant == "int4-rtn" and (config.hidden_size % 2 or config.intermediate_size % 2):
        return "weights do not fill bytes in 4 bits"
    return ""


def blocks(config: MistralConfig, target: str) -> set[tuple[int, tuple[Role, ...], int]]:
    """Weights that share a scale in 4 bits: columns and readers of each matrix, and how many."""
    found = PlannedWeights(
        config=config,
        target=find_target(target),
        recipe=find_recipe("int4-rtn"),
        block=pipeline.DEFAULT_BLOCK,
        cache=CacheChoice(),
    )
    packer = found.target.packer(found.schemes)
    of_matrices = set()
    for name, shape, roles in found.matrices():
        packed = packer.pack(weights.weight(name, np.empty, shape=shape), roles)
        assert packed is not None
        of_matrices.add((shape[1], roles, min(packed.scheme.block, shape[1])))
    return of_matrices


def test_targets_have_equal_blocks_in_some_geometries_and_not_in_all() -> None:
    configs = [
        config
        for config in map(config_of, ODD)
        if not refused_by(config, target="ort", quant="int4-rtn", kv="float32")
    ]
    alike = [blocks(config, "ort") == blocks(config, "portable") for config in configs]
    assert True in alike
    assert False in alike


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_odd_geometry_gives_the_model_s_logits_or_is_refused_by_the_plan(name: str) -> None:
    found = small(name)
    spread = float(found.logits.std())
    of_four_bits: dict[str, np.ndarray] = {}  # by target
    for target, quant, kv in RECIPES:
        config, cache = found.config, CacheChoice(grows=found.grows, dtype=kv)
        if refused := refused_by(config, target=target, quant=quant, kv=kv):
            with pytest.raises(GraphError, match=refused):
                plan(config, quant=quant, target=target, cache=cache)
            continue
        runs = found.run(target=target, quant=quant, kv=kv)
        expected = found.logits
        if quant == "int4-rtn":
            expected = of_four_bits.setdefault(target, runs[0])
            first, logits = next(iter(of_four_bits.items()))
            is_alike = blocks(config, target) == blocks(config, first)
            most = MOST["int4-rtn"] if is_alike else OF_OTHER_BLOCKS
            assert np.sqrt(np.mean((expected - logits) ** 2)) <= most * spread, target
        for logits in runs:
            moved = float(np.sqrt(np.mean((logits - expected) ** 2))) / spread
            assert moved <= MOST["int8" if kv == "int8" else quant], (target, quant, kv)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "overrides"),
    [
        ("portable", {"head_dim": 20}),
        ("ort", {"hidden_size": 33, "num_attention_heads": 3, "num_key_value_heads": 1}),
        ("ort", {"sliding_window": 1, "num_hidden_layers": 1}),
    ],
    ids=str,
)
def test_odd_checkpoint_is_exported_and_proved(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, target: str, overrides: dict[str, Any]
) -> None:
    out = tmp_path / "artifact"
    options = ExportOptions(quant="fp32", target=target)
    manifest = export_checkpoint(tiny_checkpoint(**overrides), out, options, gate=require_parity)
    assert manifest.parity is not None
    assert manifest.parity["same_top"] == 1
