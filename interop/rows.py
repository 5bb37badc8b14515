"""Runs one artifact in every runtime that is planned for it, and judges the answers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..console.processes import process_per_core as processes
from ..console.progress import say
from ..environments.errors import Absent
from ..export.formats.huggingface import CONFIG_FILE
from .cases import Exported, MatrixCase, export, read_logits, refuse_end_tokens
from .judge import Answer, Cell, ExpectedAnswer, Failed, ask, judge, measures
from .runtimes import COLUMNS, DRIVER, PAGE, REFERENCE, Column, Runtime
from .web_page import text_of, visit


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixRow:
    """One artifact, and the runtimes that run it."""

    case: MatrixCase
    columns: Sequence[Column]
    folder: Path  # of the artifact, which is written there
    screenshots: Path | None  # folder for pictures of the page
    is_brief: bool  # whether the page is tested briefly


References = dict[str, tuple[Answer, np.ndarray]]  # transformers' answer, and logits (T, V)
Cells = list[tuple[str, Cell]]  # with the runtime's name


def run_rows(rows: Sequence[MatrixRow]) -> Iterator[Cells]:
    """Run each artifact in its runtimes; what was found comes in the order of the rows.

    Several rows run in several processes, each on one core.

    Raises:
        TramontaneError: an artifact cannot be made, or a prompt leads to an end token.
    """
    cores = processes.cores_for(len(rows))
    if not cores:
        references: References = {}
        for row in rows:
            yield run_row(row, references)
        return
    with processes.process_per_core(cores) as pool:
        # A column holds functions, which cannot be sent to a process; its name can.
        names = [[column.name for column in row.columns] for row in rows]
        bare = [dataclasses.replace(row, columns=()) for row in rows]
        yield from pool.map(_run_named, bare, names)


_references: References = {}  # of this process


def _run_named(row: MatrixRow, names: Sequence[str]) -> Cells:
    columns = [column for column in COLUMNS if column.name in names]
    return run_row(dataclasses.replace(row, columns=columns), _references)


def run_row(row: MatrixRow, references: References) -> Cells:
    """Export an artifact and run it in all runtimes that are planned for it.

    Args:
        row: the artifact and its runtimes.
        references: answers so far, by checkpoint, config and job; this artifact's is added.
    """
    name = row.case.name
    say(f"{name}: exporting")
    exported = export(row.case, row.folder)
    try:
        reference, logits = _reference(exported, references)
        driver = _answer(DRIVER, exported)
    except (Absent, Failed) as error:
        cell = Cell(said=f"no reference to compare with: {error}", is_failure=True)
        return [(DRIVER.name, cell)]
    right = driver if exported.is_quantized else reference
    refuse_end_tokens(exported, right["tokens"])
    expected = ExpectedAnswer(
        tokens=right["tokens"],
        texts=[],  # as long as each runtime makes them: see _judged
        ids=driver["ids"],
        decoded=driver["decoded"],
        logits=logits,
        chat=reference.get("chat"),
    )
    answers = {DRIVER.name: driver}
    found = []
    for column in row.columns:
        say(f"{name}: {column.name}")
        if isinstance(column, Runtime):
            cell = _cell_or_failure(_judge_runtime, column, exported, answers, expected)
        else:
            cell = _cell_or_failure(_judge_page, exported, answers, expected, row)
        found.append((column.name, cell))
    return found


def _cell_or_failure(judged: Callable[..., Cell], *args: object) -> Cell:
    """One cell of the matrix, also if the runtime is absent or failed."""
    try:
        return judged(*args)
    except Absent as absent:
        return Cell(said=str(absent), is_absent=True)
    except Failed as failure:
        return Cell(said=str(failure), is_failure=True)


def _reference(exported: Exported, references: References) -> tuple[Answer, np.ndarray]:
    """The answer of transformers, once for all artifacts of one checkpoint, config and job."""
    config = json.loads((exported.folder / CONFIG_FILE).read_text(encoding="utf-8"))
    config.pop("transformers.js_config", None)
    job = {name: exported.job[name] for name in ("prompts", "score", "texts", "strings", "chat")}
    checkpoint = str(exported.case.checkpoint.resolve())
    key = json.dumps([checkpoint, config, job], sort_keys=True)
    if key not in references:
        say(f"{exported.case.name}: {REFERENCE.name} in PyTorch, the reference")
        answer = ask(REFERENCE, exported, checkpoint=checkpoint)
        references[key] = answer, read_logits(exported)
    return references[key]


def _judge_runtime(
    runtime: Runtime, exported: Exported, answers: dict[str, Answer], expected: ExpectedAnswer
) -> Cell:
    """Compare a runtime's answer with the expected one."""
    if runtime is not DRIVER:
        answers[runtime.name] = _answer(runtime, exported)
    return _judged(runtime, exported, answers, expected)


def _answer(runtime: Runtime, exported: Exported) -> Answer:
    """A runtime's answer to the job, with logits only if they are measured."""
    return ask(runtime, exported, **({} if measures(runtime, exported) else {"logits": None}))


def _judged(
    runtime: Runtime, exported: Exported, answers: dict[str, Answer], expected: ExpectedAnswer
) -> Cell:
    """Compare an answer with the expected one, or with that of the same kernels."""
    like = runtime.rounds_like
    if exported.is_quantized and like is not None:
        if like not in answers:
            return Cell(said=f"{like}, which has the same kernels, was not run", is_absent=True)
        expected = dataclasses.replace(expected, tokens=answers[like]["tokens"])
    prompt, tokens = exported.job["prompts"][0], expected.tokens[0][: runtime.new_tokens]
    expected = dataclasses.replace(expected, texts=[text_of(exported, prompt, tokens)])
    return judge(runtime, exported, answers[runtime.name], expected)


def _judge_page(
    exported: Exported, answers: dict[str, Answer], expected: ExpectedAnswer, row: MatrixRow
) -> Cell:
    """Test the page, in every way or briefly."""
    if same_kernels := answers.get(PAGE.rounds_like or ""):
        tokens = same_kernels["tokens"][0]
    elif not exported.is_quantized:
        tokens = expected.tokens[0]
    else:
        raise Absent(f"{PAGE.rounds_like}, which has the same kernels, was not run")
    text = text_of(exported, exported.job["prompts"][0], tokens)
    with processes.on_all_cores():  # one claim is that the page computes with threads
        answer = visit(exported, text, screenshots=row.screenshots, is_brief=row.is_brief)
    said = f"same text, {len(answer['claims'])} claims hold"
    return Cell(said=said, versions=answer["versions"])
