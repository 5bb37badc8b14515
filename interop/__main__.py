"""Carry artifacts through other people's runtimes: ``python -m tramontane.interop``.

Each runtime is installed into a place of its own, given the same job, and must give the same
tokens and text.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

from ..console.status import status_of
from ..errors import ContractError
from ..export.progress import say
from .answers import Answer, Cell, Expected, Failed, ask, judge, measures
from .cases import Case, Exported, cases, export, read_logits, refuse_end_tokens, stories_in
from .matrix import Matrix
from .page import text_of, visit
from .places import Absent
from .runtimes import DRIVER, OTHERS, REFERENCE, Runtime

_PAGE = "page in Chromium"
_WEB = "onnxruntime-web"
_ALL = "all"


def main(argv: list[str] | None = None) -> int:
    """Fill the matrix, print it, return 1 if a cell is wrong or a required runtime absent."""
    parser = argparse.ArgumentParser(prog="python -m tramontane.interop", description=__doc__)
    parser.add_argument("model", type=Path, help="checkpoint, the embedded one")
    parser.add_argument("--shared", type=Path, help="folder of trained models and text")
    parser.add_argument("--only", nargs="+", metavar="RUNTIME", help="a part of their names")
    parser.add_argument("--require", nargs="*", default=[], metavar="RUNTIME", help="or all")
    parser.add_argument("--screenshots", type=Path, metavar="DIR", help="of the page")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the matrix as Markdown")
    args = parser.parse_args(argv)
    names = [DRIVER.name, *(runtime.name for runtime in OTHERS), _PAGE]
    wanted = [n for n in names if not args.only or any(part in n for part in args.only)]
    unknown = [part for part in args.only or () if not any(part in name for name in names)]
    required = set() if args.require == [_ALL] else set(args.require)
    unknown += sorted(required - set(wanted))
    if unknown:
        raise ContractError(f"{unknown[0]}: no such runtime, expected one of {'; '.join(names)}")
    matrix = Matrix(wanted)
    shared = args.shared
    has_stories = shared is not None and all(path.exists() for path in stories_in(shared))
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(cases(args.model, shared if has_stories else None)):
            _fill(matrix, case, Path(folder) / f"artifact-{number}", args.screenshots)
    if not has_stories:
        matrix.leave_out("stories15M", f"it is not in {shared or '--shared, which is not given'}")
    matrix.print_table()
    for runtime, why in matrix.absent.items():
        print(f"absent: {runtime}: {why}")
    for failure in matrix.failures:
        print(f"wrong: {failure}")
    if args.out is not None:
        if args.only or matrix.failures:
            say(f"{args.out}: not written, since it shows whole runs without failures alone")
        else:
            args.out.write_text(matrix.as_markdown("make interop"), encoding="utf-8")
    print(matrix.to_json())
    if args.require == [_ALL]:
        required |= matrix.absent.keys()
    return 1 if matrix.failures or matrix.absent.keys() & required else 0


def _fill(matrix: Matrix, case: Case, folder: Path, screenshots: Path | None) -> None:
    """One artifact's row."""
    exported = export(case, folder)
    say(f"{case.name}: {REFERENCE.name}")
    try:
        reference = ask(REFERENCE, exported, checkpoint=str(case.checkpoint.resolve()))
        logits = read_logits(exported)
        driver = _answer(DRIVER, exported)
    except (Absent, Failed) as error:
        cell = Cell(said=f"what is right is not known: {error}", is_failure=True)
        matrix.add(case.name, DRIVER.name, cell)
        return
    right = reference if exported.manifest.quant == "fp32" else driver
    refuse_end_tokens(exported, right["tokens"])
    expected = Expected(
        tokens=right["tokens"],
        texts=[],  # as long as each runtime makes them: see _judged
        ids=driver["ids"],
        decoded=driver["decoded"],
        logits=logits,
    )
    answers = {DRIVER.name: driver}
    for runtime in (DRIVER, *OTHERS):
        if runtime.name not in matrix.runtimes or not runtime.takes(case):
            continue
        say(f"{case.name}: {runtime.name}")
        try:
            if runtime is not DRIVER:
                answers[runtime.name] = _answer(runtime, exported)
            cell = _judged(runtime, exported, answers, expected)
        except Absent as absent:
            cell = Cell(said=str(absent), is_absent=True)
        except Failed as failure:
            cell = Cell(said=str(failure), is_failure=True)
        matrix.add(case.name, runtime.name, cell)
    if _PAGE in matrix.runtimes:
        say(f"{case.name}: {_PAGE}")
        tokens = expected.tokens[0] if exported.manifest.quant == "fp32" else None
        if _WEB in answers:
            tokens = answers[_WEB]["tokens"][0]
        matrix.add(case.name, _PAGE, _visited(exported, tokens, screenshots, matrix))


def _answer(runtime: Runtime, exported: Exported) -> Answer:
    """What a runtime makes of the job; logits are asked for where they are measured alone."""
    return ask(runtime, exported, **({} if measures(runtime, exported) else {"logits": None}))


def _judged(
    runtime: Runtime, exported: Exported, answers: dict[str, Answer], expected: Expected
) -> Cell:
    """Held against the runtime with the same kernels, where numbers are rounded."""
    like = runtime.rounds_like
    if exported.manifest.quant != "fp32" and like is not None:
        if like not in answers:
            return Cell(said=f"{like}, which has the same kernels, was not run", is_absent=True)
        expected = dataclasses.replace(expected, tokens=answers[like]["tokens"])
    prompt, tokens = exported.job["prompts"][0], expected.tokens[0][: runtime.new_tokens]
    expected = dataclasses.replace(expected, texts=[text_of(exported, prompt, tokens)])
    return judge(runtime, exported, answers[runtime.name], expected)


def _visited(
    exported: Exported, tokens: list[int] | None, screenshots: Path | None, matrix: Matrix
) -> Cell:
    """The page's cell; the first artifact is tried in every way, the others in brief."""
    if tokens is None:
        said = f"{_WEB}, which has the same kernels, was not run"
        return Cell(said=said, is_absent=True)
    expected = text_of(exported, exported.job["prompts"][0], tokens)
    is_brief = _PAGE in {name for cells in matrix.rows.values() for name in cells}
    pictures = None if is_brief else screenshots
    try:
        answer = visit(exported, expected, screenshots=pictures, is_brief=is_brief)
    except Absent as absent:
        return Cell(said=str(absent), is_absent=True)
    except Failed as failure:
        return Cell(said=str(failure), is_failure=True)
    said = f"same text, {len(answer['claims'])} claims hold"
    return Cell(said=said, versions=answer["versions"])


if __name__ == "__main__":
    raise SystemExit(status_of(main))
