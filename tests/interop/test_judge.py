"""Is every wrong answer found, and named by what is wrong with it?"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tramontane.environments.errors import Absent
from tramontane.graphs.quantization.recipes.all_recipes import find_recipe
from tramontane.interop.cases import Exported
from tramontane.interop.judge import BOUNDS, Answer, Cell, ExpectedAnswer, Failed, ask, judge
from tramontane.interop.runtimes import OTHERS, Runtime
from tramontane.validate.figures import compare

T, V = 512, 64
TOKENS = [[10, 11, 12, 13], [20, 21, 22, 23]]
STRINGS = ["plain", "<s>", "\ufeffx"]
IDS = [[1, 40], [1, 41, 42], [1, 43]]
OTHER, OWN_KERNELS = (
    Runtime(name="other", start=lambda _: [], new_tokens=4, rounds_like=like)
    for like in ("tramontane", None)
)
INT8_KL, _ = BOUNDS["int8"]


def _logits() -> np.ndarray:
    """(T, V) float32; the likeliest token leads by 1, but the next of every fifth by 0.001."""
    random = np.random.default_rng(0)
    logits = random.uniform(-1, 1, (T, V)).astype(np.float32)
    rows = np.arange(T)
    logits[rows, rows % V] = 2
    logits[rows[::5], (rows[::5] + 1) % V] = 1.999
    return logits


@pytest.fixture(scope="module")
def expected() -> ExpectedAnswer:
    return ExpectedAnswer(
        tokens=TOKENS, texts=["(n):\n"], ids=IDS, decoded=list(STRINGS), logits=_logits()
    )


@pytest.fixture
def asked(exported: Exported) -> Callable[[str], Exported]:
    """A job of three strings, of an artifact whose weights are rounded as wanted."""
    job = {**exported.job, "strings": STRINGS, "score": [t % V for t in range(T)]}

    geometry = replace(exported.manifest.geometry, vocab_size=V)

    def of(quant: str) -> Exported:
        manifest = replace(
            exported.manifest, quant=quant, recipe=find_recipe(quant).text, geometry=geometry
        )
        return replace(exported, manifest=manifest, job=job)

    return of


def _answer(**changes: Any) -> Answer:
    right = {
        "versions": {"other": "1.0"},
        "tokens": TOKENS,
        "texts": ["(n):\n"],
        "ids": IDS,
        "decoded": STRINGS,
    }
    return {name: value for name, value in {**right, **changes}.items() if value is not None}


def _judged_logits(
    exported: Exported,
    expected: ExpectedAnswer,
    logits: np.ndarray,
    runtime: Runtime = OWN_KERNELS,
) -> Cell:
    logits.astype("<f4").tofile(exported.job["logits"])
    answer = _answer(tokens=[], texts=None, ids=None, decoded=None)
    return judge(runtime, exported, answer, expected)


def test_a_right_answer_passes_and_tells_what_was_compared(
    asked: Callable[[str], Exported], expected: ExpectedAnswer
) -> None:
    cell = judge(OTHER, asked("fp32"), _answer(), expected)
    assert cell == Cell(said="same tokens, text", versions={"other": "1.0"})
    tokens_alone = _answer(texts=None, ids=None, decoded=None)
    assert judge(OTHER, asked("fp32"), tokens_alone, expected).said == "same tokens"


@pytest.mark.parametrize(("prompt", "at"), [(0, 0), (0, 3), (1, 2)])
@pytest.mark.parametrize("quant", ["fp32", "int8"])
def test_a_token_that_is_off_by_one_is_named_with_its_prompt_and_place(
    asked: Callable[[str], Exported], expected: ExpectedAnswer, quant: str, prompt: int, at: int
) -> None:
    tokens = [list(each) for each in TOKENS]
    tokens[prompt][at] += 1
    cell = judge(OTHER, asked(quant), _answer(tokens=tokens), expected)
    right = TOKENS[prompt][at]
    assert cell.is_failure
    assert cell.said == f"prompt {prompt}, token {at}: {right + 1}, expected {right}"


def test_in_fp32_a_runtime_with_kernels_of_its_own_must_give_the_same_tokens_too(
    asked: Callable[[str], Exported], expected: ExpectedAnswer
) -> None:
    tokens = [TOKENS[0], [20, 21, 22, 24]]
    cell = judge(OWN_KERNELS, asked("fp32"), _answer(tokens=tokens), expected)
    assert cell.said == "prompt 1, token 3: 24, expected 23"


def test_both_prompts_are_named_when_both_are_wrong(
    asked: Callable[[str], Exported], expected: ExpectedAnswer
) -> None:
    tokens = [[10, 11, 12, 14], [21, 21, 22, 23]]
    cell = judge(OTHER, asked("fp32"), _answer(tokens=tokens), expected)
    assert cell.said == "prompt 0, token 3: 14, expected 13; prompt 1, token 0: 21, expected 20"


@pytest.mark.parametrize("tokens", [TOKENS[:1], [], [*TOKENS, [1]]])
def test_an_answer_to_fewer_or_more_prompts_is_no_answer(
    asked: Callable[[str], Exported], expected: ExpectedAnswer, tokens: list[list[int]]
) -> None:
    with pytest.raises(ValueError, match="zip"):
        judge(OTHER, asked("fp32"), _answer(tokens=tokens), expected)


def test_a_runtime_that_stops_early_does_not_pass_by_what_it_gave(
    asked: Callable[[str], Exported], expected: ExpectedAnswer
) -> None:
    cell = judge(OTHER, asked("fp32"), _answer(tokens=[TOKENS[0], [20, 21]]), expected)
    assert cell.is_failure
    assert cell.said == "prompt 1: 2 tokens, expected 4"


def test_a_slow_runtime_is_held_against_the_tokens_that_were_asked_of_it(
    asked: Callable[[str], Exported], expected: ExpectedAnswer
) -> None:
    slow = replace(OTHER, new_tokens=2)
    half = _answer(tokens=[tokens[:2] for tokens in TOKENS])
    assert not judge(slow, asked("fp32"), half, expected).is_failure
    assert judge(slow, asked("fp32"), _answer(), expected).said.startswith("prompt 0: 4 tokens")


def test_a_wrong_text_is_shown_beside_the_right_one(
    asked: Callable[[str], Exported], expected: ExpectedAnswer
) -> None:
    cell = judge(OTHER, asked("fp32"), _answer(texts=["(n): \n"]), expected)
    assert cell.is_failure
    assert cell.said == r"text '(n): \n', expected '(n):\n'"


def test_a_hard_string_that_is_read_otherwise_is_shown_with_both_readings(
    asked: Callable[[str], Exported], expected: ExpectedAnswer
) -> None:
    cell = judge(OTHER, asked("fp32"), _answer(ids=[IDS[0], [1, 1], IDS[2]]), expected)
    assert cell.is_failure
    assert cell.said == "'<s>': ids [1, 1], expected [1, 41, 42]"


def test_a_hard_string_that_is_written_otherwise_is_shown_with_both_writings(
    asked: Callable[[str], Exported], expected: ExpectedAnswer
) -> None:
    cell = judge(OTHER, asked("fp32"), _answer(decoded=["plain", "<s>", "x"]), expected)
    assert cell.is_failure
    assert cell.said == r"'\ufeffx': decoded 'x', expected '\ufeffx'"


def test_a_known_difference_is_let_through_for_that_string_and_that_way_alone(
    asked: Callable[[str], Exported], expected: ExpectedAnswer
) -> None:
    knows = replace(
        OTHER,
        reads_otherwise=lambda text: text == "<s>",
        writes_otherwise=lambda text: text.startswith("\ufeff"),
    )
    known = _answer(ids=[IDS[0], [1, 1], IDS[2]], decoded=["plain", "<s>", "x"])
    assert not judge(knows, asked("fp32"), known, expected).is_failure
    other = _answer(ids=[[1, 1], IDS[1], [1, 1]], decoded=["plain", "s", "x"])
    assert judge(knows, asked("fp32"), other, expected).said.split("; ") == [
        "'plain': ids [1, 1], expected [1, 40]",
        r"'\ufeffx': ids [1, 1], expected [1, 43]",
        "'<s>': decoded 's', expected '<s>'",
    ]


def test_what_is_known_of_a_runtime_excuses_no_ordinary_text() -> None:
    for runtime in OTHERS:
        for text in ("", "def f(x):\n    return x\n", "Grüße", "日本語", "🤗", "[INST] x"):
            assert not runtime.reads_otherwise(text), (runtime.name, text)
            assert not runtime.writes_otherwise(text) or text == "", (runtime.name, text)


def test_where_tokens_cannot_be_asked_for_hard_strings_still_are(
    asked: Callable[[str], Exported], expected: ExpectedAnswer
) -> None:
    exported = asked("int8")
    expected.logits.tofile(exported.job["logits"])
    answer = _answer(tokens=[[0], [0]], texts=["its own"], ids=[IDS[0], [1, 1], IDS[2]])
    cell = judge(OWN_KERNELS, exported, answer, expected)
    assert cell.said == "'<s>': ids [1, 1], expected [1, 41, 42]"


@pytest.mark.parametrize(("share", "is_failure"), [(1.05, True), (0.95, False)])
def test_noise_in_logits_passes_just_within_the_bound_of_divergence_and_fails_just_beyond(
    asked: Callable[[str], Exported], expected: ExpectedAnswer, share: float, is_failure: bool
) -> None:
    logits = _noisy(expected.logits, mean_kl=share * INT8_KL)
    cell = _judged_logits(asked("int8"), expected, logits)
    assert cell.is_failure is is_failure
    found = compare(expected.logits, logits, np.arange(T) % V)
    said = f"KL {found.mean_kl:.1e}, {found.same_top:.1%}"
    assert cell.said == (f"{said}, allowed 1e-03 and 98%" if is_failure else said)


@pytest.mark.parametrize(("others", "is_failure"), [(11, True), (10, False)])
def test_other_tops_pass_just_within_the_bound_and_fail_just_beyond(
    asked: Callable[[str], Exported], expected: ExpectedAnswer, others: int, is_failure: bool
) -> None:
    logits = expected.logits.copy()
    rows = np.arange(0, 5 * others, 5)
    logits[rows, (rows + 1) % V] += 0.002
    cell = _judged_logits(asked("int8"), expected, logits)
    assert cell.is_failure is is_failure
    assert f"{1 - others / T:.1%}" in cell.said
    assert ("allowed 1e-03 and 98%" in cell.said) is is_failure


def test_one_logit_that_is_no_number_fails(
    asked: Callable[[str], Exported], expected: ExpectedAnswer
) -> None:
    logits = expected.logits.copy()
    logits[100, 3] = np.nan
    cell = _judged_logits(asked("int8"), expected, logits)
    assert cell.is_failure
    assert cell.said.startswith("KL nan")


@pytest.mark.parametrize("kept", [T * V - 1, T * V // 2, 0])
def test_too_few_logits_fail(
    asked: Callable[[str], Exported], expected: ExpectedAnswer, kept: int
) -> None:
    cell = _judged_logits(asked("int8"), expected, expected.logits.ravel()[:kept])
    assert cell.is_failure
    assert cell.said == f"scored {kept // V} positions, expected {T}"


def test_a_slow_runtime_is_held_against_the_positions_that_were_asked_of_it(
    asked: Callable[[str], Exported], expected: ExpectedAnswer
) -> None:
    slow = replace(OWN_KERNELS, num_scored=T // 2)
    logits = expected.logits[: T // 2].copy()
    assert not _judged_logits(asked("int8"), expected, logits, slow).is_failure
    logits[-20:] *= -1
    assert _judged_logits(asked("int8"), expected, logits, slow).is_failure
    whole = _judged_logits(asked("int8"), expected, expected.logits, slow)
    assert whole.said == f"scored {T} positions, expected {T // 2}"


def test_a_runner_is_given_the_job_and_its_last_line_is_the_answer(exported: Exported) -> None:
    script = """
