"""Is every fault a small mutation of one artifact, and is a missed one told?"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from tramontane.console.processes import process_per_core
from tramontane.export.build import export_checkpoint
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.options import options_named
from tramontane.faults import __main__ as command
from tramontane.faults import parallel
from tramontane.faults.__main__ import as_markdown
from tramontane.faults.catalogue import FAULTS
from tramontane.faults.planted import in_tokenizer
from tramontane.faults.planting import Fault, Graph, planted
from tramontane.faults.trial import FaultOutcome, Trial
from tramontane.runtime.errors import GraphError, ParityError
from tramontane.runtime.ort.native_library import find_library
from tramontane.validate.run_gate import require_parity

ArtifactOf = Callable[[Path, str], Path]
IN_GRAPHS = [fault for fault in FAULTS if fault.plant is not None]


def test_there_are_enough_of_them_and_no_two_alike() -> None:
    assert len(FAULTS) >= 30
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def unmade(model: onnx.ModelProto) -> set[str]:
    """What nodes of the main graph read, and nothing before them makes."""
    graph = model.graph
    made = {"", *(one.name for one in graph.input), *(one.name for one in graph.initializer)}
    found: set[str] = set()
    for node in graph.node:
        found |= set(node.input) - made
        made |= set(node.output)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("fault", IN_GRAPHS, ids=lambda fault: fault.name)
def test_a_fault_changes_the_graph_and_nothing_else(
    six_layers: Path, artifact_of: ArtifactOf, tmp_path: Path, fault: Fault
) -> None:
    if not fault.fits(Checkpoint.open(six_layers)):
        pytest.skip(
            "of a part that this model lacks; tests/end_to_end/test_neighbours.py plants it"
        )
    if fault.is_native and find_library() is None:
        pytest.skip("the native library is not installed; make native builds it")
    good = artifact_of(six_layers, fault.recipe)
    before = contents(good)
    spoilt = planted(fault, good, tmp_path / "spoilt", six_layers)
    assert contents(good) == before
    whole, changed = (onnx.load(folder / fault.file) for folder in (good, spoilt))
    assert changed.SerializeToString() != whole.SerializeToString()
    assert [one.name for one in changed.graph.output] == [one.name for one in whole.graph.output]
    assert unmade(changed) == set()
    assert (spoilt / "manifest.json").read_bytes() == before["manifest.json"]


def outcome(fault: Fault, *, broken: tuple[str, ...], place: str, cause: str) -> FaultOutcome:
    return FaultOutcome(fault=fault, broken=broken, place=place, cause=cause)


def test_a_cause_counts_only_at_its_place() -> None:
    fault = FAULTS[0]
    kinds = ("rows",)
    found = outcome(fault, broken=kinds, place=f"{fault.place} at 3", cause=f"so {fault.cause}")
    assert found.is_explained
    assert not outcome(fault, broken=kinds, place="layer 9", cause=fault.cause).is_explained
    assert not outcome(fault, broken=kinds, place=fault.place, cause="").is_explained


@pytest.mark.slow
def test_a_missed_fault_fails_the_command_and_stands_out_in_the_table(
    tiny_checkpoint: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def nothing(graph: Graph) -> None:
        graph.model.doc_string = "no fault at all"

    harmless = Fault(name="none", recipe="int8-ort", plant=nothing, place="", cause="")
    monkeypatch.setattr(command, "FAULTS", [harmless])
    model = tiny_checkpoint()
    (tmp_path / "spoilt").mkdir()
    (tmp_path / "spoilt" / "notes.txt").write_text("mine")
    out = tmp_path / "faults.md"
    assert command.main(["--model", str(model), "--folder", str(tmp_path), "--out", str(out)]) == 1
    assert "missed" in capsys.readouterr().out
    assert "**0 of 1 are caught" in out.read_text()
    assert "| **nothing** |" in out.read_text()
    assert (tmp_path / "spoilt" / "notes.txt").read_text() == "mine"


@pytest.mark.slow
def test_faults_are_tried_in_two_processes_or_in_this_one_with_outcomes_in_their_order(
    two_layers: Path,
    artifact_of: ArtifactOf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "fp32-ort").symlink_to(artifact_of(two_layers, "fp32-ort"))
    faults = [
        fault for fault in FAULTS if fault.name in ("scores not scaled", "last norm skipped")
    ]
    assert [fault.recipe for fault in faults] == ["fp32-ort"] * 2
    trial = Trial(folder=tmp_path, model=two_layers)
    cores = [*os.sched_getaffinity(0)][:1] * 2
    monkeypatch.setattr(process_per_core, "usable_cores", lambda: cores)
    there = list(parallel.run_trials(faults, trial))
    assert [one.fault for one in there] == faults
    assert all(one.is_caught and one.is_explained for one in there)
    monkeypatch.setattr(process_per_core, "usable_cores", list)
    assert list(parallel.run_trials(faults, trial)) == there


def test_the_table_counts_what_was_caught_and_explained() -> None:
    fault = FAULTS[0]
    found = outcome(fault, broken=("logits", "rows"), place=fault.place, cause=fault.cause)
    text = as_markdown([found])
    assert "**1 of 1 are caught, 1 are explained by the right place and cause.**" in text
    assert "| logits, rows |" in text


@pytest.mark.parametrize(("does", "where"), [("plant", "graph"), ("edit", "files")])
def test_a_fault_that_changes_nothing_is_refused(
    artifact_of: ArtifactOf, two_layers: Path, tmp_path: Path, does: str, where: str
) -> None:
    changes: dict[str, Any] = {does: lambda _: None}
    nothing = Fault(name="none", recipe="fp32-ort", place="", cause="", **changes)
    with pytest.raises(GraphError, match=f"'none' changes nothing in its {where}"):
        planted(nothing, artifact_of(two_layers, "fp32-ort"), tmp_path / "spoilt", two_layers)
    assert not (tmp_path / "spoilt").exists()


def test_faults_of_added_tokens_and_templates_are_left_out_where_the_model_has_none(
    stdlib_5m: Path,
) -> None:
    with Checkpoint.open(stdlib_5m) as checkpoint:
        names = {fault.name for fault in in_tokenizer.FAULTS if fault.fits(checkpoint)}
    assert "tokenizer.json: the start token of prompts left out" in names
    assert "tokenizer.json: the ids of two added tokens exchanged" not in names
    assert "the chat template lost" not in names


@pytest.mark.slow
def test_fault_of_a_tied_embedding_in_float32_leaves_the_head_as_it_is(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint, artifact = tiny_checkpoint(tie=True), tmp_path / "tied"
    export_checkpoint(checkpoint, artifact, options_named("fp32-ort"))
    (fault,) = (one for one in FAULTS if one.name == "embedding rows off by one")
    spoilt = planted(fault, artifact, tmp_path / "spoilt", checkpoint)
    with pytest.raises(ParityError, match="first at fault: embedding weights") as refused:
        require_parity(spoilt, Checkpoint.open(checkpoint))
    assert fault.cause in str(refused.value)
    assert "head weights" not in str(refused.value)
