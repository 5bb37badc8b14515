"""What docs/genai.md says of onnxruntime-genai, in an environment that has it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from tramontane.environments.errors import Absent
from tramontane.environments.python import python_with
from tramontane.interop.runtimes import GENAI
from tramontane.runtime import Sampler, Session

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "interop" / "runners" / "python" / "genai_tour.py"


def test_the_page_shows_the_script_that_is_run() -> None:
    shown = (ROOT / "docs" / "genai.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", shown, re.DOTALL | re.MULTILINE)
    assert blocks == [SCRIPT.read_text(encoding="utf-8")]
    assert GENAI[0].replace("==", " ") in shown


@pytest.mark.slow
def test_it_rewinds_penalizes_and_writes_json_as_the_page_says(
    embedded_artifact: Callable[[str], Path],
) -> None:
    artifact = embedded_artifact("int8-ort")
    try:
        python = python_with("genai", GENAI)
    except Absent as absent:
        pytest.skip(str(absent))
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