import json, sys
job = json.load(open(sys.argv[1]))
print("loading")
print(json.dumps({"tokens": [[job["new_tokens"]], [job["logits"]]], "texts": ["\\u2028"]},
    ensure_ascii=False))
"""
    answer = ask(_runner(script, new_tokens=7), exported, logits=None)
    assert answer == {"tokens": [[7], [None]], "texts": ["\u2028"]}
    assert not list(exported.folder.parent.glob("*.json"))


def test_logits_of_another_are_not_taken_for_those_of_a_runner_that_wrote_none(
    asked: Callable[[str], Exported], expected: ExpectedAnswer
) -> None:
    exported = asked("int8")
    expected.logits.tofile(exported.job["logits"])
    answer = _answer(tokens=[[], []], texts=None, ids=None, decoded=None)
    silent = _runner(f"print({json.dumps(answer)!r})", rounds_like=None)
    found = judge(silent, exported, ask(silent, exported), expected)
    assert found.is_failure
    assert found.said == f"scored 0 positions, expected {T}"


def test_a_runner_that_ends_with_an_error_failed_and_is_not_absent(exported: Exported) -> None:
    with pytest.raises(Failed, match=r"exit status 1; cannot read the graph$"):
        ask(_runner("import sys; sys.exit('cannot read the graph')"), exported)
    assert not list(exported.folder.parent.glob("*.json"))


@pytest.mark.parametrize(
    ("answer", "found"), [("{}", "0 prompts"), ('{"tokens": [[1]]}', "1 prompt")]
)
def test_a_runner_that_answers_too_few_prompts_failed(
    exported: Exported, answer: str, found: str
) -> None:
    with pytest.raises(Failed, match=f"^continued {found}, expected 2$"):
        ask(_runner(f"print({answer!r})"), exported)


@pytest.mark.parametrize("script", ["", "print('Segmentation fault')"])
def test_a_runner_that_ends_well_and_answers_nothing_failed(
    exported: Exported, script: str
) -> None:
    with pytest.raises(Failed, match="its last line is no JSON"):
        ask(_runner(script), exported)


def test_a_runtime_that_cannot_be_had_is_absent(exported: Exported) -> None:
    def start(job: Path) -> list[str]:
        assert json.loads(job.read_text())["new_tokens"] == 160
        raise Absent("npm: not on PATH")

    with pytest.raises(Absent, match="npm: not on PATH"):
        ask(Runtime(name="other", start=start), exported)


def _runner(script: str, **fields: Any) -> Runtime:
    return Runtime(
        name="the other", start=lambda job: [sys.executable, "-c", script, job], **fields
    )


def _noisy(logits: np.ndarray, *, mean_kl: float) -> np.ndarray:
    """Logits with as much noise as gives a divergence, and no other tops."""
    noise = np.random.default_rng(1).standard_normal(logits.shape).astype(np.float32)
    noise[logits > 1.5] = 0
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        found = compare(logits, logits + np.float32(middle) * noise, np.arange(T) % V)
        low, high = (middle, high) if found.mean_kl < mean_kl else (low, middle)
    return np.asarray(logits + np.float32(low) * noise)


def test_a_chat_that_a_template_writes_otherwise_is_a_failure(
    asked: Callable[[str], Exported], expected: ExpectedAnswer
) -> None:
    chatty = replace(expected, chat="<s>[INST]")
    assert judge(OTHER, asked("fp32"), _answer(chat="<s>[INST]"), chatty).said.startswith("same")
    cell = judge(OTHER, asked("fp32"), _answer(chat="[INST]"), chatty)
    assert cell.is_failure
    assert cell.said == "chat '[INST]', expected '<s>[INST]'"
    # A runtime without templates is not asked for one.
    assert not judge(OTHER, asked("fp32"), _answer(), chatty).is_failure


def test_strings_that_rules_unknown_to_a_runtime_change_are_counted_and_there_must_be_some(
    asked: Callable[[str], Exported], expected: ExpectedAnswer
) -> None:
    other = replace(OTHER, reads_other_rules=lambda _: "it has no such rule")
    ids = [[*IDS[0], 7], *IDS[1:]]
    cell = judge(other, asked("fp32"), _answer(ids=ids), expected)
    assert not cell.is_failure
    assert cell.said == (
        f"same tokens, text; 1 of {len(STRINGS)} strings differ: it has no such rule"
    )
    cell = judge(other, asked("fp32"), _answer(), expected)
    assert cell.is_failure
    assert cell.said == "no string differs, expected some: it has no such rule"
