"""Are the maxima those of what flows through transformers' own model?"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tramontane.console.processes import ask_module
from tramontane.console.text_file import read_text
from tramontane.export.calibrate.calibrate import calibrate
from tramontane.export.calibrate.calibrate_subprocess import calibrate_in_subprocess
from tramontane.export.calibrate.tokens import (
    TEXT,
    TOKENS_FOR_MAXIMA,
    CalibrationTokens,
    calibration_tokens,
    digest_of,
)
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.graphs.quantization.activation_ranges import Calibration, LayerMaxima
from tramontane.runtime.errors import CheckpointError, ConfigError, GraphError, TraceError

Write = Callable[..., Path]
ROPE_READER = "transformers.models.mistral.modeling_mistral.apply_rotary_pos_emb"
SEQUENCES = [np.arange(5, 25) * 7, np.arange(30)[::-1] * 11]  # both longer than the window of 8
TOKENS = CalibrationTokens(text=SEQUENCES[:1], random=SEQUENCES[1])


def seen_by_transformers(checkpoint: Path) -> dict[str, np.ndarray]:
    """Maxima by name, e.g. ``0.keys``, from the cache."""
    model = transformers.MistralForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    found: dict[str, np.ndarray] = {}

    def note(name: str, rows: torch.Tensor) -> None:
        maxima = rows.detach().abs().amax(dim=0).numpy()
        found[name] = np.maximum(maxima, found.get(name, 0))

    for tokens in SEQUENCES:
        cache = transformers.DynamicCache()  # without a config: no row is dropped
        with torch.no_grad():
            model(torch.from_numpy(tokens)[None], past_key_values=cache, use_cache=True)
        for i, rows in enumerate(cache.layers):
            note(f"{i}.keys", rows.keys[0].transpose(0, 1))
            note(f"{i}.values", rows.values[0].transpose(0, 1))
    return found


def test_maxima_are_those_of_transformers_own_model(tiny_checkpoint: Write) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint())
    expected = seen_by_transformers(checkpoint.path)
    found = calibrate(checkpoint.config, checkpoint, TOKENS)
    assert len(found.layers) == 2
    assert len(expected) == 2 * 2
    for name, maxima in expected.items():
        number, _, kind = name.rpartition(".")
        ours = getattr(found.layers[int(number)], kind)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, maxima, rtol=2e-5, err_msg=name)


def test_maxima_grow_with_the_sequences_and_their_order_does_not_matter(
    tiny_checkpoint: Write,
) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint())
    one, both, turned = (
        calibrate(checkpoint.config, checkpoint, CalibrationTokens(text=text, random=last))
        for *text, last in (SEQUENCES[:1], SEQUENCES, SEQUENCES[::-1])
    )
    assert both.to_bytes() == turned.to_bytes()
    assert (both.layers[1].keys >= one.layers[1].keys).all()
    assert (both.layers[1].keys > one.layers[1].keys).any()


@pytest.mark.slow
def test_what_is_found_apart_is_what_is_found_here(tiny_checkpoint: Write) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint())
    config, text = checkpoint.config, "for name in names:\n    print(name)\n" * 20
    here = calibrate(config, checkpoint, calibration_tokens(config, checkpoint, (text,), most=512))
    apart = calibrate_in_subprocess(config, checkpoint, (text,), tokens=512)
    assert apart.to_bytes() == here.to_bytes()


def test_text_of_calibration_shares_no_line_with_the_text_that_parity_is_measured_on() -> None:
    from tramontane.validate.sequences.tokens import SAMPLE

    def lines(path: Path) -> set[str]:
        return {line.strip() for line in path.read_text().splitlines() if len(line.strip()) > 20}

    assert lines(TEXT).isdisjoint(lines(SAMPLE))


def test_text_is_cut_where_positions_end_and_every_piece_begins_as_a_prompt(
    stdlib_5m: Path, tiny_checkpoint: Write
) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint())
    found = calibration_tokens(
        checkpoint.config,
        checkpoint,
        (TEXT.read_text(encoding="utf-8"),),
        most=TOKENS_FOR_MAXIMA,
    )
    assert [len(piece) for piece in found.text] == [256] * 4
    assert {int(piece[0]) for piece in found.text} == {1}
    assert len(found.random) == 256
    assert found.random.max() < checkpoint.config.vocab_size


def test_sequences_of_several_texts_are_taken_in_turn(tiny_checkpoint: Write) -> None:
    """As many from each, until there are enough or a text ends."""
    checkpoint = Checkpoint.open(tiny_checkpoint())
    whole = TEXT.read_text(encoding="utf-8")
    texts = whole[:20_000], whole[-20_000:], whole[30_000:31_500]

    def cut(*some: str, most: int) -> list[list[int]]:
        found = calibration_tokens(checkpoint.config, checkpoint, some, most=most)
        return [piece.tolist() for piece in found.text]

    first, second, third = (cut(text, most=4096) for text in texts)
    assert cut(*texts, most=2048) == [first[0], second[0], third[0], first[1]]
    many = cut(*texts, most=4096)
    assert len(many) == 8
    assert [piece for piece in many if piece in third] == third
    assert digest_of(texts) != digest_of([whole]) != digest_of(texts[::-1])
    with pytest.raises(ConfigError, match="--calibration-text 2 of 2: 2 tokens, expected at"):
        cut(whole, "return x", most=512)


@pytest.mark.slow
def test_text_of_a_few_words_is_refused(tiny_checkpoint: Write, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint())
    with pytest.raises(ConfigError, match="--calibration-text: 2 tokens, expected at least 32"):
        calibrate_in_subprocess(checkpoint.config, checkpoint, ("return x",), tokens=512)
    with pytest.raises(ConfigError, match="--calibration-text .*nowhere.txt.*name a UTF-8"):
        read_text(tmp_path / "nowhere.txt", flag="--calibration-text")


@pytest.mark.slow
def test_weight_that_is_no_number_is_named_from_the_other_process(
    tiny_checkpoint: Write, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny_checkpoint(), tmp_path / "broken")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    checkpoint = Checkpoint.open(folder)
    with pytest.raises(CheckpointError, match="layers.1.mlp.up_proj.weight holds 1 values"):
        text = TEXT.read_text(encoding="utf-8")
        calibrate_in_subprocess(checkpoint.config, checkpoint, (text,), tokens=512)


def test_process_that_fails_or_is_killed_is_told(
    tiny_checkpoint: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint())
    run = subprocess.run
    for code, told in (
        ("import os; os.kill(os.getpid(), 9)", "ended by signal 9, .* memory ran out"),
        ("raise SystemExit(1)", "status 1, expected 0; this is a bug"),
    ):
        command = [sys.executable, "-c", code]
        monkeypatch.setattr(
            ask_module.subprocess,
            "run",
            lambda _, command=command, **options: run(command, **options),
        )
        with pytest.raises(TraceError, match=told):
            calibrate_in_subprocess(checkpoint.config, checkpoint, ("text",), tokens=512)


def test_maxima_and_divisors_come_back_from_bytes_and_other_bytes_are_refused() -> None:
    arrays = {k: np.ones(3, np.float32) for k in LayerMaxima.__dataclass_fields__}
    divisors = {"layers.1.mlp_norm.weight": np.array([1, 4], np.float32)}
    written = Calibration(layers=(LayerMaxima(**arrays),) * 2, divisors=divisors)
    again = Calibration.from_bytes(written.to_bytes())
    assert len(again.layers) == 2
    np.testing.assert_array_equal(again.layers[1].keys, arrays["keys"])
    assert {name: found.tolist() for name, found in again.divisors.items()} == {
        "layers.1.mlp_norm.weight": [1, 4]
    }
    with pytest.raises(GraphError, match="calibration: no arrays can be read .*calibrate again"):
        Calibration.from_bytes(b"no npz")
