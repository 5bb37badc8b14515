"""Are the weights of the other runtimes those of the checkpoint, made once, and kept where they are ours?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tramontane.bench.artifact.speed import token_ids
from tramontane.bench.peers import (
    convert,
    llama_runtime,
)
from tramontane.bench.peers.convert import PeerWeights
from tramontane.environments import python
from tramontane.environments.errors import Absent
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.runtime.errors import ParityError
from tramontane.validate.reference.reference import Reference
from tramontane.validate.reference.reference_cache import Store

INT4, Q4 = "tramontane int4", "llama.cpp Q4_0"


def test_tokens_are_of_the_vocabulary_and_none_controls() -> None:
    tokens = token_ids(32, 1000)
    assert set(tokens) == set(range(3, 32))


@pytest.fixture
def made(
    stdlib_5m: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[PeerWeights, list[str]]:
    """Weights whose exporter only notes what it was asked for."""
    exports: list[str] = []

    def export(_: Path, out: Path, options: Any, *, resume: bool) -> None:
        exports.append(options.quant)
        (out / "onnx").mkdir(parents=True)
        (out / "onnx" / "model.onnx").write_bytes(b"graph")

    monkeypatch.setattr(convert, "export_checkpoint", export)
    return PeerWeights(stdlib_5m, tmp_path / "work", threads=1), exports


def test_weights_are_made_once(made: tuple[PeerWeights, list[str]]) -> None:
    weights, exports = made
    first, second = (weights.peer(INT4) for _ in range(2))
    assert first == second
    assert exports == ["int4-rtn"]  # the layout of int4
    assert (first.model.name, first.file_bytes) == ("artifact", 5)


def test_weights_are_made_anew_by_other_code(
    made: tuple[PeerWeights, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, exports = made
    before = weights.peer(INT4).model
    (before / "old").touch()
    monkeypatch.setattr(convert, "weights_code_digest", lambda: "another")
    assert not (weights.peer(INT4).model / "old").exists()
    assert exports == ["int4-rtn"] * 2


def test_a_folder_that_is_not_ours_is_named_and_stays(
    made: tuple[PeerWeights, list[str]], tmp_path: Path
) -> None:
    theirs = tmp_path / "work" / "ours-int4" / "notes.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    with pytest.raises(Absent, match="ours-int4: exists and was not made by tramontane"):
        made[0].peer(INT4)
    assert theirs.read_text() == "mine"


@pytest.mark.parametrize("name", [Q4, "onnxruntime-genai int4"])
def test_a_runtime_that_cannot_be_installed_is_absent(
    made: tuple[PeerWeights, list[str]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def install(*_: object) -> Path:
        raise Absent("no compiler")

    monkeypatch.setattr(python, "python_with", install)
    with pytest.raises(Absent, match="no compiler"):
        made[0].peer(name)


@pytest.fixture
def llama(
    stdlib_5m: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[float], None]:
    """In llama.cpp's place, the reference with so much noise; it quantizes to empty files."""

    def act(noise: float) -> None:
        checkpoint = Checkpoint.open(stdlib_5m)

        def ask(_: object, job: dict[str, Any], __: Path) -> dict[str, Any]:
            for path in job.get("quantize", {}).values():
                Path(path).touch()
            if "logits" in job:
                store = Store(tmp_path / "store")
                reference = Reference(
                    checkpoint.config, checkpoint, store=store, track=lambda items, _: items
                )
                (found,) = reference.runs([np.array(job["score"])])
                rng = np.random.default_rng(0)
                logits = found.logits + noise * rng.standard_normal(found.logits.shape)
                logits.astype("<f4").tofile(job["logits"])
            return {"failed": []}

        monkeypatch.setattr(llama_runtime, "ask", ask)
        monkeypatch.setattr(python, "python_with", lambda *_: Path("python"))

    return act


def test_the_file_that_llama_cpp_quantizes_is_proved_and_not_kept(
    made: tuple[PeerWeights, list[str]], llama: Callable[[float], None]
) -> None:
    llama(0.01)
    path = made[0].peer(Q4).model
    assert sorted(each.name for each in path.parent.glob("*.gguf")) == [
        "Q4_0.gguf",
        "Q4_K_M.gguf",
        "Q8_0.gguf",
    ]


def test_another_models_logits_stop_the_measurement(
    made: tuple[PeerWeights, list[str]], llama: Callable[[float], None]
) -> None:
    llama(0.2)
    with pytest.raises(ParityError, match=r"whole\.gguf: mean KL .* expected at most 1e-03"):
        made[0].peer(Q4)
