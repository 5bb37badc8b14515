"""Which artifacts and runtimes does ``python -m tramontane.interop`` run, and which must be there?"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tramontane.console.status import status_of
from tramontane.interop import __main__ as command
from tramontane.interop import cases, rows
from tramontane.interop.cases import Exported, MatrixCase
from tramontane.interop.judge import Answer
from tramontane.interop.runtimes import Runtime
from tramontane.runtime.errors import ContractError

from .replays import Use, never, not_there, replay


@pytest.mark.parametrize(
    ("required", "status"),
    [([], 0), (["tramontane"], 0), (["genai"], 1), (["page in Chromium"], 1)],
)
def test_an_absent_runtime_fails_the_command_where_it_is_required_alone(
    use: Use,
    stdlib_5m: Path,
    capsys: pytest.CaptureFixture[str],
    required: list[str],
    status: int,
) -> None:
    use(Runtime(name="genai", start=not_there))
    assert command.main([str(stdlib_5m), "--require", *required]) == status
    lines = capsys.readouterr().out.splitlines()
    assert "absent: genai: npm: not on PATH" in lines
    assert "absent: page in Chromium: chromium: none is on PATH" in lines
    assert command.main([str(stdlib_5m), "--json", "--require", *required]) == status
    assert json.loads(capsys.readouterr().out)["absent"]["genai"] == "npm: not on PATH"


@pytest.mark.parametrize("flag", ["--only", "--require"])
def test_a_runtime_that_nobody_knows_is_refused_before_anything_is_made(
    use: Use, stdlib_5m: Path, monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    use()
    monkeypatch.setattr(rows, "export", lambda *_: pytest.fail("exported"))
    arguments = [str(stdlib_5m), flag, "tramontane", "pytroch"]
    with pytest.raises(ContractError, match=r"^pytroch: no such runtime.*, expected one of tram"):
        command.main(arguments)
    assert status_of(lambda: command.main(arguments)) == 2


def test_a_runtime_that_is_not_run_cannot_be_required(use: Use, stdlib_5m: Path) -> None:
    use(Runtime(name="other", start=never))
    arguments = [str(stdlib_5m), "--only", "tramontane", "--require", "other"]
    with pytest.raises(ContractError, match=r"^other: no such runtime"):
        command.main(arguments)


def test_a_runner_may_say_that_its_runtime_is_not_to_be_had(
    use: Use, exported: Exported, stdlib_5m: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use(replay("card", exported, {"absent": "no adapter"}))
    assert command.main([str(stdlib_5m)]) == 0
    assert "absent: card: no adapter" in capsys.readouterr().out.splitlines()


def test_only_what_is_wanted_is_run(
    use: Use, exported: Exported, right: Answer, stdlib_5m: Path, capsys: Any
) -> None:
    use(replay("wanted", exported, right), Runtime(name="other", start=never))
    assert command.main([str(stdlib_5m), "--json", "--only", "wanted"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cells"] == {"stdlib-5m fp32 ort": {"wanted": "same tokens, text"}}


def test_an_artifact_that_a_runtime_does_not_take_is_not_carried_there(
    use: Use, stdlib_5m: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use(Runtime(name="growing", start=never, takes=lambda case: not case.has_window))
    assert command.main([str(stdlib_5m), "--json"]) == 0
    assert "growing" not in json.loads(capsys.readouterr().out)["cells"]


@pytest.mark.slow
def test_everything_can_be_required_at_once(
    use: Use,
    exported: Exported,
    right: Answer,
    stdlib_5m: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, text = cases.stories_in(tmp_path)
    arguments = [str(stdlib_5m), "--shared", str(tmp_path), "--require", "all"]
    use(replay("other", exported, right))
    monkeypatch.setattr(rows, "visit", lambda *_, **__: {"claims": {}, "versions": {}})
    model.mkdir(parents=True)
    assert command.main(arguments) == 1  # a model without its text
    text.parent.mkdir()
    text.touch()
    assert command.main(arguments) == 0
    use(Runtime(name="other", start=not_there))
    monkeypatch.setattr(rows, "visit", lambda *_, **__: {"claims": {}, "versions": {}})
    assert command.main(arguments) == 1
    assert command.main([*arguments, "--only", "tramontane"]) == 0


@pytest.mark.parametrize("shared", [False, True])
def test_stories_that_are_not_there_are_told_and_fail_where_all_is_required(
    use: Use,
    stdlib_5m: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    shared: bool,
) -> None:
    use()
    monkeypatch.setattr(rows, "visit", lambda *_, **__: {"claims": {}, "versions": {}})
    arguments = [str(stdlib_5m), *(["--shared", str(tmp_path)] if shared else [])]
    assert command.main(arguments) == 0
    why = f"not in {tmp_path}" if shared else "--shared is not given"
    assert f"absent: stories15M: {why}" in capsys.readouterr().out.splitlines()
    assert command.main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["absent"] == {"stories15M": why}
    assert command.main([*arguments, "--json", "--require", "all"]) == 1


def test_only_artifacts_that_the_asked_for_runtimes_need_are_made(
    use: Use, stdlib_5m: Path, exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    use()
    monkeypatch.setattr(command, "cases", cases.cases)
    made: list[str] = []

    def export(case: MatrixCase, _: Path) -> Exported:
        made.append(case.name)
        return replace(exported, case=case)

    monkeypatch.setattr(rows, "export", export)
    usual = ["stdlib-5m fp32 ort", "stdlib-5m int8 ort", "stdlib-5m int4 ort"]
    assert command.main([str(stdlib_5m), "--only", "tramontane"]) == 0
    assert made == usual
    made.clear()
    arguments = [str(stdlib_5m), "--only", "tramontane", "--artifacts", "int8 web"]
    assert command.main(arguments) == 0
    assert made == ["stdlib-5m int8 web in files"]
