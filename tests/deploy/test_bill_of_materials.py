"""Tests of bills of materials: CycloneDX's own validator takes them, and they say what is there."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from tramontane.deploy.bill_of_materials import as_text, bill_of_materials
from tramontane.runtime.errors import ContractError
from tramontane.runtime.manifest import read_manifest

from ..cli.calls import output, refusal
from .small_artifact import write_artifact

FILES = ["LICENSE", "onnx/model.onnx", "onnx/model.onnx_data"]
DIGEST = hashlib.sha256(b"weights").hexdigest()
ORIGIN = {
    "name": "Tiny",
    "base_model": "Org/Tiny",
    "revision": "0" * 40,
    "license": "apache-2.0",
    "license_files": ["LICENSE"],
    "calibration_text": {"sha256": "1" * 64, "tokens": 16384},
}


def written(folder: Path, **changes: Any) -> Path:
    known = {
        "origin": ORIGIN,
        "source": {"config.json": "2" * 64, "adapter-1/adapter_model.safetensors": "3" * 64},
        "tools": {"tramontane": "0.1.0", "torch": "2.13.0+cpu"},
        "recipe": "lines",
        "bits_per_weight": 8.5,
    }
    return write_artifact(folder, files=FILES, **{**known, **changes})


def validated(artifact: Path) -> dict[str, Any]:
    """A bill of materials that the library's own validator has found valid."""
    content = bill_of_materials(artifact)
    found = JsonStrictValidator(SchemaVersion.V1_6).validate_str(as_text(content))
    assert found is None, found
    return content


def files_of(component: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["hashes"][0]["content"] for one in component["components"]}


def references(content: Any) -> list[str]:
    if isinstance(content, dict):
        own = [content["bom-ref"]] if "bom-ref" in content else []
        return own + [ref for value in content.values() for ref in references(value)]
    if isinstance(content, list):
        return [ref for value in content for ref in references(value)]
    return []


@pytest.mark.slow
def test_a_bill_says_what_the_manifest_says(tmp_path: Path) -> None:
    artifact = written(tmp_path / "artifact")
    content = validated(artifact)
    manifest = read_manifest(artifact)
    main = content["metadata"]["component"]
    parts = {one["bom-ref"]: one for one in content["components"]}
    checkpoint = parts["checkpoint"]
    assert main["name"] == "Tiny-fp32-ort"
    assert main["version"] == manifest.sha256
    assert files_of(main) == {name: f["sha256"] for name, f in manifest.files.items()}
    assert files_of(checkpoint) == {**manifest.source, "text": "1" * 64}
    assert checkpoint["purl"] == f"pkg:huggingface/Org/Tiny@{'0' * 40}"
    assert main["pedigree"]["ancestors"][0]["purl"] == checkpoint["purl"]
    assert main["licenses"] == checkpoint["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert {"name": "tramontane:recipe", "value": "lines"} in main["properties"]
    assert parts["tool/torch"]["purl"] == "pkg:pypi/torch@2.13.0%2Bcpu"
    (text,) = [one for one in main["components"] if one["name"] == "LICENSE"]
    assert {"name": "tramontane:role", "value": "licence text"} in text["properties"]
    assert len(references(content)) == len(set(references(content)))


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ({}, None),
        ({"license": "llama2"}, {"license": {"name": "llama2"}}),
        ({"license": "MIT OR Apache-2.0"}, {"expression": "MIT OR Apache-2.0"}),
        (
            {"license": "other", "license_name": "mrl", "license_link": "https://a.b/c d"},
            {"license": {"name": "mrl", "url": "https://a.b/c%20d"}},
        ),
        ({"license": "\x1b[31m"}, {"license": {"name": "\x1b[31m"}}),
    ],
)
def test_a_licence_of_any_kind_makes_a_valid_bill(
    origin: dict[str, str], expected: dict[str, Any] | None, tmp_path: Path
) -> None:
    main = validated(written(tmp_path / "artifact", origin=origin))["metadata"]["component"]
    assert main.get("licenses", [None]) == [expected]
    assert main["name"] == "unnamed-fp32-ort"


def test_the_same_artifact_gives_the_same_bytes_in_any_process(tmp_path: Path) -> None:
    written(tmp_path / "one")
    written(tmp_path / "two")
    texts = [
        subprocess.run(
            [sys.executable, "-m", "tramontane", "sbom", str(tmp_path / name)],
            env={"PYTHONHASHSEED": seed, "TZ": zone},
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        for name, seed, zone in (("one", "1", "UTC"), ("two", "2", "Asia/Tokyo"))
    ]
    assert texts[0] == texts[1]
    other = bill_of_materials(written(tmp_path / "three", quant="int8"))
    assert other["serialNumber"] != json.loads(texts[0])["serialNumber"]


def test_the_command_prints_text_or_a_line_of_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = written(tmp_path / "artifact")
    text = output(capsys, "sbom", artifact)
    line = output(capsys, "sbom", artifact, "--json")
    assert line.count("\n") == 1
    assert json.loads(text) == json.loads(line) == bill_of_materials(artifact)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source": {"a": "x"}}, "checkpoint file 'a' has hash 'x', expected 64 digits of sha256"),
        ({"origin": {"base_model": 7}}, "origin.base_model is 7, expected a text"),
        ({"origin": {"calibration_text": "x"}}, "origin.calibration_text is 'x', expected an"),
        ({"origin": {"base_model": ""}}, "a field cannot be written as CycloneDX (Invalid purl"),
        ({"tools": {"": "1"}}, "a field cannot be written as CycloneDX (Invalid purl"),
        ({"tools": {"x": "1" * 2000}}, "a field cannot be written as CycloneDX (`@.version`has"),
        (
            {"origin": {"license": "mit", "license_name": ""}},
            "a field cannot be written as CycloneDX (Either `id` or `name`",
        ),
    ],
)
def test_a_manifest_that_says_what_cannot_be_is_refused(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    artifact = written(tmp_path / "artifact", **changes)
    with pytest.raises(ContractError) as refused:
        bill_of_materials(artifact)
    assert str(refused.value).startswith(f"{artifact / 'manifest.json'}: {said}")
    assert str(refused.value).endswith("; export again")


@pytest.mark.parametrize("absent", ["cyclonedx"])
def test_a_package_that_is_missing_is_named_with_its_extra(
    absent: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    for name in [n for n in sys.modules if n.partition(".")[0] == absent]:
        monkeypatch.setitem(sys.modules, name, None)
    said = refusal(capsys, "sbom", written(tmp_path / "artifact"))
    assert f"tramontane sbom needs the package {absent}" in said
    assert "[supply-chain]" in said
