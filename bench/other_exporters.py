"""Runs the parity gate and the linter on graphs of other exporters, and writes the results.

Each exporter runs in its own environment, given by the path of its Python.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..console.one_line_parser import OneLineParser
from ..console.progress import say
from ..console.status import status_of
from ..export.formats.checkpoint import Checkpoint
from ..graphs.lint.rules import LintFinding, lint
from ..runtime.errors import ContractError
from ..validate.measurement import GateOptions
from ..validate.run_gate import Verdict, validate

# Exporter and recipe, and the command with placeholders.
_GENAI = "{python} -m onnxruntime_genai.models.builder -i {model} -o {out} -e cpu -c {out}/cache"
_OPTIMUM = "{bin}/optimum-cli export onnx -m {model} --task text-generation-with-past {out}"
_QUANTIZE = "{bin}/optimum-cli onnxruntime quantize --onnx_model {before} --avx512_vnni -o {out}"
JOBS = (
    ("onnxruntime_genai", "onnxruntime-genai's builder, fp32", f"{_GENAI} -p fp32"),
    ("onnxruntime_genai", "onnxruntime-genai's builder, int8", f"{_GENAI} -p int8"),
    ("onnxruntime_genai", "onnxruntime-genai's builder, int4", f"{_GENAI} -p int4"),
    ("optimum", "optimum, fp32", _OPTIMUM),
    ("optimum", "optimum, dynamic int8", _QUANTIZE),
)
_PACKAGES = {"onnxruntime_genai": "onnxruntime-genai", "optimum": "optimum-onnx"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ExporterVerdict:
    """One graph, its verdict and its findings."""

    name: str
    findings: list[LintFinding]
    verdict: Verdict


def main(argv: list[str] | None = None) -> int:
    """Export with each exporter, lint, validate, print and write the table."""
    parser = OneLineParser(prog="python -m tramontane.bench.other_exporters", description=__doc__)
    parser.add_argument("model", type=Path, help="checkpoint")
    parser.add_argument("--genai-python", type=Path, help="has onnxruntime-genai")
    parser.add_argument("--optimum-python", type=Path, help="has optimum-onnx")
    parser.add_argument("--out", type=Path, help="write the table as Markdown")
    args = parser.parse_args(argv)
    pythons = {"onnxruntime_genai": args.genai_python, "optimum": args.optimum_python}
    if not any(pythons.values()):
        raise ContractError(
            "--genai-python, --optimum-python: neither is given, expected the Python of an "
            "environment that has the exporter"
        )
    rows, absent = [], []
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder)
        for number, (module, name, command) in enumerate(JOBS):
            python = pythons[module]
            if python is None:
                absent.append(name)
                continue
            say(name)
            out = Path(folder) / str(number)
            _run(command, python=python, model=args.model, out=out, before=before)
            before = out
            rows.append(_examined(name, out, args.model))
        versions = [f"{_PACKAGES[m]} {_version(m, p)}" for m, p in pythons.items() if p]
    text = as_markdown(rows, versions=versions, absent=absent, model=args.model.name)
    print(text)
    if args.out is not None:
        args.out.write_text(text, encoding="utf-8")
    return 0


def as_markdown(
    rows: Sequence[ExporterVerdict], *, versions: Sequence[str], absent: Sequence[str], model: str
) -> str:
    """The table, and each finding in full."""
    lines = [
        "# Other exporters",
        "",
        f"Printed by `make bench-others MODEL=models/{model}`. Each graph was exported from the",
        "checkpoint by the exporter's own command with its defaults, compared with it by",
        f"`validate --explain`, and checked by `inspect`. Versions: {', '.join(versions)}.",
        "",
        "| exporter | verdict | mean KL, nats | top-1 agreement | first at fault | likely cause |",
        "| --- | --- | ---: | ---: | --- | --- |",
    ]
    for row in rows:
        report, why = row.verdict.as_json(), row.verdict.explanation
        head = report["headline"]
        verdict = "passed" if report["passed"] else "**failed**"
        cells = [row.name, verdict, f"{head['mean_kl']:.1e}", f"{head['same_top']:.2%}"]
        cells += [why.place, why.cause or "no known pattern fits"] if why else ["", ""]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [f"| {name} | absent: its environment was not given | | | | |" for name in absent]
    lines += ["", "The bounds are those of our recipe with the same number of bits."]
    for row in rows:
        lines += ["", f"## {row.name}", ""]
        lines += [
            f"- **{one.severity}, {one.rule}**: {one.found}; {one.consequence}."
            for one in row.findings
        ] or ["No findings."]
    return "\n".join(lines) + "\n"


def _examined(name: str, folder: Path, model: Path) -> ExporterVerdict:
    graph = next(folder.glob("*.onnx"))
    verdict = validate(graph, Checkpoint.open(model), GateOptions(), explains=True)
    return ExporterVerdict(name=name, findings=lint(graph), verdict=verdict)


def _run(command: str, *, python: Path, model: Path, out: Path, before: Path) -> None:
    names = {"python": python, "bin": python.parent, "model": model, "out": out, "before": before}
    words = [word.format(**names) for word in command.split()]
    offline = {"HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        words,
        env={**os.environ, **offline},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise ContractError(f"{' '.join(words)}: exited with {done.returncode}\n{done.stderr}")


def _version(module: str, python: Path) -> str:
    code = f"from importlib.metadata import version; print(version('{_PACKAGES[module]}'))"
    found = subprocess.run(
        [python, "-c", code], capture_output=True, encoding="ascii", check=False
    )
    return found.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(status_of(main))
