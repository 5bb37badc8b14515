"""Does an artifact with keys and values in 8 bits come out, decode and get its proof?"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tramontane.cli import main as cli
from tramontane.console import status
from tramontane.export.build import (
    export_checkpoint,
)
from tramontane.export.options import (
    ExportOptions,
)
from tramontane.runtime import Sampler, Session, minimal_decode
from tramontane.runtime.contract import DATA_FILE, MODEL_FILE
from tramontane.runtime.manifest import read_manifest

LENGTH = 100  # twelve windows of 8; rows leave the cache of 24 five times
# A number halfway between two steps may be rounded either way by sums in another order: then one
# code differs by one, and logits near 5 by what a key of 16 numbers can make of it.
LOGITS_TOLERANCE = 0.05


@pytest.fixture(scope="module")
def artifact(
    tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Artifacts of a tiny model, by what keys and values are held in and whether rows leave."""
    root = tmp_path_factory.mktemp("int8_cache")

    def export(kv: str = "int8", cache: str = "windowed") -> Path:
        out = root / f"{kv}-{cache}"
        if not out.exists():
            options = ExportOptions(quant="fp32", target="ort", kv=kv, cache=cache)
            export_checkpoint(tiny_checkpoint(), out, options)
        return out

    return export


def tokens(count: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(1).integers(3, 2048, count)]


