"""Snippets that we print run as printed, but for the artifact's path."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path

import pytest
from tramontane.export.sidecars.card import render_card
from tramontane.runtime import Sampler, Session, minimal_decode
from tramontane.runtime.decoding.begin_batch import begin_batch
from tramontane.runtime.decoding.continuation import DEFAULT_NEW_TOKENS
from tramontane.runtime.decoding.options import BatchOptions, Options
from tramontane.runtime.errors import ContractError
from tramontane.runtime.manifest import read_manifest
from tramontane.runtime.memory import DEFAULT_CHUNK

README = Path(__file__).parents[2] / "README.md"


def snippets(markdown: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", markdown, re.DOTALL | re.MULTILINE)


def said_by(snippet: str, artifact: Path, *arguments: str) -> str:
    """What a snippet prints once the path that it names is replaced; the rest runs as printed."""
    code, count = re.subn(
        r'"(ARTIFACT|artifacts/[\w.-]+)"', lambda _: repr(str(artifact)), snippet
    )
    assert count <= 1
    asked = [sys.executable, "-W", "error", "-c", code, *arguments]
    done = subprocess.run(asked, check=False, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_snippet_of_a_card_runs_as_printed(
    embedded_artifact: Callable[[str], Path],
) -> None:
    artifact = embedded_artifact("int8-ort")
    first = snippets(render_card(read_manifest(artifact)))[0]
    expected = "".join(Session.load(artifact).generate("def fibonacci(", max_new_tokens=64))
    assert said_by(first, artifact) == expected != ""


def test_the_second_snippet_of_a_card_prints_the_tokens_that_the_driver_gives(
    embedded_artifact: Callable[[str], Path],
) -> None:
    artifact = embedded_artifact("int8-ort")
    second = snippets(render_card(read_manifest(artifact)))[1]
    expected = Session.load(artifact).generate([1, 300, 301], max_new_tokens=70).finish().tokens
    said = said_by(second, artifact, str(artifact), "70", "1", "300", "301")
    assert [int(token) for token in said.split()][: len(expected)] == expected


def test_the_snippet_of_the_readme_runs_as_printed(
    embedded_artifact: Callable[[str], Path],
) -> None:
    artifact = embedded_artifact("int8-ort")
    (snippet,) = snippets(README.read_text(encoding="utf-8"))
    sampler = Sampler(temperature=0.8, top_k=50, seed=1)
    assert "Model.load" in snippet
    session = Session.load(artifact)
    pieces = session.generate("def fibonacci(", max_new_tokens=64, sampler=sampler)
    assert said_by(snippet, artifact) == "".join(pieces) != ""


def test_the_snippet_of_the_docs_runs_as_printed(
    embedded_artifact: Callable[[str], Path],
) -> None:
    snippet = snippets((README.parent / "docs" / "runtimes.md").read_text(encoding="utf-8"))[0]
    assert "Model.load" in snippet
    assert said_by(snippet, embedded_artifact("int8-ort"))


@pytest.mark.parametrize(
    ("function", "needed"),
    [
        (Session.load, ["folder"]),
        (Session.prefill, ["self", "tokens"]),
        (Session.step, ["self", "token"]),
        (Session.generate, ["self", "prompt"]),
        (Sampler, []),
    ],
)
def test_all_that_is_not_the_input_itself_has_a_default(
    function: Callable[..., object], needed: list[str]
) -> None:
    parameters = inspect.signature(function).parameters.values()
    assert [p.name for p in parameters if p.default is inspect.Parameter.empty] == needed


def test_options_that_are_handed_on_are_those_of_generate() -> None:
    parameters = inspect.signature(Session.generate).parameters
    assert {"self", "prompt", *typing.get_type_hints(Options)} == {*parameters}
    of_batch = inspect.signature(begin_batch).parameters
    own = {"model", "prompts", "sampler", "time_limit"}
    assert {*own, *typing.get_type_hints(BatchOptions)} == {*of_batch}


def test_help_names_the_numbers_of_defaults() -> None:
    assert f"None for {DEFAULT_NEW_TOKENS}," in str(Session.generate.__doc__)
    assert f"None for {DEFAULT_CHUNK}." in str(Session.prefill.__doc__)


def test_without_a_number_as_many_tokens_are_made_as_the_default_says_or_still_fit(
    session: Session,
) -> None:
    positions = session.manifest.geometry.max_positions
    greedy = (
        session.generate([5, 6], max_new_tokens=DEFAULT_NEW_TOKENS, sampler=Sampler())
        .finish()
        .tokens
    )
    session.reset()
    assert session.generate([5, 6]).finish().tokens == greedy
    session.reset()
    session.prefill([5] * (positions - 13))
    assert len(session.generate([5, 6, 7]).finish().tokens) == 10
    assert session.tokens == positions
    with pytest.raises(ContractError, match=f"the artifact has {positions} positions; shorten"):
        session.generate([5])


def test_the_script_without_our_package_turns_telemetry_off_before_it_imports_onnxruntime(
    tmp_path: Path,
) -> None:
    (tmp_path / "onnxruntime.py").write_text(
        "import os\nprint(os.environ['ORT_DISABLE_TELEMETRY'])\n", encoding="utf-8"
    )
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    code = f"import runpy; runpy.run_path({minimal_decode.__file__!r}, run_name='bare')"
    for given, found in (({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**environment, **given, "PYTHONPATH": str(tmp_path)},
            check=True,
            capture_output=True,
            encoding="utf-8",
        )
        assert done.stdout.split() == [found]
