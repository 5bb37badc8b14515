"""Asks a runtime to do a job, and compares its answer with what is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..environments import commands
from ..environments.errors import Absent
from ..runtime.sizes import counted
from ..validate.figures import compare
from .cases import Exported, read_logits, write_job
from .runtimes import Runtime

Answer = dict[str, Any]  # the JSON that a runner printed

# Bounds on other kernels' distance from the float32 model, with the bundled demo model: mean KL in
# nats and top-1 agreement. They are about 1.5 times our driver's own distance.
BOUNDS = {
    "int8": (1e-3, 0.98),
    "int8-dynamic": (1e-3, 0.97),
    "int4": (2e-2, 0.90),
    "int4-small": (2e-2, 0.90),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpectedAnswer:
    """The expected answer for one artifact."""

    tokens: list[list[int]]  # of transformers; with quantized weights, of the same kernels
    texts: list[str]
    ids: list[list[int]]  # of SentencePiece, on the tokenizer probes
    decoded: list[str]
    logits: np.ndarray  # (T, V) float32, of transformers
    chat: str | None = None  # a chat, as transformers' template writes it; None: no template


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One runtime and one artifact."""

    said: str
    is_failure: bool = False
    is_absent: bool = False
    versions: dict[str, str] | None = None


def ask(runtime: Runtime, exported: Exported, **changes: Any) -> Answer:
    """Run an artifact's job in a runtime.

    Raises:
        Absent: the runtime cannot be installed here.
        Failed: the runtime ended with an error.
    """
    path = exported.folder.with_suffix(f".{runtime.name.replace(' ', '-')}.json")
    score = exported.job["score"][: runtime.num_scored]
    changes = {"new_tokens": runtime.new_tokens, "score": score, **changes}
    Path(exported.job["logits"]).unlink(missing_ok=True)  # another's
    command = runtime.start(write_job(exported, path, **changes))
    try:
        answer = commands.answer(command)
    except Absent as failure:
        raise Failed(str(failure)) from failure
    finally:
        path.unlink()
    if "absent" in answer:
        raise Absent(str(answer["absent"]))
    found, asked = len(answer.get("tokens", ())), len(exported.job["prompts"])
    if found != asked:
        raise Failed(f"continued {counted(found, 'prompt')}, expected {asked}")
    return answer


class Failed(Exception):  # noqa: N818 - a state, not an error
    """A runtime ended with an error; the message has its last line."""


def measures(runtime: Runtime, exported: Exported) -> bool:
    """Whether logits are compared within bounds, since the runtime's kernels round differently."""
    return runtime.rounds_like is None and exported.is_quantized


def judge(runtime: Runtime, exported: Exported, answer: Answer, expected: ExpectedAnswer) -> Cell:
    """Compare a runtime's answer with what is right.

    In fp32, and with the driver's kernels, tokens must be the same. Otherwise logits must be
    within the gate's bounds. Texts and hard strings must be the same, except for the known
    differences of the runtime's own tokenizer.
    """
    wrong: list[str] = []
    if not measures(runtime, exported):
        said = "same tokens"
        right = [tokens[: runtime.new_tokens] for tokens in expected.tokens]
        wrong += _first_other(answer["tokens"], right)
    else:
        said, why = _measured(runtime, exported, expected)
        wrong += why
    if "texts" in answer and not measures(runtime, exported):
        wrong += [
            f"text {found!r}, expected {right!r}"
            for found, right in zip(answer["texts"], expected.texts, strict=True)
            if found != right
        ]
    if "ids" in answer:
        misread = _misread(runtime, exported.job["strings"], answer, expected)
        other_rules = runtime.reads_other_rules(exported.case)
        wrong += [] if other_rules else [why for _, why in misread]
        if expected.chat is not None and answer.get("chat", expected.chat) != expected.chat:
            wrong.append(f"chat {answer['chat']!r}, expected {expected.chat!r}")
        said += ", text" if "texts" in answer and not measures(runtime, exported) else ""
        if other_rules:
            strings = len({text for text, _ in misread})
            said += f"; {strings} of {len(exported.job['strings'])} strings differ: {other_rules}"
            if not strings:
                wrong.append(f"no string differs, expected some: {other_rules}")
    return Cell(
        said="; ".join(wrong) if wrong else said,
        is_failure=bool(wrong),
        versions=answer["versions"],
    )


def _measured(
    runtime: Runtime, exported: Exported, expected: ExpectedAnswer
) -> tuple[str, list[str]]:
    """Figures of a runtime whose kernels round differently, and those out of bounds."""
    score, logits = np.array(exported.job["score"][: runtime.num_scored]), read_logits(exported)
    if len(logits) != len(score):
        return "not scored", [f"scored {counted(len(logits), 'position')}, expected {len(score)}"]
    found = compare(expected.logits[: len(score)], logits, score)
    mean_kl, same_top = BOUNDS[exported.manifest.quant]
    said = f"KL {found.mean_kl:.1e}, {found.same_top:.1%}"
    if found.mean_kl <= mean_kl and found.same_top >= same_top:
        return said, []
    return said, [f"{said}, allowed {mean_kl:.0e} and {same_top:.0%}"]


def _first_other(found: Sequence[list[int]], expected: Sequence[list[int]]) -> list[str]:
    wrong = []
    for number, (tokens, right) in enumerate(zip(found, expected, strict=True)):
        pairs = zip(tokens, right, strict=False)
        at = next((at for at, (token, other) in enumerate(pairs) if token != other), None)
        if at is not None:
            wrong.append(f"prompt {number}, token {at}: {tokens[at]}, expected {right[at]}")
        elif len(tokens) != len(right):
            wrong.append(
                f"prompt {number}: {counted(len(tokens), 'token')}, expected {len(right)}"
            )
    return wrong


def _misread(
    runtime: Runtime, strings: Sequence[str], answer: Answer, expected: ExpectedAnswer
) -> list[tuple[str, str]]:
    """Strings that are encoded or decoded differently, without known differences, and how."""
    kinds = (("ids", runtime.reads_otherwise), ("decoded", runtime.writes_otherwise))
    return [
        (text, f"{text!r}: {kind} {found!r}, expected {right!r}")
        for kind, is_known in kinds
        for text, found, right in zip(strings, answer[kind], getattr(expected, kind), strict=True)
        if found != right and not is_known(text)
    ]
