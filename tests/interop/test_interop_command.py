"""Tests of ``python -m tramontane.interop``: its plan, its matrix, its exit status."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tramontane.console import process_per_core
from tramontane.console.status import status_of
from tramontane.environments.errors import Absent
from tramontane.interop import __main__ as command
from tramontane.interop import cases, rows
from tramontane.interop.cases import Case, Exported
from tramontane.interop.judge import Answer, Failed
from tramontane.interop.matrix_plan import MatrixPlan
from tramontane.interop.runners import driver
from tramontane.interop.runtimes import DRIVER, PAGE, REFERENCE, Runtime
from tramontane.runtime.errors import ContractError

NEW_TOKENS = 24
NO_BROWSER = "chromium: none is on PATH"
# Answers with what was found before; where logits are asked for, so are they.
REPLAY = """
import json, shutil, sys
job = json.load(open(sys.argv[1]))
if job["logits"]:
    shutil.copy(sys.argv[3], job["logits"])
print(open(sys.argv[2]).read())
"""
Use = Callable[..., None]


@pytest.fixture
def first_case_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def first(model: Path, shared: Path | None) -> list[Case]:
        return list(islice(cases.cases(model, None), 1))

    monkeypatch.setattr(command, "cases", first)


@pytest.fixture
def right(exported: Exported) -> Answer:
    """The driver's answer; its logits lie beside the artifact."""
    found = driver.do({**exported.job, "new_tokens": NEW_TOKENS})
    Path(exported.job["logits"]).rename(exported.folder / "logits")
    return found


@pytest.fixture
def use(
    first_case_alone: None, exported: Exported, right: Answer, monkeypatch: pytest.MonkeyPatch
) -> Use:
    """Put other runtimes beside a driver and a reference that answer at once, and rightly."""

    def with_others(
        *others: Runtime,
        quant: str = "fp32",
        driver_gives: Any = None,
        driver_scores: Callable[[np.ndarray], np.ndarray] = lambda logits: logits,
    ) -> None:
        manifest = replace(exported.manifest, quant=quant)
        made = replace(exported, manifest=manifest)
        monkeypatch.setattr(rows, "export", lambda case, _: replace(made, case=case))
        monkeypatch.setattr(rows, "REFERENCE", _replay("transformers", exported, right))
        ours = {**right, **(driver_gives or {})}
        scored = np.fromfile(exported.folder / "logits", "<f4")
        driver_scores(scored).tofile(exported.folder / "tramontane.logits")
        its_own = _replay("tramontane", exported, ours, logits="tramontane.logits")
        its_own = replace(its_own, rounds_like=DRIVER.rounds_like)
        for module in (command, rows):
            monkeypatch.setattr(module, "DRIVER", its_own)
        monkeypatch.setattr(command, "OTHERS", others)
        monkeypatch.setattr(process_per_core, "usable_cores", list)  # all in this process

        monkeypatch.setattr(rows, "visit", _no_browser)

    return with_others


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
    monkeypatch.setattr(rows, "visit", _no_browser)
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
    wrong = _replay("liar", exported, {**right, "tokens": [[0] * NEW_TOKENS] * 2})
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
        _replay("honest", exported, right),
        _replay("liar", exported, {**right, "tokens": wrong}),
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
    use(Runtime(name="genai", start=_absent))
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
    use(Runtime(name="other", start=_never))
    arguments = [str(stdlib_5m), "--only", "tramontane", "--require", "other"]
    with pytest.raises(ContractError, match=r"^other: no such runtime"):
        command.main(arguments)


