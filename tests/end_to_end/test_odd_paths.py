"""What Python callers give as a path: each odd one ends in one line of a typed error."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tramontane.deploy.bill_of_materials import bill_of_materials
from tramontane.deploy.signature import SigningKey, Trusted, sign, verify
from tramontane.export.build import export_checkpoint
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.formats.layouts import read_config
from tramontane.export.options import options_named
from tramontane.export.planning.preflight import preflight
from tramontane.export.synthesize.synthesize import synthesize
from tramontane.graphs.quantization.recipes.all_recipes import open_recipe
from tramontane.runtime import Model, Session
from tramontane.runtime.durable import replace_file
from tramontane.runtime.errors import TramontaneError
from tramontane.runtime.manifest import read_manifest
from tramontane.validate.graph_under_test import open_graph_under_test
from tramontane.validate.reference.reference_cache import Store

from ..deploy.small_artifact import write_artifact

# Paths that lie in the working folder, which ``odd_folder`` makes. None is absolute: these are
# written to as well.
IMPOSSIBLE = {
    "NUL": "a\0b",
    "NUL below a folder": "folder/\0",
    "half of a surrogate pair": "\ud800",
    "half of one, above a name": "x\ud800/y",
    "a name that is too long": "x" * 300,
    "a path that is too long": "x/" * 3000,
    "through a link to itself": "round/x",
    "through two links to each other": "there/x",
}
NO_FOLDER = {
    "a file": "file",
    "below a file": "file/x",
    "a fifo": "fifo",
    "nothing": "folder/../no",
}
OTHERS = {
    "no path at all": "",
    "a folder with other things": "../work/full",
    "a dead link": "dead",
}
OPTIONS = options_named("fp32-ort")

Call = Callable[[Path], object]


@pytest.fixture
def odd_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    (folder / "folder").mkdir(parents=True)
    (folder / "full").mkdir()
    (folder / "full" / "x").write_text("y")
    (folder / "file").write_text("x")
    os.mkfifo(folder / "fifo")
    (folder / "round").symlink_to("round")
    (folder / "there").symlink_to("back")
    (folder / "back").symlink_to("there")
    (folder / "dead").symlink_to("no/where")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def readers(
    two_layers: Path, artifact_of: Callable[[Path, str], Path], tmp_path: Path
) -> dict[str, Call]:
    """Calls that read what a path names."""
    artifact = artifact_of(two_layers, "fp32-ort")
    model, config = Model.load(artifact), read_config(two_layers)
    signed = write_artifact(tmp_path / "signed", files=["onnx/model.onnx"])
    out = tmp_path / "out"
    return {
        "Model.load": Model.load,
        "Model.load of a text": lambda path: Model.load(str(path)),
        "Model.plan": Model.plan,
        "Session.load": Session.load,
        "Session.load_state": lambda path: Session.load_state(path, model),
        "Checkpoint.open": Checkpoint.open,
        "an adapter": lambda path: Checkpoint.open(two_layers, [path]),
        "read_config": read_config,
        "export from": lambda path: export_checkpoint(path, out, OPTIONS),
        "export with": lambda path: export_checkpoint(two_layers, out, OPTIONS, adapters=[path]),
        "validate": lambda path: open_graph_under_test(path, config),
        "read_manifest": read_manifest,
        "bill_of_materials": bill_of_materials,
        "sign": lambda path: sign(signed, out, SigningKey(path=path)),
        "verify": lambda path: verify(signed, path, Trusted(key=path)),
    }


@pytest.fixture
def writers(
    two_layers: Path, artifact_of: Callable[[Path, str], Path], tmp_path: Path
) -> dict[str, Call]:
    """Calls that write to a path."""
    session = Model.load(artifact_of(two_layers, "fp32-ort")).session()
    session.prefill([1, 2, 3])
    signed = write_artifact(tmp_path / "signed", files=["onnx/model.onnx"])

    return {
        "Session.save": session.save,
        "export to": lambda path: export_checkpoint(two_layers, path, OPTIONS),
        "synthesize": lambda path: synthesize("stdlib-5m", path, layers=1),
        "the store of results": Store,
        "sign to": lambda path: sign(signed, path, SigningKey(path=tmp_path / "no-key")),
    }


def refusal(call: Callable[[Path], Any], path: str) -> str:
    with pytest.raises(TramontaneError) as refused:
        call(Path(path))
    said = str(refused.value)
    assert "\n" not in said
    assert len(said) < 2001
    return said


@pytest.mark.slow
def test_readers_refuse_every_odd_path_by_a_typed_line(
    odd_folder: Path, readers: dict[str, Call]
) -> None:
    for call in readers.values():
        for path in {**IMPOSSIBLE, **NO_FOLDER, **OTHERS}.values():
            refusal(call, path)


@pytest.mark.slow
def test_a_recipe_and_the_dumps_of_passes_have_paths_that_a_system_has(
    odd_folder: Path, two_layers: Path
) -> None:
    def dump(path: Path) -> object:
        return export_checkpoint(two_layers, Path("out"), OPTIONS, dump=path)

    for path in IMPOSSIBLE.values():
        refusal(open_recipe, path)
        assert refusal(dump, path).startswith("--dump ")


@pytest.mark.slow
def test_writers_refuse_impossible_paths_and_what_is_no_place_for_them_by_a_typed_line(
    odd_folder: Path, writers: dict[str, Call]
) -> None:
    for call in writers.values():
        for path in {**IMPOSSIBLE, "below a file": "file/x", "a fifo": "fifo"}.values():
            refusal(call, path)
    assert (odd_folder / "fifo").is_fifo()


def test_a_name_that_leaves_no_room_for_the_partial_folders_is_refused(
    odd_folder: Path, two_layers: Path
) -> None:
    said = refusal(lambda path: preflight(two_layers, path, OPTIONS), "y" * 250)
    assert ".partial" in said
    assert said.endswith("not too long for the system; name another one")


@pytest.mark.parametrize("name", ["fifo", "folder", "link to fifo"])
def test_no_file_takes_the_place_of_what_is_no_file(odd_folder: Path, name: str) -> None:
    (odd_folder / "link to fifo").symlink_to("fifo")
    unfinished = odd_folder / "unfinished"
    unfinished.write_text("x")
    with pytest.raises(OSError, match="exists and is no regular file"):
        replace_file(unfinished, Path(name))
    assert (odd_folder / name).exists()
    assert not (odd_folder / name).is_file()
