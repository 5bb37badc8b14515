"""A checkpoint that changes while it is exported is named, and nothing takes the final name."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tramontane.console.processes import ask_module
from tramontane.export import build
from tramontane.export.build import (
    export_checkpoint,
)
from tramontane.export.calibrate import calibrate_subprocess
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.options import (
    ExportOptions,
)
from tramontane.runtime.errors import CheckpointError
from tramontane.runtime.manifest import read_manifest
from tramontane.validate.measurement import GateOptions
from tramontane.validate.run_gate import require_parity, validate

Write = Callable[..., Path]
FP32 = ExportOptions(quant="fp32", target="ort")
pytestmark = pytest.mark.skipif(os.name == "nt", reason="open files cannot be replaced there")


@pytest.fixture
def checkpoints(
    tiny_checkpoint: Write, as_mistral: Write, as_gguf: Write, tmp_path: Path
) -> Write:
    """A checkpoint of a layout, to be changed."""

    def make(layout: str) -> Path:
        sharded = {"max_shard_size": "300KB"} if layout == "sharded" else {}
        folder = shutil.copytree(tiny_checkpoint(**sharded), tmp_path / "checkpoint")
        (folder / "generation_config.json").write_text('{"eos_token_id": 2}')
        (folder / "tokenizer_config.json").write_text('{"add_bos_token": true}')
        made = {"mistral": as_mistral, "gguf": as_gguf}.get(layout)
        return folder if made is None else made(folder)

    return make


def overwrite(path: Path) -> None:
    """Write other bytes of the same count into a file, at its end."""
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(bytes(4))


def replace(path: Path) -> None:
    """Put another file, whose last bytes differ, under the same name."""
    fresh = path.with_name("fresh")
    shutil.copyfile(path, fresh)
    overwrite(fresh)
    os.replace(fresh, path)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "overwritten": (overwrite, "was written to"),
    "replaced": (replace, "was replaced by another file"),
    "cut": (lambda path: os.truncate(path, path.stat().st_size - 8), "was written to"),
    "removed": (Path.unlink, "was removed"),
}
FILES = {
    "single": ("model.safetensors", "config.json", "tokenizer.model", "tokenizer_config.json"),
    "sharded": ("model-00002-of-00003.safetensors", "model.safetensors.index.json"),
    "mistral": ("consolidated.safetensors", "params.json"),
    "gguf": ("model.gguf",),
}


def refusal(checkpoint: Path, out: Path, **options: Any) -> str:
    """What an export says; an artifact that was there before is still there, and nothing else."""
    before = sorted(path.name for path in out.parent.iterdir())
    with pytest.raises(CheckpointError) as refused:
        export_checkpoint(checkpoint, out, options.pop("recipe", FP32), **options)
    assert sorted(path.name for path in out.parent.iterdir()) == before
    return str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    ("layout", "name"), [(layout, name) for layout, names in FILES.items() for name in names]
)
def test_change_before_the_artifact_has_its_name_is_named(
    checkpoints: Write, tmp_path: Path, layout: str, name: str, change: str
) -> None:
    checkpoint = checkpoints(layout)
    if layout == "sharded" and name.startswith("model-"):
        name = sorted(path.name for path in checkpoint.glob("model-*"))[1]
    path = checkpoint if checkpoint.is_file() else checkpoint / name
    do_change, told = CHANGES[change]

    def gate(_: Path, __: Checkpoint) -> dict[str, Any]:
        do_change(path)
        return {}

    out = tmp_path / "out" / "artifact"
    out.parent.mkdir()
    said = refusal(checkpoint, out, gate=gate)
    assert said.startswith(f"{path}: {told}")
    assert said.endswith(
        "while it was being read, expected it to stay as it was; run the command again when "
        "nothing writes to the checkpoint"
    )


@pytest.mark.parametrize("label", [build.HASHING, "tracing", "writing weights"])
@pytest.mark.parametrize("change", ["overwritten", "replaced"])
def test_change_at_any_stage_is_named(
    checkpoints: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    label: str,
    change: str,
) -> None:
    checkpoint, track = checkpoints("single"), build.track

    def changing(items: Sequence[Any], told: str) -> Iterable[Any]:
        if told.startswith(label):
            CHANGES[change][0](checkpoint / "model.safetensors")
        return track(items, told)

    monkeypatch.setattr(build, "track", changing)
    out = tmp_path / "out" / "artifact"
    out.parent.mkdir()
    asked: list[Path] = []
    said = refusal(checkpoint, out, gate=lambda folder, _: {"asked": asked.append(folder)})
    assert CHANGES[change][1] in said
    assert asked == []  # what is not kept is not proved first


def test_older_artifact_stays_when_the_checkpoint_changes(
    checkpoints: Write, tmp_path: Path
) -> None:
    checkpoint, out = checkpoints("single"), tmp_path / "out" / "artifact"
    export_checkpoint(checkpoint, out, FP32)
    before = read_manifest(out)

    def gate(_: Path, __: Checkpoint) -> dict[str, Any]:
        replace(checkpoint / "model.safetensors")
        return {}

    refusal(checkpoint, out, gate=gate)
    assert read_manifest(out) == before
    assert export_checkpoint(checkpoint, out, FP32).source != before.source  # runs again


def test_weights_and_hash_are_of_one_file_though_another_takes_its_name(
    checkpoints: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = checkpoints("single")
    expected = export_checkpoint(checkpoint, tmp_path / "expected", FP32)
    track = build.track

    def replacing(items: Sequence[Any], told: str) -> Iterable[Any]:
        if told == "tracing":
            replace(checkpoint / "model.safetensors")
        return track(items, told)

    monkeypatch.setattr(build, "track", replacing)
    monkeypatch.setattr(Checkpoint, "refuse_changed", lambda _: None)  # to see what it refuses
    found = export_checkpoint(checkpoint, tmp_path / "found", FP32)
    assert found.source == expected.source
    assert found.files == expected.files


def test_config_and_tokenizer_are_copied_as_they_were_read(
    checkpoints: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, write = checkpoints("single"), build.write_tokenizer
    (checkpoint / "special_tokens_map.json").write_text('{"bos_token": "<s>"}')

    def replacing(*arguments: Any) -> str:
        for name in ("config.json", "tokenizer.model", "special_tokens_map.json"):
            other = checkpoint / "other"
            other.write_text("{}")
            os.replace(other, checkpoint / name)
        return write(*arguments)

    kept = {name: (checkpoint / name).read_bytes() for name in ("config.json", "tokenizer.model")}
    monkeypatch.setattr(build, "write_tokenizer", replacing)
    monkeypatch.setattr(Checkpoint, "refuse_changed", lambda _: None)
    export_checkpoint(checkpoint, tmp_path / "out", FP32)
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == kept["tokenizer.model"]
    special = json.loads((tmp_path / "out" / "special_tokens_map.json").read_bytes())
    assert special == {"bos_token": "<s>"}
    config = json.loads((tmp_path / "out" / "config.json").read_bytes())
    assert json.loads(kept["config.json"]).items() <= config.items()


@pytest.mark.slow
@pytest.mark.parametrize("change", ["overwritten", "replaced"])
def test_calibration_reads_the_same_files_or_none(
    checkpoints: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    checkpoint, run = checkpoints("single"), ask_module.subprocess.run

    def changing(*arguments: Any, **options: Any) -> Any:
        CHANGES[change][0](checkpoint / "model.safetensors")
        return run(*arguments, **options)

    monkeypatch.setattr(
        build, "calibrate_in_subprocess", calibrate_subprocess.calibrate_in_subprocess
    )
    monkeypatch.setattr(ask_module.subprocess, "run", changing)
    out = tmp_path / "out" / "artifact"
    out.parent.mkdir()
    said = refusal(checkpoint, out, recipe=ExportOptions(quant="int8-dynamic", target="ort"))
    assert "model.safetensors: was replaced or written to between two readings" in said


@pytest.mark.slow
def test_reference_keeps_nothing_of_a_checkpoint_that_changes_under_it(
    checkpoints: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = checkpoints("single")
    store, out = tmp_path / "store", tmp_path / "out" / "artifact"
    read = Checkpoint.read

    def changing(self: Checkpoint, parameter: str) -> np.ndarray:
        if parameter == "norm.weight" and store.exists():
            overwrite(checkpoint / "model.safetensors")
        return read(self, parameter)

    monkeypatch.setattr(Checkpoint, "read", changing)
    out.parent.mkdir()
    said = refusal(
        checkpoint,
        out,
        gate=lambda folder, held: require_parity(folder, held, GateOptions(store=store)),
    )
    assert "was written to" in said
    assert [path.name for path in store.iterdir()] == [".tramontane"]


@pytest.mark.slow
def test_validation_names_a_checkpoint_that_changes_before_what_that_broke(
    checkpoints: Write, tmp_path: Path
) -> None:
    checkpoint, store = checkpoints("single"), tmp_path / "store"
    export_checkpoint(checkpoint, tmp_path / "out", FP32)
    with Checkpoint.open(checkpoint) as held:
        validate(tmp_path / "out", held, GateOptions(store=store))
        overwrite(checkpoint / "model.safetensors")
        with pytest.raises(CheckpointError, match="was written to"):
            validate(tmp_path / "out", held, GateOptions(store=store), explains=True)
