"""Does a plan, made from sizes alone, say what an artifact then weighs?"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tramontane.bench.export.__main__ import PLAN_ERROR
from tramontane.export.cache_choice import WINDOWED, CacheChoice, geometry_of
from tramontane.export.config import MistralConfig
from tramontane.export.formats.layouts import read_config
from tramontane.export.formats.tensor_names import parameters
from tramontane.export.known_models import GEOMETRIES, find_geometry, shorten
from tramontane.export.planning.plan import plan, plan_each
from tramontane.export.planning.planned_weights import PlannedWeights
from tramontane.export.trace.bind_weights import bind
from tramontane.export.trace.trace import trace
from tramontane.graphs import pipeline
from tramontane.graphs.quantization.activation_ranges import Calibration, LayerMaxima
from tramontane.graphs.quantization.recipes.all_recipes import find_recipe, recipe_names
from tramontane.graphs.quantization.recipes.recipe import DEFAULT_BLOCK
from tramontane.graphs.targets.all_targets import TARGETS, find_target
from tramontane.graphs.writing import external_data
from tramontane.runtime.errors import GraphError

from ...support.once import keep_torchlib

SHORTENED = [
    *((name, 1) for name in GEOMETRIES),
    ("mistral-7b-v0.1", 2),
]


RECIPES = [(target, quant) for target in TARGETS for quant in find_target(target).quants()]


@functools.cache
def traced(config: MistralConfig) -> ir.Model:
    def read(name: str) -> np.ndarray:
        raise AssertionError(f"{name} was read")

    keep_torchlib()
    model = trace(config)
    bind(model.graph, read)
    return model


def evenly_loud(config: MistralConfig) -> Calibration:
    """What calibrating might find; no number of it changes a size."""
    ones = np.ones(config.hidden_size, np.float32)
    layer = LayerMaxima(**dict.fromkeys(LayerMaxima.__dataclass_fields__, ones))
    return Calibration(
        layers=(layer,) * config.num_hidden_layers,
        divisors={"norm.weight": ones, "layers.0.attention_norm.weight": ones},
    )


def weighed(config: MistralConfig, *, quant: str, target: str, block: int) -> int:
    """Bytes of the files that an export would write; no weight is computed."""
    model = traced(config).clone()
    recipe = pipeline.passes(
        target=target,
        quant=quant,
        block=block,
        calibration=evenly_loud(config) if find_recipe(quant).is_calibrated("float32") else None,
    )
    pipeline.run(model, geometry_of(config, WINDOWED), recipe)
    laid_out = external_data.places(model.graph)
    return sum(external_data.sizes(laid_out).values())


@pytest.mark.slow
@pytest.mark.parametrize(("target", "quant"), RECIPES)
@pytest.mark.parametrize("is_tied", [False, True])
def test_files_weigh_what_was_planned(
    stdlib_5m: Path, quant: str, target: str, is_tied: bool
) -> None:
    config = dataclasses.replace(
        read_config(stdlib_5m), num_hidden_layers=2, tie_word_embeddings=is_tied
    )
    for block in (32, 128):
        planned = plan(config, quant=quant, target=target, block=block).memory.weights_bytes
        found = weighed(config, quant=quant, target=target, block=block)
        assert 0 <= planned - found < external_data.ALIGNMENT_BYTES  # the last one ends the file


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_rows_that_blocks_do_not_divide_weigh_what_was_planned(
    stdlib_5m: Path, target: str
) -> None:
    config = dataclasses.replace(
        read_config(stdlib_5m), num_hidden_layers=1, hidden_size=288, intermediate_size=172
    )
    for is_tied in (False, True):
        tied = dataclasses.replace(config, tie_word_embeddings=is_tied)
        planned = plan(tied, quant="int8", target=target).memory.weights_bytes
        found = weighed(tied, quant="int8", target=target, block=128)
        assert 0 <= planned - found < external_data.ALIGNMENT_BYTES  # the last one ends the file


@pytest.mark.parametrize(
    ("target", "quant", "bits"),
    [
        ("ort", "int8", 8.46),
        ("ort", "int4", 5.35),
        ("ort", "int8-dynamic", 8.16),
        ("portable", "int8", 8.28),
        ("portable", "int4", 5.15),
        ("web", "int8", 8.06),
    ],
)
def test_tied_model_of_576_columns_ships_few_bits_per_weight(
    target: str, quant: str, bits: float
) -> None:
    planned = plan(find_geometry("smollm2-135m"), quant=quant, target=target)
    assert planned.bits_per_weight == pytest.approx(bits, abs=0.006)


def test_bits_per_weight_count_a_tied_head_once_and_no_rope_tables() -> None:
    config = find_geometry("smollm2-135m")
    most = 32 + 8 * 10**5 / config.num_parameters
    for target in TARGETS:
        assert 32 <= plan(config, quant="fp32", target=target).bits_per_weight < most
        far = dataclasses.replace(config, max_position_embeddings=2**20)
        assert plan(far, quant="fp32", target=target).memory.weights_bytes == (
            plan(config, quant="fp32", target=target).memory.weights_bytes
        )


def test_rope_tables_count_as_memory() -> None:
    config = find_geometry("smollm2-135m")
    far = dataclasses.replace(config, max_position_embeddings=2 * config.max_position_embeddings)
    near_plan, far_plan = (plan(one, quant="int8", target="ort").memory for one in (config, far))
    more = far_plan.resident_weights_bytes - near_plan.resident_weights_bytes
    assert more == 4 * config.max_position_embeddings * config.head_dim


@pytest.mark.slow
@pytest.mark.parametrize(("target", "quant"), RECIPES)
@pytest.mark.parametrize(("name", "num_layers"), SHORTENED)
def test_artifact_of_billions_weighs_what_was_planned_to_the_byte(
    name: str, num_layers: int, target: str, quant: str
) -> None:
    config = shorten(find_geometry(name), num_layers)
    planned = plan(config, quant=quant, target=target).memory.weights_bytes
    assert planned == weighed(config, quant=quant, target=target, block=128)


def test_memory_adds_up_and_other_recipes_are_those_of_their_own_plans() -> None:
    config = find_geometry("llama-2-7b")
    plans = {quant: plan(config, quant=quant, target="ort").memory for quant in recipe_names()}
    for quant, memory in plans.items():
        assert memory.resident_bytes == (
            memory.resident_weights_bytes
            + memory.activation_bytes
            + memory.runtime_bytes
            + memory.cache_bytes_at_most
        )
        others = {q: other.resident_bytes for q, other in plans.items() if q != quant}
        assert memory.other_quants == others


@pytest.mark.parametrize("quant", recipe_names())
def test_every_weight_of_mistral_7b_is_of_whole_pages(quant: str) -> None:
    sizes = PlannedWeights(
        config=GEOMETRIES["mistral-7b-v0.1"],
        target=find_target("ort"),
        recipe=find_recipe(quant),
        block=DEFAULT_BLOCK,
        cache=WINDOWED,
    ).file_sizes()
    assert len(sizes) > 7 * 32  # queries, keys and values are one matrix
    factors = 2 * 32_000  # of both ends' scales, where these are bytes
    assert {size % 4096 for size in sizes if size != factors} == {0}
    assert (factors in sizes) == find_recipe(quant).has_byte_scales


def test_other_recipes_are_those_that_the_target_has() -> None:
    memory = plan(GEOMETRIES["stdlib-5m"], quant="int8", target="web").memory
    assert memory.other_quants.keys() == {"fp32", "int8-smooth"}


def test_cache_of_a_window_is_bounded_and_another_grows_to_all_positions() -> None:
    windowed = plan(GEOMETRIES["mistral-7b-v0.1"], quant="int4", target="ort").memory
    growing = plan(GEOMETRIES["mistral-7b-v0.2"], quant="int4", target="ort").memory
    assert windowed.cache_bytes_per_token == growing.cache_bytes_per_token == 262_144
    assert windowed.cache_bytes_at_most == 4608 * 262_144
    assert growing.cache_bytes_at_most == 32_768 * 262_144


def test_more_layers_raise_the_export_peak_by_no_more_than_their_graph() -> None:
    whole = GEOMETRIES["mistral-7b-v0.1"]
    few = dataclasses.replace(whole, num_hidden_layers=4)
    peaks = [
        plan(config, quant="int4-rtn", target="ort").export_peak_bytes for config in (few, whole)
    ]
    assert 0 < peaks[1] - peaks[0] <= 64 << 20
    assert max(peaks) <= 2 << 30


@pytest.mark.parametrize("name", ["ministral-3-3b", "mistral-nemo", "llama-3.2-1b"])
def test_a_large_vocabulary_keeps_the_export_peak_of_seven_billion(name: str) -> None:
    """Their embeddings take up to 2.7 GB in float32: rows of them are rounded one after another."""
    peaks = [
        plan(GEOMETRIES[name], quant=one, target="ort").export_peak_bytes
        for one in ("int8", "int4-rtn")
    ]
    assert max(peaks) <= 1 << 30


@pytest.mark.parametrize(
    ("name", "quant", "measured"),
    [
        ("ministral-3-3b", "int8", 672_700_000),
        ("ministral-3-3b", "int4-rtn", 670_460_000),
        ("llama-3.2-1b", "int8", 662_350_000),
        ("llama-3.2-1b", "int4-rtn", 661_270_000),
    ],
)
def test_planned_export_peaks_of_large_vocabularies_are_those_that_were_measured(
    name: str, quant: str, measured: int
) -> None:
    """Of two layers, by ``make bench-export``."""
    planned = plan(shorten(GEOMETRIES[name], 2), quant=quant, target="ort").export_peak_bytes
    assert planned == pytest.approx(measured, rel=PLAN_ERROR)


def test_rounding_by_calibration_takes_memory_for_the_widest_inputs_and_disk_for_its_results() -> (
    None
):
    config = GEOMETRIES["mistral-7b-v0.1"]
    plain, rounded = (plan(config, quant=one, target="ort") for one in ("int4-rtn", "int4"))
    assert rounded.memory == dataclasses.replace(
        plain.memory, other_quants=rounded.memory.other_quants
    )
    hessians = 3 * 4 * config.intermediate_size**2
    assert rounded.export_peak_bytes > hessians
    assert rounded.disk_bytes - plain.disk_bytes > plain.memory.weights_bytes


def test_unknown_block_is_refused_by_name() -> None:
    with pytest.raises(GraphError, match="--block 100: expected one of 16, 32"):
        plan(GEOMETRIES["stdlib-5m"], quant="int8", target="ort", block=100)


@pytest.mark.parametrize("head_dim", [2, 4, 12, 20, 100])
@pytest.mark.parametrize(
    ("target", "quant", "kv", "other"),
    [
        ("ort", "fp32", "float32", ""),
        ("ort", "int4", "float32", ""),
        ("ort", "int8-dynamic", "float32", " --quant int8"),
        ("ort", "int8", "int8", " --kv float32"),
        ("web", "int8", "float32", ""),
    ],
)
def test_head_size_that_no_kernel_takes_is_refused_with_a_recipe_that_takes_it(
    head_dim: int, target: str, quant: str, kv: str, other: str
) -> None:
    config = dataclasses.replace(GEOMETRIES["stdlib-5m"], head_dim=head_dim)
    with pytest.raises(GraphError) as refused:
        plan(config, quant=quant, target=target, cache=CacheChoice(dtype=kv))
    assert str(refused.value) == (
        f"--target {target}: head_dim is {head_dim}, expected a multiple of 8, as onnxruntime's "
        f"attention kernel does; take --target portable{other}, which runs any head size"
    )
    quant = "int8" if "--quant int8" in other else quant
    assert plan(config, quant=quant, target="portable").disk_bytes > 0


@pytest.mark.parametrize("head_dim", [8, 24, 80, 272])
def test_head_size_that_kernels_take_is_planned(head_dim: int) -> None:
    config = dataclasses.replace(GEOMETRIES["stdlib-5m"], head_dim=head_dim)
    for target in TARGETS:
        assert plan(config, quant="int8", target=target).disk_bytes > 0


@pytest.mark.parametrize("name", ["hidden_size", "intermediate_size"])
def test_odd_rows_are_refused_in_four_bits_and_planned_in_eight(name: str) -> None:
    config = dataclasses.replace(GEOMETRIES["stdlib-5m"], **{name: 33})
    message = "--quant int4: rows of 33 weights do not fill bytes in 4 bits, .* take --quant int8$"
    for target in ("ort", "portable"):
        with pytest.raises(GraphError, match=message):
            plan(config, quant="int4", target=target)
        eight_bits = plan(config, quant="int8", target=target)
        assert "int4" not in eight_bits.memory.other_quants
        plans, refusals = plan_each(config, target=target)
        in_four_bits = {"int4", "int4-small", "int4-rtn", "int4-rtn-small"}
        in_four_bits &= set(find_target(target).quants())
        assert set(plans) == set(find_target(target).quants()) - in_four_bits
        assert len(refusals) == len(in_four_bits)
        assert re.search(message, refusals[0])


def test_planning_each_quant_refuses_what_none_can_be_exported_in() -> None:
    config = dataclasses.replace(GEOMETRIES["stdlib-5m"], head_dim=20)
    with pytest.raises(GraphError, match="head_dim is 20"):
        plan_each(config, target="ort")
    assert not plan_each(config, target="portable")[1]


@pytest.mark.slow
def test_planning_needs_no_torch() -> None:
    code = (
        "import sys; from tramontane.export.planning.plan import plan; "
        "from tramontane.export.known_models import GEOMETRIES; "
        "plan(GEOMETRIES['stdlib-5m'], quant='int4', target='ort'); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("quant", "kv"), [("int8-dynamic", "float32"), ("int8", "int8")])
def test_what_is_calibrated_needs_a_layer_in_float_while_it_is_exported(
    quant: str, kv: str
) -> None:
    config = find_geometry("mistral-7b-v0.1")
    plain = plan(config, quant="int8", target="ort").export_peak_bytes
    calibrated = plan(config, quant=quant, target="ort", cache=CacheChoice(dtype=kv))
    layer = 4 * sum(
        math.prod(shape)
        for name, shape in parameters(config).items()
        if name.startswith("layers.0.")
    )
    assert calibrated.export_peak_bytes > max(plain, layer)
