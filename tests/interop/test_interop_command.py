"""Tests of ``python -m tramontane.interop``: its matrix and its exit status."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tramontane.interop import __main__ as command
from tramontane.interop import cases, rows
from tramontane.interop.cases import Exported
from tramontane.interop.judge import Answer
from tramontane.interop.matrix_plan import MatrixPlan
from tramontane.interop.runtimes import DRIVER, PAGE, REFERENCE, Runtime

from .replays import NEW_TOKENS, NO_BROWSER, Use, no_browser, replay, two_cases


@pytest.mark.slow
def test_driver_and_transformers_give_the_same_tokens_of_the_embedded_model(
    first_case_alone: None,
    exported: Exported,
    stdlib_5m: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(rows, "export", lambda *_: exported)
    monkeypatch.setattr(command, "OTHERS", ())
    monkeypatch.setattr(rows, "REFERENCE", replace(REFERENCE, new_tokens=NEW_TOKENS))
    short = replace(DRIVER, new_tokens=NEW_TOKENS)
    for module in (command, rows):
        monkeypatch.setattr(module, "DRIVER", short)
    monkeypatch.setattr(rows, "visit", no_browser)
    out = tmp_path / "matrix.md"
    assert command.main([str(stdlib_5m), "--json", "--out", str(out)]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert found["passed"]
    cells = {"tramontane": "same tokens, text", "page in Chromium": NO_BROWSER}
    assert found["cells"] == {"stdlib-5m fp32 ort": cells}
    assert "| stdlib-5m fp32 ort | same tokens, text | absent |" in out.read_text()


@pytest.mark.slow
def test_what_is_not_whole_or_has_failures_is_not_written(
    use: Use, exported: Exported, right: Answer, stdlib_5m: Path, tmp_path: Path
) -> None:
    out = tmp_path / "matrix.md"
    arguments = [str(stdlib_5m), "--out", str(out)]
    wrong = replay("liar", exported, {**right, "tokens": [[0] * NEW_TOKENS] * 2})
    use(wrong)
    assert command.main(arguments) == 1
    assert not out.exists()
    use()
    assert command.main([*arguments, "--only", "tramontane"]) == 0
    assert not out.exists()
    assert command.main(arguments) == 0
    good = out.read_text()
    assert "same tokens, text" in good
    use(wrong)
    assert command.main(arguments) == 1
    assert out.read_text() == good


def test_one_wrong_token_of_one_runner_fails_the_command(
    use: Use,
    exported: Exported,
    right: Answer,
    stdlib_5m: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong = [right["tokens"][0], [*right["tokens"][1][:-1], right["tokens"][1][-1] ^ 1]]
    use(
        replay("honest", exported, right),
        replay("liar", exported, {**right, "tokens": wrong}),
    )
    assert command.main([str(stdlib_5m)]) == 1
    lines = capsys.readouterr().out.splitlines()
    at = NEW_TOKENS - 1
    said = f"prompt 1, token {at}: {wrong[1][at]}, expected {right['tokens'][1][at]}"
    assert f"wrong: stdlib-5m fp32 ort, liar: {said}" in lines
    assert lines[-1] == "failed: 2 of 4 combinations as expected"
    assert command.main([str(stdlib_5m), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["failures"] == [f"stdlib-5m fp32 ort, liar: {said}"]
    assert found["cells"]["stdlib-5m fp32 ort"]["honest"] == "same tokens, text"


def test_in_fp32_the_driver_itself_is_held_against_transformers(
    use: Use, right: Answer, stdlib_5m: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = [[right["tokens"][0][0] ^ 1, *right["tokens"][0][1:]], right["tokens"][1]]
    use(driver_gives={"tokens": wrong})
    assert command.main([str(stdlib_5m)]) == 1
    assert "wrong: stdlib-5m fp32 ort, tramontane: prompt 0, token 0" in capsys.readouterr().out


def test_a_runner_that_breaks_is_wrong_and_not_absent(
    use: Use, stdlib_5m: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = [sys.executable, "-c", "import sys; sys.exit('cannot read the graph')"]
    use(Runtime(name="broken", start=lambda _: broken))
    assert command.main([str(stdlib_5m)]) == 1
    assert "exit status 1; cannot read the graph" in capsys.readouterr().out


@pytest.mark.parametrize("broken", ["REFERENCE", "DRIVER"])
@pytest.mark.parametrize("only", [[], ["--only", "other"]])
def test_an_artifact_without_a_right_answer_fails_and_the_next_is_filled(
    use: Use,
    exported: Exported,
    right: Answer,
    stdlib_5m: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    broken: str,
    only: list[str],
) -> None:
    use(replay("other", exported, right))
    monkeypatch.setattr(command, "cases", two_cases)
    whole, starts = getattr(rows, broken), iter([False, True])

    def start(job: Path) -> Sequence[str | Path]:
        if next(starts):
            return whole.start(job)
        return [sys.executable, "-c", "import sys; sys.exit('out of memory')"]

    changed = replace(whole, start=start)
    for module in (command, rows):
        monkeypatch.setattr(module, broken, changed, raising=False)
    assert command.main([str(stdlib_5m), "--json", *only]) == 1
    found = json.loads(capsys.readouterr().out)
    first, second = found["cells"].values()
    assert list(first) == ["tramontane"]
    assert first["tramontane"].startswith("no reference to compare with: ")
    assert first["tramontane"].endswith("exit status 1; out of memory")
    assert second["other"] == "same tokens, text"
    assert len(found["failures"]) == 1


def test_people_get_a_table_and_no_json(
    use: Use, stdlib_5m: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use()
    assert command.main([str(stdlib_5m)]) == 0
    said = capsys.readouterr()
    assert "{" not in said.out
    assert said.out.splitlines()[-1] == "passed: 1 of 2 combinations as expected"
    assert said.err.splitlines()[0] == "1 artifact, 2 runtimes: about 2 minutes on 2 cores"


def test_the_reference_runs_once_for_all_artifacts_of_a_checkpoint(
    use: Use, stdlib_5m: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use()
    monkeypatch.setattr(command, "cases", two_cases)
    whole, starts = rows.REFERENCE, []

    def start(job: Path) -> Sequence[str | Path]:
        starts.append(job)
        return whole.start(job)

    monkeypatch.setattr(rows, "REFERENCE", replace(whole, start=start))
    assert command.main([str(stdlib_5m), "--only", "tramontane"]) == 0
    assert len(starts) == 1


def test_the_page_is_tried_in_every_way_with_an_artifact_whose_cache_evicts(
    stdlib_5m: Path, tmp_path: Path
) -> None:
    everything = list(cases.cases(stdlib_5m, None))
    grows = [case for case in everything if case.options.cache_choice.grows]
    evicts = [case for case in everything if not case.options.cache_choice.grows]
    for chosen, brief in ((grows[:2], [True, True]), ([grows[0], evicts[0]], [True, False])):
        plan = MatrixPlan(rows=[(case, [PAGE]) for case in chosen], columns=[PAGE.name])
        found = command._rows(plan, tmp_path, tmp_path)
        assert [row.is_brief for row in found] == brief
