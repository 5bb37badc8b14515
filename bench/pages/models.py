"""Prints which models and which kinds of file were tried, and how: ``docs/models.md``.

Trained models are exported and compared with PyTorch. The kinds of file are those that tests make:
each carries a mark, ``@pytest.mark.situation("what it is", package="name")``.
"""

from __future__ import annotations

import ast
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...console.one_line_parser import OneLineParser
from ...console.progress import say
from ...console.status import status_of
from ...console.text_file import read_text
from ...export.build import export_checkpoint
from ...export.formats.checkpoint import Checkpoint
from ...export.options import ExportOptions
from ...runtime.errors import ConfigError, TramontaneError
from ...validate.measurement import GateOptions
from ...validate.run_gate import validate
from ..artifact.stored_speeds import STORED, speed_lines, stored_rows
from ..geometries import geometry_lines, table

ROOT = Path(__file__).resolve().parents[2]
MARK = "situation"
ABSENT = "absent here"
_CELLS = 8  # of a row of trained models
RECIPE = ExportOptions(quant="int8", target="ort")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A model that was published, or is bundled."""

    name: str
    publisher: str
    folder: str  # below the repository, or below the folder of further models
    is_bundled: bool = False


TRAINED = (
    Trained(name="stdlib-5m", publisher="bundled", folder="models/stdlib-5m", is_bundled=True),
    Trained(name="stories260K", publisher="karpathy/tinyllamas", folder="models/stories260K"),
    Trained(name="stories15M", publisher="karpathy/tinyllamas", folder="models/stories15M"),
    Trained(
        name="SmolLM2-135M-Instruct",
        publisher="HuggingFaceTB/SmolLM2-135M-Instruct",
        folder="models/smollm2-135m-instruct",
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Situation:
    """A kind of file that a test makes."""

    what: str
    package: str  # that made it, or that reads the same
    test: str  # file, below the repository


def main(argv: list[str] | None = None) -> int:
    """Export, compare, print and write the page; 1 if a model failed its parity check."""
    parser = OneLineParser(prog="python -m tramontane.bench.pages.models", description=__doc__)
    parser.add_argument("--shared", type=Path, help="folder of further trained models")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the page")
    parser.add_argument("--page", type=Path, help="keep this page's rows of trained models")
    args = parser.parse_args(argv)
    rows = (
        [try_model(model, args.shared) for model in TRAINED]
        if args.page is None
        else rows_of(args.page)
    )
    text = as_markdown(rows, situations())
    print(text)
    has_all = not any(ABSENT in row for row in rows)
    if args.out is not None and has_all:
        args.out.write_text(text, encoding="utf-8")
    elif args.out is not None:
        say(f"{args.out}: not updated: some models are absent here; give --shared")
    return int(any("**failed**" in row or row[5].startswith("refused") for row in rows))


def try_model(model: Trained, shared: Path | None) -> list[str]:
    """Export a model and compare it with PyTorch; the cells of its row."""
    root = ROOT if model.is_bundled else shared
    path = None if root is None else root / model.folder
    if path is None or not path.exists():
        return [model.name, model.publisher, "", "", "", ABSENT, "", ""]
    say(f"exporting {model.name}")
    try:
        with Checkpoint.open(path) as checkpoint, tempfile.TemporaryDirectory() as folder:
            manifest = export_checkpoint(path, Path(folder) / "artifact", RECIPE, resume=False)
            report = validate(Path(folder) / "artifact", checkpoint, GateOptions()).as_json()
            types = {t.dtype for t in checkpoint.published.tensors.values() if len(t.shape) > 1}
            head = report["headline"]
            return [
                model.name,
                model.publisher,
                f"{checkpoint.layout}, {', '.join(sorted(types))}",
                f"{checkpoint.config.num_parameters:,}".replace(",", " "),
                manifest.vocabulary.kind,
                "passed" if report["passed"] else "**failed**",
                f"{head['mean_kl']:.1e}",
                f"{head['same_top']:.2%}",
            ]
    except TramontaneError as error:
        why = str(error).replace(f"{path}/", "").replace(str(path), model.name)
        why = why.replace("|", "/").replace("\n", " ")
        return [model.name, model.publisher, "", "", "", f"refused: {why}", "", ""]


def rows_of(page: Path) -> list[list[str]]:
    """The rows of trained models that a page has.

    Raises:
        ConfigError: there is no page, it is no text, or it lacks a model or a cell.
    """
    lines = read_text(page, flag="--page").splitlines() if page.is_file() else []
    rows = []
    for model in TRAINED:
        row = next((line for line in lines if line.startswith(f"| {model.name} | ")), None)
        if row is None:
            raise ConfigError(f"{page}: has no row of {model.name}, expected one; run make models")
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        if len(cells) != _CELLS:
            raise ConfigError(
                f"{page}: the row of {model.name} has {len(cells)} cells, expected {_CELLS}; run "
                "make models"
            )
        rows.append(cells)
    return rows


def situations(tests: Path = ROOT / "tests") -> list[Situation]:
    """The kinds of file that marked tests make, in order.

    Raises:
        ConfigError: there are no tests, or a mark is not of the form that is documented above.
    """
    if not tests.is_dir():
        raise ConfigError(f"{tests}: no such folder, expected the tests; clone the repository")
    found = {one for path in sorted(tests.rglob("test_*.py")) for one in _marked(path, tests)}
    return sorted(found, key=lambda one: (one.test, one.what))


def _marked(path: Path, tests: Path) -> Iterator[Situation]:
    text = path.read_text(encoding="utf-8")
    if f"mark.{MARK}(" not in text:
        return
    for node in ast.walk(ast.parse(text)):
        for mark in getattr(node, "decorator_list", []):
            if not isinstance(mark, ast.Call) or ast.unparse(mark.func) != f"pytest.mark.{MARK}":
                continue
            words = [*mark.args, *(each.value for each in mark.keywords)]
            values = [each.value for each in words if isinstance(each, ast.Constant)]
            if len(values) != 2 or [each.arg for each in mark.keywords] != ["package"]:
                raise ConfigError(
                    f"{path}:{mark.lineno}: {ast.unparse(mark)}, expected "
                    f'pytest.mark.{MARK}("what it is", package="name"); correct it'
                )
            test = (Path("tests") / path.relative_to(tests)).as_posix()
            yield Situation(what=str(values[0]), package=str(values[1]), test=test)


def as_markdown(rows: Sequence[Sequence[str]], found: Sequence[Situation]) -> str:
    """The page."""
    columns = ("model", "source", "read from", "parameters", "tokenizer kind", "parity check")
    lines = [
        "# Models and files that were tried",
        "",
        "Printed by `make models`.",
        "",
        "## Trained models",
        "",
        f"Each was exported as {RECIPE.quant} for {RECIPE.target}, and the artifact was compared",
        "with PyTorch in float32 on the model's own weights (`docs/parity.md`), on the text that",
        "comes with tramontane: half Python, which the stories models never saw, half stories.",
        "",
        *table((*columns, "mean KL, nats", "top-1 agreement"), rows),
        "",
        "*Tokenizer kind*: the driver reads `sentencepiece` itself, and `tokenizers` with the",
        "package of that name (`vocabulary.kind` in `manifest.json`).",
        "",
        "## Tokenizer files",
        "",
        "- The driver reads a published `tokenizer.json` as it is, as the package",
        "  `tokenizers` and other runtimes do. For `tokenizer_class` `LlamaTokenizer` or",
        "  `GPT2Tokenizer` of a Llama, transformers 5 takes only the vocabulary and merges",
        "  from the file, and drops its normalizer or its rule for digits (SmolLM2). Where",
        "  that changes tokens, the export prints a note with the first such text.",
        "- `tokenizer.json` and `tokenizer.model` in one folder must give the same tokens;",
        "  otherwise the export stops with the first text on which they differ. Only how a",
        "  text that begins with a space is read may differ: the driver follows",
        "  `tokenizer.model`, and the artifact's `tokenizer.json` is then made from it.",
        "- From a `tokenizer.model` alone, transformers 5 ranks merges by the ids of tokens, not",
        "  by their scores, and adds no space in front of a text that begins with one; for a",
        "  Mistral, or without `tokenizer_class`, it never adds that space. The driver and the",
        "  artifact's files give the tokens of SentencePiece; a note of the parity report has",
        "  the first strings that differ.",
        "- Where a published `tokenizer.json` ends every text with a token, such as `</s>`, the",
        "  driver and the artifact's `tokenizer.json` leave it out, with a note: a model would",
        "  read it as the end of the prompt.",
        "",
        "## Kinds of files",
        "",
        "Tests make each of these, most with the package that people make them with, and compare",
        "what tramontane reads with what that package reads.",
        "",
        *table(
            ("situation", "package", "test"),
            [(one.what, one.package, f"`{one.test}`") for one in found],
        ),
        "",
        *geometry_lines(),
    ]
    if speeds := speed_lines(stored_rows(STORED)):
        lines += ["", *speeds]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(status_of(main))
