"""Are the lists of operators and the graphs in ORT format those of the artifact?"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tramontane.deploy import reduced_build
from tramontane.runtime import contract, manifest
from tramontane.runtime.errors import ContractError


@pytest.fixture(scope="module")
def converted(
    embedded_artifact: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    artifact = embedded_artifact("int8-ort")
    out = tmp_path_factory.mktemp("reduced")
    reduced_build.convert(artifact, out, manifest.read_manifest(artifact))
    return out


@pytest.mark.slow
def test_converted_graphs_decode_as_the_artifact_does_and_it_stays_as_it_is(
    embedded_artifact: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = embedded_artifact("int8-ort")
    before = {path: path.stat().st_mtime_ns for path in artifact.rglob("*")}
    assert reduced_build.main([str(artifact), str(tmp_path)]) == 0
    assert {path: path.stat().st_mtime_ns for path in artifact.rglob("*")} == before
    table = capsys.readouterr().out.splitlines()
    assert reduced_build.main([str(artifact), str(tmp_path), "--json"]) == 0
    graphs = json.loads(capsys.readouterr().out)["graphs"]
    assert [one["style"] for one in graphs] == ["Fixed", "Runtime"]
    assert all(one["equal"] and one["agreeing"] == reduced_build.NUM_TOKENS for one in graphs)
    assert sum("| can be given |" in line for line in table) == len(graphs)


@pytest.mark.slow
def test_the_lists_hold_what_the_artifact_is_made_of(converted: Path) -> None:
    for suffix in ("", ".with_runtime_opt"):
        listed = reduced_build.read_operators(converted, suffix)
        assert {"com.microsoft;1;GroupQueryAttention", "com.microsoft;1;MatMulNBits"} <= listed


def test_a_graph_of_other_weights_is_found_unequal(
    embedded_artifact: Callable[[str], Path], converted: Path
) -> None:
    ours, other = embedded_artifact("int8-ort"), embedded_artifact("int4-ort")
    own = reduced_build.decode(other / contract.MODEL_FILE, manifest.read_manifest(other))
    file = reduced_build.converted(converted)
    row = reduced_build.compare(
        own, reduced_build.decode(file, manifest.read_manifest(ours)), style="Fixed", file=file
    )
    assert not row.is_equal
    assert row.max_difference is not None
    assert row.max_difference > 1e-2


def test_a_graph_that_lost_the_option_is_found_unequal(converted: Path) -> None:
    row = reduced_build.ConvertedGraph(
        style="Fixed",
        file=reduced_build.converted(converted),
        tokens=1,
        agreeing=1,
        max_difference=0.0,
    )
    assert not row.is_equal
    assert "**lost**" in reduced_build.as_table([row], {"Fixed": {"ai.onnx;13;Neg"}})


@pytest.mark.slow
def test_what_the_format_cannot_hold_is_said_not_to_load(
    embedded_artifact: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = embedded_artifact("int4-portable")
    assert reduced_build.main([str(artifact), str(tmp_path), "--tokens", "1"]) == 1
    assert "Unsupported tensor data type" in capsys.readouterr().out


def test_a_graph_too_large_for_one_file_is_refused_before_it_is_copied(
    embedded_artifact: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = embedded_artifact("int8-ort")
    monkeypatch.setattr(reduced_build, "MOST_BYTES", 1 << 20)
    with pytest.raises(ContractError, match="ORT format holds at most 1048576 in its one file"):
        reduced_build.convert(artifact, tmp_path / "out", manifest.read_manifest(artifact))
    assert not (tmp_path / "out").exists()


def test_an_artifact_is_not_written_into(embedded_artifact: Callable[[str], Path]) -> None:
    artifact = embedded_artifact("int8-ort")
    with pytest.raises(ContractError, match="lies in the artifact, which is left as it is"):
        reduced_build.convert(artifact, artifact / "phone", manifest.read_manifest(artifact))


def test_more_tokens_than_positions_are_refused(embedded_artifact: Callable[[str], Path]) -> None:
    artifact = embedded_artifact("int8-ort")
    with pytest.raises(ContractError, match="--tokens 0; expected 1 to"):
        reduced_build.decode(
            artifact / contract.MODEL_FILE, manifest.read_manifest(artifact), tokens=0
        )
