"""Is the choice for a size the best, what it measures true, and the recipe within the size?"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tramontane.cli import main as cli
from tramontane.export.budget import fit
from tramontane.export.budget.assign import assign
from tramontane.export.budget.candidates import CANDIDATES, MEASURED
from tramontane.export.budget.fit import Budget, recipe_text
from tramontane.export.budget.kept_costs import read_table
from tramontane.export.budget.measure import measure
from tramontane.export.cache_choice import WINDOWED
from tramontane.export.calibrate.layer_walk import STAGES
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.planning.plan import plan
from tramontane.graphs.quantization.codes import dequantize
from tramontane.graphs.quantization.methods.round_to_nearest import quantize
from tramontane.graphs.quantization.recipes.all_recipes import open_recipe
from tramontane.graphs.quantization.recipes.read import parse_recipe
from tramontane.graphs.quantization.scheme import Scheme
from tramontane.graphs.targets.all_targets import find_target
from tramontane.runtime.errors import ConfigError, ContractError

from ...cli.calls import output, refusal

Write = Callable[..., Path]
RNG = np.random.default_rng(3)
SEQUENCES = [RNG.integers(0, 2048, 64) for _ in range(2)]


@pytest.mark.parametrize("seed", range(8))
def test_choice_is_the_best_of_all_that_fit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = "abcde"
    costs = {n: sorted(rng.exponential(size=3).tolist(), reverse=True) for n in names}
    sizes = {n: sorted(rng.integers(10, 1000, 3).tolist()) for n in names}
    most = int(rng.integers(sum(s[0] for s in sizes.values()), sum(s[2] for s in sizes.values())))

    def total(kind: dict[str, list], places: tuple[int, ...]) -> float:
        return sum(kind[n][p] for n, p in zip(names, places, strict=True))

    every = itertools.product(range(3), repeat=len(names))
    best = min(total(costs, p) for p in every if total(sizes, p) <= most)
    found = assign(costs, sizes, most=most)
    assert found is not None
    places = tuple(found[n] for n in names)
    assert total(sizes, places) <= most
    assert total(costs, places) == pytest.approx(best, rel=1e-6)


def test_nothing_fits_into_less_than_the_smallest() -> None:
    assert assign({"a": [1.0, 0.5]}, {"a": [10, 20]}, most=9) is None
    assert assign({"a": [1.0, 0.5]}, {"a": [10, 20]}, most=10) == {"a": 0}


@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
def test_cost_is_the_kl_of_transformers_own_model_with_that_matrix_rounded(
    tiny_checkpoint: Write, tie: bool
) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint(tie=tie))
    found = measure(checkpoint.config, checkpoint, SEQUENCES)
    assert len(found) == 2 * 7 + (1 if tie else 2)
    assert {len(each) for each in found.values()} == {len(CANDIDATES)}
    model = transformers.MistralForCausalLM.from_pretrained(checkpoint.path, dtype=torch.float32)

    def logs() -> torch.Tensor:
        with torch.no_grad():
            every = [model(torch.from_numpy(tokens)[None]).logits[0] for tokens in SEQUENCES]
        return torch.log_softmax(torch.cat(every), dim=-1)

    expected, block = logs(), 0
    matrix = model.lm_head.weight.detach().numpy().copy()

    def in_bytes(_module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        cut = inputs[0].unflatten(-1, (-1, block))
        step = cut.abs().amax(dim=-1, keepdim=True) / 127
        return ((torch.round(cut / step) * step).flatten(-2),)

    model.lm_head.register_forward_pre_hook(in_bytes)
    for place, candidate in enumerate(CANDIDATES):  # the head is rounded to nearest
        scheme = candidate.fitted(matrix.shape[1])
        block = scheme.block
        near = dequantize(quantize(matrix, scheme), scheme, columns=matrix.shape[1])
        model.lm_head.weight.data = torch.from_numpy(near)
        kl = float((expected.exp() * (expected - logs())).sum(dim=-1).mean())
        is_close = 0.05 if place in MEASURED and not tie else 0.3
        assert found["head.weight"][place] == pytest.approx(kl, rel=is_close), candidate
    for name, costs in found.items():
        of = dict(zip(CANDIDATES, costs, strict=True))
        two, four, eight = (
            next(cost for one, cost in of.items() if (one.bits, one.block) == (bits, 32))
            for bits in (2, 4, 8)
        )
        assert two > four > eight > 0, name


@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("target", ["ort", "portable"])
def test_recipe_keeps_to_its_size_and_is_no_worse_than_four_bits_everywhere(
    tiny_checkpoint: Write, tie: bool, target: str
) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint(tie=tie))
    config = checkpoint.config
    costs = measure(config, checkpoint, SEQUENCES)
    budget = Budget(config, target=find_target(target), cache=WINDOWED, costs=costs)
    frontier = budget.frontier()
    assert [one.kl for one in frontier] == sorted((one.kl for one in frontier), reverse=True)
    int4 = plan(config, quant="int4", target=target).memory.weights_bytes
    found = budget.fit(most=int4, flag="--size")
    assert found.weights_bytes <= int4
    four, eight = (
        CANDIDATES.index(Scheme(bits=bits, block=128, method="gptq")) for bits in (4, 8)
    )
    head = costs["head.weight"][eight]  # of int4: 8 bits, and of the tied matrix too
    others = sum(each[four] for name, each in costs.items() if "head" not in name)
    assert found.kl <= others + head
    recipe = parse_recipe(recipe_text(found, model="tiny"), name="fit")
    planned = plan(config, quant=recipe, target=target)
    assert planned.memory.weights_bytes == found.weights_bytes
    with pytest.raises(
        ConfigError, match=r"--size: 1.00 kB of weights, expected at least .*give at least --size"
    ):
        budget.fit(most=1000, flag="--size")


@pytest.mark.slow
def test_command_writes_a_recipe_and_measures_once(
    tiny_checkpoint: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(fit, "_folder", lambda: tmp_path / "kept")
    checkpoint, out = tiny_checkpoint(), tmp_path / "a" / "my.toml"
    int4 = plan(Checkpoint.open(checkpoint).config, quant="int4", target="ort")
    bits = int4.bits_per_weight + 1
    said = output(capsys, "budget", checkpoint, "--bits", bits, "--out", out, "--json")
    found = json.loads(said.splitlines()[-1])
    assert found["bits per weight"] <= bits
    assert len(found["frontier"]) > 10
    assert "<svg" in out.with_suffix(".svg").read_text()
    assert open_recipe(out).rounds_in_calibration
    monkeypatch.setattr(fit, "measure", None)  # a second budget measures nothing
    output(capsys, "budget", checkpoint, "--size", "1MB", "--out", out)
    neither = refusal(capsys, "budget", checkpoint, "--out", out, "--json")
    assert "--size, --bits: neither is given" in neither
    assert "--bits 0.5: expected 1 to 32" in refusal(
        capsys, "budget", checkpoint, "--bits", "0.5", "--out", out, "--json"
    )
    assert cli.main(["export", str(checkpoint), "--recipe", str(out), "--print-out"]) == 0


def test_a_name_that_the_recipe_or_its_plot_cannot_have_is_refused_first(
    stdlib_5m: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, expected in (
        ("my.svg", "is the name of the plot, expected that of a recipe"),
        ("folder", "folder is no regular file, expected a new name"),
        ("my.toml", "my.svg is no regular file, expected a new name"),
    ):
        (tmp_path / ("my.svg" if name == "my.toml" else "folder")).mkdir(exist_ok=True)
        before = sorted(tmp_path.iterdir())
        out = tmp_path / name
        assert expected in refusal(capsys, "budget", stdlib_5m, "--bits", "5", "--out", out)
        assert sorted(tmp_path.iterdir()) == before


@pytest.fixture(scope="module")
def costs_of_tiny() -> dict[str, list[float]]:
    """A table as it is kept, of a tied model of one layer."""
    layer = [f"layers.0.{name}.weight" for name in itertools.chain.from_iterable(STAGES)]
    return {name: [0.5] * len(CANDIDATES) for name in (*layer, "head.weight")}


Table = dict[str, list[float]]
DAMAGES: list[tuple[Callable[[Table], object], str]] = [
    (lambda _: [], "holds a list, expected an object"),
    (
        lambda table: {f"{name}s": each for name, each in table.items()},
        "has costs of 'head.weights', expected those of the model's 8 matrices",
    ),
    (
        lambda table: {name: each for name, each in table.items() if "up" not in name},
        "has no costs of layers.0.mlp.up.weight, expected those of the model's 8 matrices",
    ),
    (
        lambda table: {**table, "head.weight": [1.5, None]},
        "costs.'head.weight'[1] is None, expected a finite number",
    ),
    (lambda table: {**table, "head.weight": 1}, "costs.'head.weight' is 1, expected a list"),
    (
        lambda table: {**table, "head.weight": [1.5]},
        "costs of head.weight are [1.5], expected 11 numbers from 0",
    ),
    (lambda table: {**table, "head.weight": [-1.0] * 11}, "expected 11 numbers from 0"),
]


@pytest.mark.parametrize(("damage", "said"), DAMAGES, ids=[said[:30] for _, said in DAMAGES])
def test_a_table_of_other_costs_is_refused(
    tiny_checkpoint: Write,
    tmp_path: Path,
    costs_of_tiny: Table,
    damage: Callable[[Table], object],
    said: str,
) -> None:
    with Checkpoint.open(tiny_checkpoint(num_hidden_layers=1, tie=True)) as checkpoint:
        config = checkpoint.config
    table = tmp_path / "table.json"
    table.write_text(json.dumps(costs_of_tiny))
    assert read_table(table, config) == costs_of_tiny
    table.write_text(json.dumps(damage(costs_of_tiny)))
    with pytest.raises(ContractError, match=re.escape(said)) as refused:
        read_table(table, config)
    assert str(refused.value).startswith(f"{table}: ")
    assert str(refused.value).endswith("; its costs are measured anew")


@pytest.mark.slow
@pytest.mark.parametrize("damage", [b"\xff\0", b'{"a": [1.5]}'])
def test_a_damaged_table_of_costs_is_named_and_measured_anew(
    tiny_checkpoint: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: bytes,
) -> None:
    monkeypatch.setattr(fit, "_folder", lambda: tmp_path)
    with Checkpoint.open(tiny_checkpoint()) as checkpoint:
        texts = ("def f(x):\n    return x\n" * 400,)
        first = fit.sensitivities(checkpoint.config, checkpoint, texts, tokens=256)
        (table,) = tmp_path.glob("*.json")
        whole = table.read_bytes()
        table.write_bytes(damage)
        capsys.readouterr()
        again = fit.sensitivities(checkpoint.config, checkpoint, texts, tokens=256)
    assert again == first
    assert table.read_bytes() == whole
    said = capsys.readouterr().err.splitlines()[0]
    assert str(table) in said
    assert said.endswith("; its costs are measured anew")


@pytest.mark.parametrize("target", ["ort", "portable"])
def test_every_size_above_the_smallest_is_met_and_hardly_undercut(
    stdlib_5m: Path, target: str
) -> None:
    config = Checkpoint.open(stdlib_5m).config
    names = [f"{name}.weight" for name in ("embedding", "head")] + [
        f"layers.{layer}.{name}.weight"
        for layer in range(config.num_hidden_layers)
        for name in itertools.chain.from_iterable(STAGES)
    ]
    rng = np.random.default_rng(5)
    costs = {n: sorted(rng.exponential(size=len(CANDIDATES)), reverse=True) for n in names}
    budget = Budget(config, target=find_target(target), cache=WINDOWED, costs=costs)
    for most in range(3_500_000, 4_600_000, 300_001):
        found = budget.fit(most=most, flag="--size")
        assert 0.99 * most < found.weights_bytes <= most
