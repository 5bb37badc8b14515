"""With what is a runtime's answer compared, in each recipe?"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tramontane.interop import __main__ as command
from tramontane.interop import rows
from tramontane.interop.cases import Exported
from tramontane.interop.judge import Answer, Failed
from tramontane.interop.runtimes import DRIVER, Runtime

from .replays import Use, not_there, replay, two_cases


def test_where_weights_are_rounded_a_runtime_is_held_against_the_one_with_its_kernels(
    use: Use, exported: Exported, right: Answer, stdlib_5m: Path, capsys: Any
) -> None:
    there = {**right, "tokens": [[token ^ 1 for token in each] for each in right["tokens"]]}
    use(
        replay("arm64", exported, there, rounds_like=None),
        replay("bare, arm64", exported, there, rounds_like="arm64"),
        replay("bare", exported, there),
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
        Runtime(name="arm64", start=not_there, rounds_like=None),
        replay("bare, arm64", exported, right, rounds_like="arm64"),
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
    slow = replace(replay("slow", exported, half), new_tokens=5)
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
    wasm = replay("onnxruntime-web", exported, {**right, "tokens": tokens}, rounds_like=None)
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
    use(Runtime(name="onnxruntime-web", start=not_there, rounds_like=None))
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
    monkeypatch.setattr(command, "cases", two_cases)
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