def test_a_runner_may_say_that_its_runtime_is_not_to_be_had(
    use: Use, exported: Exported, stdlib_5m: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use(_replay("card", exported, {"absent": "no adapter"}))
    assert command.main([str(stdlib_5m)]) == 0
    assert "absent: card: no adapter" in capsys.readouterr().out.splitlines()


def test_only_what_is_wanted_is_run(
    use: Use, exported: Exported, right: Answer, stdlib_5m: Path, capsys: Any
) -> None:
    use(_replay("wanted", exported, right), Runtime(name="other", start=_never))
    assert command.main([str(stdlib_5m), "--json", "--only", "wanted"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cells"] == {"stdlib-5m fp32 ort": {"wanted": "same tokens, text"}}


def test_an_artifact_that_a_runtime_does_not_take_is_not_carried_there(
    use: Use, stdlib_5m: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use(Runtime(name="growing", start=_never, takes=lambda case: not case.has_window))
    assert command.main([str(stdlib_5m), "--json"]) == 0
    assert "growing" not in json.loads(capsys.readouterr().out)["cells"]


def test_where_weights_are_rounded_a_runtime_is_held_against_the_one_with_its_kernels(
    use: Use, exported: Exported, right: Answer, stdlib_5m: Path, capsys: Any
) -> None:
    there = {**right, "tokens": [[token ^ 1 for token in each] for each in right["tokens"]]}
    use(
        _replay("arm64", exported, there, rounds_like=None),
        _replay("bare, arm64", exported, there, rounds_like="arm64"),
        _replay("bare", exported, there),
        quant="int8",
    )
    assert command.main([str(stdlib_5m), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    cells = found["cells"]["stdlib-5m fp32 ort"]
    assert cells["arm64"] == "KL 0.0e+00, 100.0%"  # its logits are those of the reference
    assert cells["bare, arm64"].startswith("text ")  # that of the driver, not of its tokens
    assert cells["bare"].startswith("prompt 0, token 0")


def test_without_the_runtime_that_has_its_kernels_a_runtime_cannot_be_judged(
    use: Use, exported: Exported, right: Answer, stdlib_5m: Path, capsys: Any
) -> None:
    use(
        Runtime(name="arm64", start=_absent, rounds_like=None),
        _replay("bare, arm64", exported, right, rounds_like="arm64"),
        quant="int8",
    )
    assert command.main([str(stdlib_5m), "--json"]) == 0
    absent = json.loads(capsys.readouterr().out)["absent"]
    assert absent["bare, arm64"] == "arm64, which has the same kernels, was not run"


def test_a_slow_runtime_passes_with_the_beginning_of_tokens_and_text(
    use: Use, exported: Exported, right: Answer, stdlib_5m: Path, capsys: Any
) -> None:
    tokens = [each[:5] for each in right["tokens"]]
    text = rows.text_of(exported, exported.job["prompts"][0], tokens[0])
    half = {**right, "tokens": tokens, "texts": [text]}
    slow = replace(_replay("slow", exported, half), new_tokens=5)
    use(slow)
    assert command.main([str(stdlib_5m), "--only", "slow"]) == 0
    use(replace(slow, new_tokens=6))
    assert command.main([str(stdlib_5m), "--only", "slow"]) == 1


def test_the_page_must_show_the_text_of_the_tokens_that_wasm_gave(
    use: Use,
    exported: Exported,
    right: Answer,
    stdlib_5m: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokens = [[token ^ 1 for token in each] for each in right["tokens"]]
    wasm = _replay("onnxruntime-web", exported, {**right, "tokens": tokens}, rounds_like=None)
    use(wasm, quant="int8")
    asked: list[str] = []

    def visit(_: Exported, expected: str, **__: object) -> Answer:
        asked.append(expected)
        if len(asked) > 1:
            raise Failed("FAILS  the text is our driver's")
        return {"claims": {"a": True, "b": True}, "versions": {"chromium": "140"}}

    monkeypatch.setattr(rows, "visit", visit)
    assert command.main([str(stdlib_5m)]) == 0
    assert "same text, 2 claims hold" in capsys.readouterr().out
    assert command.main([str(stdlib_5m)]) == 1
    assert asked == [rows.text_of(exported, exported.job["prompts"][0], tokens[0])] * 2
    assert asked[0] != right["texts"][0]


def test_where_wasm_was_not_run_the_page_must_show_what_transformers_gives_in_fp32(
    use: Use, right: Answer, stdlib_5m: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(Runtime(name="onnxruntime-web", start=_absent, rounds_like=None))
    asked: list[str] = []

    def visit(_: Exported, expected: str, **__: object) -> Answer:
        asked.append(expected)
        return {"claims": {}, "versions": {}}

    monkeypatch.setattr(rows, "visit", visit)
    assert command.main([str(stdlib_5m)]) == 0
    assert command.main([str(stdlib_5m), "--only", "page"]) == 0
    assert asked == [right["texts"][0]] * 2


def test_where_wasm_was_not_run_and_weights_are_rounded_the_page_cannot_be_judged(
    use: Use, stdlib_5m: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    use(quant="int8")
    monkeypatch.setattr(rows, "visit", lambda *_, **__: pytest.fail("visited"))
    assert command.main([str(stdlib_5m), "--json"]) == 0
    absent = json.loads(capsys.readouterr().out)["absent"]
    why = "onnxruntime-web, which has the same kernels, was not run"
    assert absent["page in Chromium"] == why
    assert command.main([str(stdlib_5m), "--json", "--require", "page in Chromium"]) == 1


def test_the_first_page_that_is_visited_is_tried_in_every_way_and_the_others_in_brief(
    use: Use, stdlib_5m: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use()
    monkeypatch.setattr(command, "cases", _two_cases)
    visits: list[dict[str, object]] = []

    def visit(*_: object, **how: object) -> Answer:
        visits.append(how)
        return {"claims": {}, "versions": {}}

    monkeypatch.setattr(rows, "visit", visit)
    assert command.main([str(stdlib_5m), "--screenshots", str(tmp_path)]) == 0
    assert visits == [
        {"screenshots": tmp_path, "is_brief": False},
        {"screenshots": None, "is_brief": True},
    ]


def test_where_weights_are_rounded_the_drivers_own_logits_are_held_to_those_of_pytorch(
    use: Use, exported: Exported, right: Answer, stdlib_5m: Path, capsys: Any
) -> None:
    assert DRIVER.rounds_like is None
    use(quant="int8")
    assert command.main([str(stdlib_5m), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cells"]["stdlib-5m fp32 ort"]["tramontane"] == "KL 0.0e+00, 100.0%"
    use(quant="int8", driver_scores=lambda logits: -logits)
    assert command.main([str(stdlib_5m), "--json"]) == 1
    (failure,) = json.loads(capsys.readouterr().out)["failures"]
    assert failure.startswith("stdlib-5m fp32 ort, tramontane: KL ")
    assert failure.endswith("allowed 1e-03 and 98%")


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
    use(_replay("other", exported, right))
    monkeypatch.setattr(command, "cases", _two_cases)
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
    use(_replay("other", exported, right))
    monkeypatch.setattr(rows, "visit", lambda *_, **__: {"claims": {}, "versions": {}})
    model.mkdir(parents=True)
    assert command.main(arguments) == 1  # a model without its text
    text.parent.mkdir()
    text.touch()
    assert command.main(arguments) == 0
    use(Runtime(name="other", start=_absent))
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


def test_people_get_a_table_and_no_json(
    use: Use, stdlib_5m: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use()
    assert command.main([str(stdlib_5m)]) == 0
    said = capsys.readouterr()
    assert "{" not in said.out
    assert said.out.splitlines()[-1] == "passed: 1 of 2 combinations as expected"
    assert said.err.splitlines()[0] == "1 artifact, 2 runtimes: about 2 minutes on 2 cores"


def test_only_artifacts_that_the_asked_for_runtimes_need_are_made(
    use: Use, stdlib_5m: Path, exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    use()
    monkeypatch.setattr(command, "cases", cases.cases)
    made: list[str] = []

    def export(case: Case, _: Path) -> Exported:
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


def test_the_reference_runs_once_for_all_artifacts_of_a_checkpoint(
    use: Use, stdlib_5m: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use()
    monkeypatch.setattr(command, "cases", _two_cases)
    whole, starts = rows.REFERENCE, []

    def start(job: Path) -> Sequence[str | Path]:
        starts.append(job)
        return whole.start(job)

    monkeypatch.setattr(rows, "REFERENCE", replace(whole, start=start))
    assert command.main([str(stdlib_5m), "--only", "tramontane"]) == 0
    assert len(starts) == 1


def _two_cases(model: Path, shared: Path | None) -> list[Case]:
    return list(islice(cases.cases(model, None), 2))


def _replay(
    name: str, exported: Exported, answer: Answer, *, logits: str = "logits", **fields: Any
) -> Runtime:
    path = exported.folder / f"{name}.answer"
    path.write_text(json.dumps(answer), encoding="utf-8")
    scored = exported.folder / logits
    return Runtime(
        name=name,
        start=lambda job: [sys.executable, "-c", REPLAY, job, path, scored],
        new_tokens=NEW_TOKENS,
        **fields,
    )


def _no_browser(*_: object, **__: object) -> Answer:
    raise Absent(NO_BROWSER)


def _absent(job: Path) -> list[str]:
    raise Absent("npm: not on PATH")


def _never(job: Path) -> list[str]:
    pytest.fail("started")


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
