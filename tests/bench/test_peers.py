"""Do runtimes run in turns, are ratios those of a round, and is nothing guessed?"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tramontane.bench.artifact import session_speed
from tramontane.bench.artifact.speed import token_ids
from tramontane.bench.peers import (
    __main__ as peers,
)
from tramontane.bench.peers import (
    figures as peer_figures,
)
from tramontane.bench.peers.convert import NAMES, RECIPES, Peer, PeerWeights
from tramontane.bench.peers.figures import compare, sum_up
from tramontane.bench.samples import Spread
from tramontane.environments.errors import Absent
from tramontane.export.config import MistralConfig
from tramontane.graphs.quantization.recipes.all_recipes import find_recipe
from tramontane.graphs.quantization.scheme import Scheme
from tramontane.runtime.errors import ConfigError, ContractError

INT4, Q4 = "tramontane int4", "llama.cpp Q4_0"
JOB = {
    "threads": 1,
    "chunk": 64,
    "piece": 32,
    "prefill": [16],
    "prefill_tokens": 32,
    "decode": [40, 300],
    "warm_up": 2,
    "steps": 3,
    "computes_all": False,
    "tokens": token_ids(2048, 64),
}


def answer(failed: dict[str, str] | None = None, **ways: dict[str, float]) -> dict[str, Any]:
    return {"versions": {"it": "1"}, "ways": ways or {"": {}}, "failed": failed or {}}


def speeds(*values: float, what: str = "prefill 256") -> list[dict[str, Any]]:
    return [answer(plain={what: value}) for value in values]


def ratio(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], what: str) -> Any:
    measured = [sum_up(INT4, 1, ours), sum_up(Q4, 1, theirs)]
    (found,) = compare(measured, {}, [what])
    return found


def test_a_ratio_is_of_one_round_and_not_of_medians() -> None:
    found = ratio(speeds(100, 10, 300), speeds(50, 4, 200), "prefill 256")
    assert found.ratio.values == (2.0, 2.5, 1.5)
    assert found.ratio.as_json() == {
        "median": 2.0,
        "low": 1.5,
        "high": 2.5,
        "runs": 3,
        "way": "plain",
    }


@pytest.mark.parametrize(("speed", "is_met"), [(125.0, True), (124.9, False)])
def test_a_target_is_met_from_its_floor_on(speed: float, is_met: bool) -> None:
    found = ratio(speeds(speed), speeds(100), "prefill 256")
    assert found.floor == 1.25
    assert found.is_met is is_met


def test_a_speed_that_nobody_asked_for_is_neither_met_nor_missed() -> None:
    found = ratio(speeds(1, what="decode at 7"), speeds(2, what="decode at 7"), "decode at 7")
    assert (found.floor, found.is_met) == (None, None)


def test_targets_are_those_of_the_issue() -> None:
    floors = {
        ("tramontane int4", "llama.cpp Q4_0"): [1.25, 1.15],
        ("tramontane int8", "llama.cpp Q8_0"): [1.35, 1.0, 1.5, 2.5],
        ("tramontane int8-dynamic", "llama.cpp Q8_0"): [2.3, 0.95, 1.5, 2.5],
        ("tramontane int4", "onnxruntime-genai int4"): [2, 2, 2, 2],
    }
    whats = ("prefill 256", "decode at 16", "decode at 4000", "decode at 16000")
    for recipe in ("int4-b256", "int4-b256-kv-int8"):  # int4 as well
        floors[f"tramontane {recipe}", "llama.cpp Q4_0"] = [1.25, 1.15]
    cache = "tramontane int4-b256-kv-int8", "tramontane int4-b256"
    found: dict[tuple[str, str], dict[str, float]] = {}
    for (ours, theirs, what), floor in peer_figures.TARGETS.items():
        found.setdefault((ours, theirs), {})[what] = floor
    assert found.pop(cache) == {"decode at 4096": 1.15}
    assert found.pop(("tramontane int4-native", "tramontane int4")) == {"decode at 16": 1.0}
    for recipe, ours in {
        "int4-native-kv-float16": [1.2, 2.3, 3.8],
        "int4-b256-kv-int8-native": [1.4, 2.6, 3.8],
    }.items():
        long = ("decode at 4000", "decode at 16000", "decode at 32000")
        whats_of_long = dict(zip(long, ours, strict=True))
        assert found.pop((f"tramontane {recipe}", "llama.cpp Q4_0")) == whats_of_long
    expected = {pair: dict(zip(whats, of_pair, strict=False)) for pair, of_pair in floors.items()}
    assert found == expected
    assert {name for pair in peer_figures.PAIRS for name in pair} == set(NAMES)


def test_of_several_ways_each_figure_takes_the_better_and_says_which() -> None:
    ways = {
        "fast": {"decode at 16": 30.0, "resident at 16": 900.0, "load": 2.0},
        "small": {"decode at 16": 20.0, "resident at 16": 800.0, "load": 3.0},
    }
    found = sum_up(Q4, 1, [answer(**ways)]).figures
    assert found["decode at 16"] == Spread(values=(30.0,), way="fast")
    assert found["resident at 16"] == Spread(values=(800.0,), way="small")
    assert found["load"].as_json()["way"] == "fast"


def test_a_ratio_is_told_over_each_way_and_judged_over_the_better() -> None:
    theirs = [answer(fast={"decode at 16": 40.0}, slow={"decode at 16": 10.0})]
    found = ratio(speeds(44, what="decode at 16"), theirs, "decode at 16")
    assert {way: each.values for way, each in found.by_way.items()} == {
        "fast": (1.1,),
        "slow": (4.4,),
    }
    assert (found.ratio.way, found.is_met) == ("fast", False)


def test_what_failed_in_one_round_is_no_figure() -> None:
    rounds = [*speeds(1), answer(failed={"prefill 256": "out of rows"}, plain={})]
    theirs = sum_up(Q4, 1, rounds)
    assert theirs.figures == {}
    assert theirs.failed == {"prefill 256": "out of rows"}
    (found,) = compare([sum_up(INT4, 1, speeds(1, 2)), theirs], {}, ["prefill 256"])
    assert (found.ratio, found.is_met, found.why) == (None, None, f"{Q4}: failed")


class Asked:
    """Weights whose runtimes answer from a table; an Absent there is raised."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, missing: dict[str, str]) -> None:
        self.order: list[str] = []
        self.jobs: list[dict[str, Any]] = []
        self.says: Callable[[str], dict[str, Any]] = lambda _: answer(
            plain={"prefill 256": 5.0, "decode at 16": 7.0}
        )

        def peer(_: PeerWeights, name: str) -> Peer:
            if name in missing:
                raise Absent(missing[name])
            return Peer(name=name, runner=(), model=Path(name), file_bytes=1000)

        def ask(one: Peer, job: dict[str, Any], folder: Path) -> dict[str, Any]:
            self.order.append(one.name)
            self.jobs.append(job)
            return self.says(one.name)

        monkeypatch.setattr(PeerWeights, "peer", peer)
        monkeypatch.setattr(Peer, "ask", ask)


