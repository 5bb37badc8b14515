"""How fast is each kernel alone, and do all ways to attend compute one thing?"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tramontane.bench import limits
from tramontane.bench.kernels import __main__ as kernels
from tramontane.bench.kernels import graphs
from tramontane.bench.kernels.graphs import Kernel

SMALL = {
    "WINDOW": 48,
    "SLACK": 16,
    "HEADS": 4,
    "KEY_VALUE_HEADS": 2,
    "HEAD_SIZE": 16,
    "IN": 256,
    "OUT": 64,
    "ROWS": 8,
    "COPIES": 2,
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels of another shape, and limits that take no time."""
    for name, size in SMALL.items():
        monkeypatch.setattr(graphs, name, size)
    monkeypatch.setattr(kernels, "COPIES", SMALL["COPIES"])
    monkeypatch.setattr(limits, "_BUFFER_BYTES", 1 << 20)
    monkeypatch.setattr(limits, "_SIZE", 64)
    monkeypatch.setattr(graphs, "find_library", lambda: None)  # tests/native has its kernel


@pytest.mark.usefixtures("small")
def test_every_kernel_is_timed_beside_the_limits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kernels.json"
    words = ["--rounds", "2", "--threads", "1", "--out", str(path)]
    assert kernels.main(words) == 0
    printed = capsys.readouterr().out
    assert "{" not in printed
    assert printed.count("attention, 48 rows") == 4
    assert kernels.main([*words, "--json"]) == 0
    assert capsys.readouterr().out == path.read_text("utf-8")
    found = json.loads(path.read_text("utf-8"))
    assert [one["does"] for one in found["kernels"]] == [
        *["attention, 48 rows"] * 4,
        *["product, 1 row", "product, 8 rows"] * 4,
        *["gate and up, 1 row", "gate and up, 8 rows"] * 2,
    ]
    assert len({(one["does"], one["way"]) for one in found["kernels"]}) == 16
    for one in found["kernels"]:
        assert one["seconds"]["runs"] == 2
        assert one["seconds"]["low"] > 0
        assert one["of_reading"]["median"] > 0
    assert found["limits"]["read"]["runs"] == 2 * 16


def test_shares_are_of_the_limits_of_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = iter((100.0, 50.0))
    monkeypatch.setattr(kernels, "read_rate", lambda _: next(rates))
    monkeypatch.setattr(kernels, "multiply_rate", lambda _: 1000.0)
    monkeypatch.setattr(kernels, "seconds_of_runs", lambda _, runs: [0.5 * kernels.COPIES] * runs)
    kernel = Kernel(does="it", way="so", run=dict, read_bytes=25, multiplications=100)
    (found,), _ = kernels.measure([kernel], rounds=2, threads=1)
    assert found.seconds.values == (0.5, 0.5)
    assert found.of_reading.values == (0.5, 1.0)
    assert found.of_multiplying.values == (0.2, 0.2)


@pytest.mark.usefixtures("small")
def test_the_sizes_are_those_of_what_is_computed() -> None:
    attention = next(graphs.attentions(1))
    assert attention.read_bytes == 2 * 2 * 48 * 16 * 4
    assert attention.multiplications == 2 * 4 * 48 * 16
    by_way = {(one.way, one.does): one for one in graphs.products(1)}
    four = by_way["MatMulNBits, int4, block 128", "product, 8 rows"]
    assert four.read_bytes == 64 * 256 // 2 + 64 * 2 * 4
    assert four.multiplications == 8 * 64 * 256


@pytest.mark.usefixtures("small")
def test_all_ways_in_float_attend_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = {}

    def run(
        inputs: str, nodes: str, feeds: dict, scales: dict, dtype: str, threads: int
    ) -> object:
        assert scales or dtype == "float32"
        if scales or "GroupQueryAttention" in nodes:
            return dict
        shape = (1, 2, 48, 16)
        session = graphs._session(
            f"{inputs}, float[1, 2, 48, 16] k0, float[1, 2, 48, 16] v0, "
            "float[1, 2, 48, 16] k1, float[1, 2, 48, 16] v1",
            nodes,
            "float[a, b, c, d] y{n}",
            {},
            threads,
        )
        caches = {name: graphs._numbers(*shape) for name in ("k0", "v0", "k1", "v1")}
        outputs[nodes] = session.run(["y1"], {**feeds, **caches})[0]
        return dict

    monkeypatch.setattr(graphs, "_over_caches", run)
    assert len(list(graphs.attentions(1))) == 4
    one, other = outputs.values()
    np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.usefixtures("small")
def test_both_ways_of_gate_and_up_compute_one_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    codes = np.random.default_rng(0).integers(0, 256, (2 * 64, 2, 64), np.uint8)
    scales = np.full((2 * 64, 2), 1e-3, np.float32)

    def both(does: str, way: str, nodes: str, weights: dict, size: int, threads: int) -> list:
        filled = {"w{n}": codes, "scales": scales}
        if "v{n}" in weights:
            filled = {"w{n}": codes[:64], "v{n}": codes[64:], "scales": scales[:64]}
        assert {name: array.shape for name, array in filled.items()} == {
            name: array.shape for name, array in weights.items()
        }
        names = {
            name.replace("{n}", n): array for name, array in filled.items() for n in ("0", "1")
        }
        session = graphs._session(
            "float[rows, 256] x", nodes, "float[rows, 64] y{n}", names, threads
        )
        found.append(session.run(["y1"], {"x": graphs._numbers(3, 256)})[0])
        return []

    monkeypatch.setattr(graphs, "_both", both)
    assert not list(graphs.gates(1))
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


@pytest.mark.parametrize("flag", ["--rounds", "--threads"])
def test_nothing_to_time_is_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        kernels.main([flag, "0"])
    assert f"{flag} 0: expected a whole number from 1 to" in capsys.readouterr().err