def fed(session: Session, cuts: list[int]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Logits of all tokens, fed in pieces, and the codes that are held at the end."""
    session.reset()
    sequence, made = iter(tokens(sum(cuts))), []
    for size in cuts:
        piece = [next(sequence) for _ in range(size)]
        made.append(session.prefill(piece, all_logits=True, chunk=size))
    return np.concatenate(made), [rows for pair in session.cache() for rows in pair]


@pytest.mark.parametrize("cache", ["windowed", "growing"])
@pytest.mark.parametrize("cuts", [[1] * LENGTH, [7, 1, 24, 25, 43], [99, 1]])
def test_it_matters_not_how_tokens_are_fed(
    artifact: Callable[..., Path], cache: str, cuts: list[int]
) -> None:
    session = Session.load(artifact(cache=cache))
    expected, held = fed(session, [LENGTH])
    found, codes = fed(session, cuts)
    np.testing.assert_allclose(found, expected, rtol=0, atol=LOGITS_TOLERANCE)
    assert np.abs(expected).max() > 50 * LOGITS_TOLERANCE
    for rows, others in zip(codes, held, strict=True):
        assert rows.dtype == np.int8
        assert rows.shape == (2, session.manifest.geometry.layers[0].held(LENGTH), 16)
        assert np.abs(rows.astype(int) - others).max() <= 1
        assert rows.std() > 16  # the 8 bits are made use of


def test_cache_that_grows_gives_what_one_of_a_window_gives(artifact: Callable[..., Path]) -> None:
    windowed, growing = (
        fed(Session.load(artifact(cache=cache)), [LENGTH])[0] for cache in ("windowed", "growing")
    )
    np.testing.assert_allclose(growing, windowed, rtol=0, atol=LOGITS_TOLERANCE)


def test_logits_are_near_those_of_a_float_cache_and_not_the_same(
    artifact: Callable[..., Path],
) -> None:
    rounded, exact = (fed(Session.load(artifact(kv)), [LENGTH])[0] for kv in ("int8", "float32"))
    difference = np.abs(rounded - exact)
    assert 0 < difference.mean() < 0.03 * exact.std()


def test_cache_takes_a_quarter_of_the_memory_and_the_manifest_says_why(
    artifact: Callable[..., Path],
) -> None:
    rounded, exact = (read_manifest(artifact(kv)) for kv in ("int8", "float32"))
    assert (rounded.geometry.cache_dtype, exact.geometry.cache_dtype) == ("int8", "float32")
    assert 4 * rounded.memory.cache_bytes_at_most == exact.memory.cache_bytes_at_most
    scales = [entry for entry in rounded.tensors if entry["name"].startswith("cache_scales")]
    assert len(scales) == 2 * rounded.geometry.num_layers
    assert {entry["why_float"] for entry in scales} == {"scales of the cache's channels"}
    assert not [entry for entry in exact.tensors if entry["name"].startswith("cache_scales")]


def test_session_that_is_reset_forgets_its_codes(artifact: Callable[..., Path]) -> None:
    session = Session.load(artifact())
    fresh = session.prefill(tokens(40))
    session.reset()
    session.prefill(tokens(90)[50:])
    session.reset()
    np.testing.assert_array_equal(session.prefill(tokens(40)), fresh)


def test_script_of_the_card_decodes_as_the_driver_does(artifact: Callable[..., Path]) -> None:
    session, prompt = Session.load(artifact()), tokens(30)
    expected = session.generate(prompt, max_new_tokens=20, sampler=Sampler()).finish().tokens
    asked = [sys.executable, minimal_decode.__file__, artifact(), "20", *map(str, prompt)]
    said = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
    assert [int(token) for token in said.split()][: len(expected)] == expected


def test_card_says_which_runtimes_take_it(artifact: Callable[..., Path]) -> None:
    rounded, exact = ((artifact(kv) / "README.md").read_text() for kv in ("int8", "float32"))
    assert "| KV cache type | int8, one scale for each channel |" in rounded
    assert "transformers.js allocates a KV cache of float32 only" in rounded
    assert 'from "@huggingface/transformers"' not in rounded
    assert "onnxruntime_genai" in rounded
    assert "cache_dtype: int8" in rounded
    assert "| KV cache type | float32 |" in exact
    assert 'from "@huggingface/transformers"' in exact
    config = json.loads((artifact() / "config.json").read_bytes())
    assert config["transformers.js_config"]["kv_cache_dtype"] == "int8"


def test_same_checkpoint_gives_the_same_bytes(
    artifact: Callable[..., Path], tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    again = tmp_path / "again"
    export_checkpoint(
        tiny_checkpoint(), again, ExportOptions(quant="fp32", target="ort", kv="int8")
    )
    for name in (MODEL_FILE, DATA_FILE):
        assert (again / name).read_bytes() == (artifact() / name).read_bytes()


@pytest.mark.slow
def test_export_is_proved_and_inspected(
    stdlib_5m: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["export", str(stdlib_5m), "--quant", "fp32", "--kv", "int8", "--out", str(out)]
    assert cli.main(arguments) == 0
    parity = read_manifest(out).parity
    assert parity is not None
    assert 1e-6 < parity["mean_kl"] < 1e-3
    capsys.readouterr()
    assert cli.main(["inspect", str(out)]) == 0
    assert re.search(r"cache +61\.44 kB at most, 80 rows, int8", capsys.readouterr().out)
    assert cli.main(["inspect", str(out / MODEL_FILE)]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "portable"], "--target portable --kv int8: no kernel of it reads"),
        (["--target", "web"], "--target web --kv int8: no kernel of it reads"),
    ],
)
def test_target_without_a_kernel_is_refused_before_anything_is_written(
    stdlib_5m: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    out = tmp_path / "out"
    for more in ([], ["--no-validate"]):
        arguments = ["export", str(stdlib_5m), "--kv", "int8", *options, *more]
        assert cli.main([*arguments, "--out", str(out)]) == status.EXIT_BAD_INPUT
        assert message in capsys.readouterr().err
        assert not list(tmp_path.iterdir())


def test_head_size_that_the_kernel_does_not_take_is_refused(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tiny_checkpoint(head_dim=8)
    arguments = ["export", str(checkpoint), "--kv", "int8", "--out", str(tmp_path / "out")]
    assert cli.main([*arguments, "--no-validate"]) == status.EXIT_BAD_INPUT
    assert "--kv int8: heads of 8 numbers, expected a multiple of 16" in capsys.readouterr().err


def test_unknown_type_of_the_cache_is_refused(
    stdlib_5m: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["export", str(stdlib_5m), "--kv", "int9"])
    assert stop.value.code == status.EXIT_BAD_INPUT
    assert "--kv" in capsys.readouterr().err
