"""Run artifacts in other runtimes and compare what they give: ``python -m tramontane.interop``.

Each runtime is installed into its own environment, gets the same job, and must give the same
tokens and text.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..console.progress import say
from ..console.status import status_of
from ..environments.errors import Absent
from ..export.formats.huggingface import CONFIG_FILE
from ..runtime.errors import ContractError
from .cases import (
    Exported,
    cases,
    export,
    read_logits,
    refuse_end_tokens,
    stories_in,
)
from .judge import Answer, Cell, ExpectedAnswer, Failed, ask, judge, measures
from .matrix import Matrix
from .matrix_plan import ALL, choose
from .runtimes import DRIVER, OTHERS, PAGE, REFERENCE, Column, Runtime
from .web_page import text_of, visit

Reference = tuple[Answer, np.ndarray]  # transformers' answer, and logits (T, V)


def main(argv: list[str] | None = None) -> int:
    """Fill the matrix, print it, return 1 if a cell is wrong or a required runtime absent."""
    args = _parser().parse_args(argv)
    columns = (DRIVER, *OTHERS, PAGE)
    shared = args.shared
    has_stories = shared is not None and all(path.exists() for path in stories_in(shared))
    all_cases = list(cases(args.model, shared if has_stories else None))
    plan = choose(all_cases, columns, only=args.only or (), artifacts=args.artifacts)
    required = set() if args.require == [ALL] else set(args.require)
    for name in sorted(required - set(plan.columns)):
        raise ContractError(
            f"{name}: no such runtime in this run, expected one of {'; '.join(plan.columns)}"
        )
    for line in plan.lines():
        say(line)
    matrix = Matrix(plan.columns)
    references: dict[str, Reference] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (case, row) in enumerate(plan.rows):
            say(f"artifact {number + 1} of {len(plan.rows)}: {case.name}: exporting")
            exported = export(case, Path(folder) / f"artifact-{number}")
            _fill(matrix, exported, row, references, args.screenshots)
    is_whole = not args.only and args.artifacts in ("", ALL)
    if is_whole and not has_stories:
        where = f"not in {shared}" if shared else "--shared is not given"
        matrix.leave_out("stories15M", where)
    if args.out is not None:
        _write(args.out, matrix, is_whole=is_whole)
    print(matrix.to_json()) if args.json else matrix.print_report()
    if args.require == [ALL]:
        required |= matrix.absent.keys()
    return 1 if matrix.failures or matrix.absent.keys() & required else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tramontane.interop", description=__doc__)
    parser.add_argument("model", type=Path, help="checkpoint: the bundled demo model")
    parser.add_argument("--shared", type=Path, help="folder with trained models and text")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="RUNTIME",
        help="part of a runtime's name; makes the artifacts that are usual for it (default: all)",
    )
    parser.add_argument(
        "--artifacts",
        default="",
        metavar="NAMES",
        help="words of an artifact's name, as in 'int8 web, fp32 growing', or all",
    )
    parser.add_argument(
        "--require",
        nargs="*",
        default=[],
        metavar="RUNTIME",
        help="fail if this runtime cannot be installed here; or all",
    )
    parser.add_argument("--screenshots", type=Path, metavar="DIR", help="pictures of the page")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the matrix as Markdown")
    parser.add_argument("--json", action="store_true", help="print one line of JSON, no table")
    return parser


def _write(out: Path, matrix: Matrix, *, is_whole: bool) -> None:
    if is_whole and not matrix.failures:
        out.write_text(matrix.as_markdown("make interop"), encoding="utf-8")
    else:
        why = "this run has failures" if is_whole else "only runs of everything are recorded"
        say(f"{out}: not updated: {why}")


def _fill(
    matrix: Matrix,
    exported: Exported,
    row: Sequence[Column],
    references: dict[str, Reference],
    screenshots: Path | None,
) -> None:
    """Run one artifact in all runtimes that are planned for it."""
    name = exported.case.name
    try:
        reference, logits = _reference(exported, references)
        driver = _answer(DRIVER, exported)
    except (Absent, Failed) as error:
        cell = Cell(said=f"no reference to compare with: {error}", is_failure=True)
        matrix.add(name, DRIVER.name, cell)
        return
    right = driver if exported.is_quantized else reference
    refuse_end_tokens(exported, right["tokens"])
    expected = ExpectedAnswer(
        tokens=right["tokens"],
        texts=[],  # as long as each runtime makes them: see _judged
        ids=driver["ids"],
        decoded=driver["decoded"],
        logits=logits,
    )
    answers = {DRIVER.name: driver}
    for column in row:
        say(f"  {column.name}")
        if isinstance(column, Runtime):
            cell = _told(_judge_runtime, column, exported, answers, expected)
        else:
            cell = _told(_judge_page, exported, answers, expected, matrix, screenshots)
        matrix.add(name, column.name, cell)


def _told(judged: Callable[..., Cell], *args: object) -> Cell:
    """One cell of the matrix, also if the runtime is absent or failed."""
    try:
        return judged(*args)
    except Absent as absent:
        return Cell(said=str(absent), is_absent=True)
    except Failed as failure:
        return Cell(said=str(failure), is_failure=True)


def _reference(exported: Exported, references: dict[str, Reference]) -> Reference:
    """The answer of transformers, once for all artifacts of one checkpoint, config and job."""
    config = json.loads((exported.folder / CONFIG_FILE).read_text(encoding="utf-8"))
    config.pop("transformers.js_config", None)
    job = {name: exported.job[name] for name in ("prompts", "score", "texts", "strings")}
    checkpoint = str(exported.case.checkpoint.resolve())
    key = json.dumps([checkpoint, config, job], sort_keys=True)
    if key not in references:
        say(f"  {REFERENCE.name} in PyTorch, the reference")
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
    exported: Exported,
    answers: dict[str, Answer],
    expected: ExpectedAnswer,
    matrix: Matrix,
    screenshots: Path | None,
) -> Cell:
    """Test the page: fully with the first artifact, briefly with the others."""
    if same_kernels := answers.get(PAGE.rounds_like or ""):
        tokens = same_kernels["tokens"][0]
    elif not exported.is_quantized:
        tokens = expected.tokens[0]
    else:
        raise Absent(f"{PAGE.rounds_like}, which has the same kernels, was not run")
    text = text_of(exported, exported.job["prompts"][0], tokens)
    is_brief = any(PAGE.name in cells for cells in matrix.rows.values())
    pictures = None if is_brief else screenshots
    answer = visit(exported, text, screenshots=pictures, is_brief=is_brief)
    said = f"same text, {len(answer['claims'])} claims hold"
    return Cell(said=said, versions=answer["versions"])


if __name__ == "__main__":
    raise SystemExit(status_of(main))
