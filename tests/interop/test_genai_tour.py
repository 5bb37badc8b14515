"""What docs/genai.md says of onnxruntime-genai, in an environment that has it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from tramontane.environments.errors import Absent
from tramontane.environments.python import python_with
from tramontane.export.build import export_checkpoint
from tramontane.export.options import ExportOptions
from tramontane.interop.runtimes import GENAI
from tramontane.runtime import Sampler, Session

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "interop" / "runners" / "python" / "genai_tour.py"


def test_the_page_shows_the_script_that_is_run() -> None:
    shown = (ROOT / "docs" / "genai.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", shown, re.DOTALL | re.MULTILINE)
    assert blocks == [SCRIPT.read_text(encoding="utf-8")]
    assert GENAI[0].replace("==", " ") in shown


def genai_python() -> Path:
    """A Python that has onnxruntime-genai; skips where it cannot be installed."""
    try:
        return python_with("genai", GENAI)
    except Absent as absent:
        pytest.skip(str(absent))


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["windowed", "growing"])
def test_the_cards_program_runs_with_more_rows_than_tokens(
    stdlib_5m: Path, tmp_path: Path, cache: str
) -> None:
    python, out, wide = genai_python(), tmp_path / "artifact", tmp_path / "wide"
    shutil.copytree(stdlib_5m, wide)
    config = json.loads((wide / "config.json").read_text(encoding="utf-8"))
    (wide / "config.json").write_text(json.dumps(config | {"sliding_window": 512}))
    export_checkpoint(wide, out, ExportOptions(quant="int8", target="ort", cache=cache))
    card = (out / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)
    (program,) = (block for block in blocks if "onnxruntime_genai" in block)
    program = program.replace("ARTIFACT", str(out))
    said = subprocess.run([python, "-c", program], check=True, capture_output=True, text=True)
    expected = Session.load(out).generate("def fibonacci(", max_new_tokens=64).finish().text
    assert expected in said.stdout


@pytest.mark.slow
def test_it_rewinds_penalizes_and_writes_json_as_the_page_says(
    embedded_artifact: Callable[[str], Path],
) -> None:
    artifact, python = embedded_artifact("int8-ort"), genai_python()
    asked = [python, SCRIPT, artifact, "def fibonacci(", "20"]
    said = subprocess.run(asked, check=True, capture_output=True, encoding="utf-8").stdout
    found = json.loads(said)
    assert found["first"] == found["again"]
    for name, sampler in (
        ("first", Sampler()),
        ("penalized", Sampler(repetition_penalty=1.5)),
    ):
        session = Session.load(artifact)
        expected = session.generate("def fibonacci(", max_new_tokens=20, sampler=sampler)
        assert found[name] == expected.finish().tokens
    assert found["first"] != found["penalized"]
    one, other = found["sampled"]
    assert one == other != found["first"]
    schema = {"type": "object", "required": ["name", "size"], "additionalProperties": False}
    schema["properties"] = {"name": {"type": "string"}, "size": {"type": "integer"}}
    jsonschema.validate(json.loads(found["json"]), schema)
    assert "Cannot rewind" in found["past_eviction"]