def run(model: Path, folder: Path, *words: str) -> int:
    return peers.main([str(model), "--work", str(folder), *words])


def test_runtimes_run_in_turns(
    stdlib_5m: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(monkeypatch, {})
    assert run(stdlib_5m, tmp_path, "--only", INT4, Q4, "--rounds", "3") == 0
    assert asked.order == [INT4, Q4] * 3
    (job, *others) = asked.jobs
    assert all(other == job for other in others)
    assert set(JOB) == set(job)


def test_a_run_may_measure_nothing_but_loading(
    stdlib_5m: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = Asked(monkeypatch, {})
    asked.says = lambda _: answer(plain={"load": 2.0})
    assert run(stdlib_5m, tmp_path, "--rounds", "1", "--prefill", "--decode", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["comparisons"] == []
    assert set(told["runtimes"][Q4]["figures"]) == {"load"}


def test_table_file_and_line_tell_the_same_and_name_who_is_absent(
    stdlib_5m: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    why = "pip install: exit status 1; no network"
    Asked(monkeypatch, {"onnxruntime-genai int4": why})
    out = tmp_path / "peers.json"
    words = ["--rounds", "2", "--prefill", "256", "--decode", "16", "--out", str(out)]
    assert run(stdlib_5m, tmp_path / "work", *words) == 0
    table = capsys.readouterr().out.splitlines()
    assert not any("{" in line for line in table)
    assert run(stdlib_5m, tmp_path / "work", *words, "--json") == 0
    line = capsys.readouterr().out
    assert out.read_text(encoding="utf-8") == line
    told = json.loads(line)
    assert told["absent"] == {"onnxruntime-genai int4": why}
    assert f"absent: onnxruntime-genai int4: {why}" in table
    assert set(told["runtimes"]) == set(NAMES) - {"onnxruntime-genai int4"}
    assert told["runtimes"][Q4]["figures"]["prefill 256"] == {
        "median": 5.0,
        "low": 5.0,
        "high": 5.0,
        "runs": 2,
        "way": "plain",
    }
    by = {(each["ours"], each["theirs"], each["what"]): each for each in told["comparisons"]}
    assert by[INT4, Q4, "prefill 256"]["met"] is False
    assert by["tramontane int8", "llama.cpp Q8_0", "decode at 16"]["met"] is True
    genai = by[INT4, "onnxruntime-genai int4", "prefill 256"]
    assert (genai["ratio"], genai["why"]) == (None, "onnxruntime-genai int4: absent")
    shown = [line for line in table if INT4 in line and Q4 in line and "prefill 256" in line]
    assert re.search(r"1\.00 \(1\.00-1\.00\) .* >= 1\.25 .* not met", shown[0])


def test_a_runtime_that_fails_on_the_way_is_absent_and_not_asked_again(
    stdlib_5m: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = Asked(monkeypatch, {})
    usual = asked.says

    def says(name: str) -> dict[str, Any]:
        if name == Q4 and asked.order.count(Q4) == 2:
            raise Absent("killed")
        return usual(name)

    asked.says = says
    assert run(stdlib_5m, tmp_path, "--only", INT4, Q4, "--rounds", "4", "--json") == 0
    assert (asked.order.count(INT4), asked.order.count(Q4)) == (4, 2)
    told = json.loads(capsys.readouterr().out)
    assert told["absent"] == {Q4: "killed"}
    assert set(told["runtimes"]) == {INT4}


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["--only", "nobody"], ContractError, r"nothing to measure, expected .* llama\.cpp Q4_0"),
        (["--rounds", "0"], ContractError, "--rounds 0: nothing to measure"),
        (["--decode", "4090"], ConfigError, "4096 positions, expected at least 4122"),
        (["--decode", "4"], ConfigError, "--decode 4: expected more than 4, the warm-up"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(
    stdlib_5m: Path, tmp_path: Path, words: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(stdlib_5m, tmp_path, *words)


def test_positions_are_those_asked_for_and_the_windows_own_where_they_fit() -> None:
    def found(**changes: Any) -> list[int]:
        sizes = {"sliding_window": 4096, "max_position_embeddings": 32768, **changes}
        return peers.positions(MistralConfig(**{**GEOMETRY, **sizes}))

    assert found() == [16, 2048, 4000, 4096, 16000, 20480, 32000]
    assert found(sliding_window=None) == [16, 4000, 16000, 32000]
    assert found(max_position_embeddings=4032) == [16, 2048, 4000]
    assert found(sliding_window=6, max_position_embeddings=512) == [6, 16, 30]


@pytest.mark.parametrize("name", ["embed.weight", "head.weight", "layers.3.mlp.down.weight"])
def test_the_recipe_that_is_measured_stores_matrices_as_int4_does(name: str) -> None:
    def layout(quant: str) -> Scheme:
        rule = next(rule for rule in find_recipe(quant).rules if rule.matches(name))
        scheme = rule.scheme(128)
        assert scheme is not None
        return replace(scheme, method="")

    assert layout(str(RECIPES["int4"].quant)) == layout("int4")


GEOMETRY: dict[str, Any] = {
    "architecture": "MistralForCausalLM",
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "vocab_size": 32,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e4,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_ids": (2,),
}


def test_our_runner_gives_every_figure_of_a_job(embedded_artifact: Callable[..., Path]) -> None:
    job = {**JOB, "model": str(embedded_artifact("int8-ort"))}
    figures = session_speed.measure(job)
    assert set(figures) == {
        *("load", "peak of load", "prefill 16", "decode at 40", "decode at 300"),
        *("resident at 40", "resident at 300"),
    }
    assert all(figure > 0 for figure in figures.values())
