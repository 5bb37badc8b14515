"""Does the comparison with llama.cpp find files that are read otherwise, and name those refused?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tramontane.bench.peers import gguf_types, llama_runtime
from tramontane.bench.peers.gguf_types import (
    KL_BOUND,
    ROUNDED_KL_BOUND,
    FileRead,
    as_markdown,
    main,
)
from tramontane.environments import python
from tramontane.environments.errors import Absent
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.validate.figures import compare

Write = Callable[..., Path]
KINDS = ["F16", "Q8_0", "Q1_0", "Q9_9"]  # the last one is not made


def rewritten(source: str, path: str, kind: str) -> None:
    """A GGUF file again, its matrices of another type, by the gguf package alone."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, "llama")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            kinds = [field.types[0], field.types[-1] if len(field.types) > 1 else None]
            writer.add_key_value(field.name, field.contents(), *kinds)
    for tensor in reader.tensors:
        dtype = gguf.GGMLQuantizationType[kind if len(tensor.shape) > 1 else "F32"]
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        if kind == "Q1_0" and len(tensor.shape) > 1:
            data = np.zeros((len(values), values.shape[1] // 128 * 18), np.uint8)
        else:
            data = gguf.quantize(values, dtype)
        raw = dtype if data.dtype == np.uint8 else None
        writer.add_tensor(tensor.name, data, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def llama(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """In llama.cpp's place, the gguf package; its weights and logits may be others."""

    def act(*, weights: float = 0.0, noise: float = 0.0) -> None:
        def ask(_: object, job: dict[str, Any], __: Path) -> dict[str, Any]:
            if "list" in job:
                return {"version": "0", "kinds": KINDS, "types": ["F16", "Q8_0", "Q5_1"]}
            made = {**job.get("quantize", {}), **job.get("all", {})}
            for path in job.get("save", {}).values():
                rewritten(job["model"], path, "F32")
            for kind, path in made.items():
                if kind != "Q9_9":
                    rewritten(job["model"], path, kind)
            for source, path in job.get("dequantize", {}).items():
                rewritten(source, path, "F32")
                if weights:
                    changed = gguf.GGUFReader(path, "r+")
                    changed.tensors[3].data[0, :2] += np.float32(weights)
                    changed.data.flush()
            return {"failed": ["Q9_9"] if "Q9_9" in made else []}

        def logits(checkpoint: Checkpoint, _: Path, tokens: list[int], **__: int) -> Any:
            rng = np.random.default_rng(0)
            ours = rng.normal(size=(len(tokens), checkpoint.config.vocab_size))
            return compare(ours, ours + noise * rng.normal(size=ours.shape), np.array(tokens))

        monkeypatch.setattr(llama_runtime, "ask", ask)
        monkeypatch.setattr(llama_runtime, "compare_logits", logits)
        monkeypatch.setattr(python, "python_with", lambda *_: Path("python"))

    return act


@pytest.fixture
def model(tiny_checkpoint: Write) -> Path:
    return tiny_checkpoint(hidden_size=128, num_attention_heads=8)


@pytest.mark.slow
def test_each_kind_and_each_type_that_no_kind_has_is_compared(
    model: Path, llama: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    llama()
    assert main([str(model), "--out", str(tmp_path / "page.md")]) == 0
    page = (tmp_path / "page.md").read_text()
    assert page in capsys.readouterr().out
    for kind in ("F16", "Q8_0", "Q5_1"):
        assert f"| {kind} | {kind} | 0 | 0.0e+00 | 0.0e+00 | 100% | same |" in page
    assert "| saved by llama.cpp | F32 | 0 | " in page
    assert "| Q1_0 | token_embd.weight is of type Q1_0 |  |  |  |  | refused |" in page
    assert "Q9_9" not in page


@pytest.mark.slow
@pytest.mark.parametrize("other", [{"weights": 1e-6}, {"noise": 0.5}], ids=str)
def test_other_weights_and_other_logits_fail(
    model: Path,
    llama: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    other: dict[str, float],
) -> None:
    llama(**other)
    assert main([str(model), "--only", "Q8_0"]) == 1
    row = next(line for line in capsys.readouterr().out.splitlines() if "| Q8_0 | " in line)
    assert row.endswith("| **differs** |")
    assert ("| 2 |" in row) == ("weights" in other)


@pytest.mark.slow
def test_narrow_model_has_a_table_of_kinds_that_fall_back(
    model: Path,
    llama: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tiny_checkpoint: Write,
) -> None:
    llama()
    monkeypatch.setattr(gguf_types, "_FALLING_BACK", ("F16",))
    assert main([str(model), "--narrow", str(tiny_checkpoint())]) == 0
    first, second = capsys.readouterr().out.split("\n## ")[1:]
    assert "| Q8_0 |" in first
    assert "| Q8_0 |" not in second
    assert "| F16 |" in second


def test_kind_that_is_not_made_is_named(
    model: Path, llama: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    llama()
    with pytest.raises(gguf_types.ContractError, match="--only Q7_K: expected kinds of F16, Q8_0"):
        main([str(model), "--only", "Q7_K"])


def test_llama_cpp_that_cannot_be_built_is_named(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def install(*_: object) -> Path:
        raise Absent("no compiler")

    monkeypatch.setattr(python, "python_with", install)
    with pytest.raises(
        gguf_types.ContractError, match=r"llama\.cpp: cannot be .* \(no compiler\)"
    ):
        main([str(model)])


def test_logits_at_the_bound_are_the_same() -> None:
    row = FileRead(kind="Q8_0", types="Q8_0", differing=0, mean_kl=KL_BOUND)
    assert row.verdict == "same"
    assert dataclasses.replace(row, rounded_mean_kl=ROUNDED_KL_BOUND).verdict == "same"
    assert dataclasses.replace(row, rounded_mean_kl=2 * ROUNDED_KL_BOUND).verdict != "same"
    assert dataclasses.replace(row, mean_kl=2 * KL_BOUND).verdict != "same"
    assert "## m\n" in as_markdown({"m": [row]}, version="1")
