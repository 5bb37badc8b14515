"""``tramontane inspect``: describe an artifact, lint a graph, or plan an export. (stdlib only)"""

from __future__ import annotations

import json
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...console import hints
from ...console.rows import print_rows
from ...console.status import complain, status_of_refusal
from ...graphs.quantization.recipes.all_recipes import open_recipe
from ...runtime.errors import ConfigError, TramontaneError
from ...runtime.sizes import counted
from ..artifact_name import ARTIFACTS, artifact_name
from ..artifact_summary import summarize
from ..check_arguments import refuse_parity_check_beyond_memory
from ..flags import add_adapter, add_choices, choices_of
from ..subcommand import add_subcommand

if TYPE_CHECKING:
    from ...export.config import MistralConfig
    from ...export.planning.preflight import Preflight
    from ...graphs.lint.rules import LintFinding


EXAMPLES = (
    "tramontane inspect models/stdlib-5m",
    "tramontane inspect mistral-7b-v0.1",
    "tramontane inspect artifacts/stdlib-5m-int8-ort",
    "tramontane inspect other/model.onnx",
)


def add(subparsers: Any) -> None:
    """Declare the subcommand and its arguments."""
    parser = add_subcommand(
        subparsers,
        "inspect",
        "describe an artifact or a graph, or plan an export and check whether it can run",
        examples=EXAMPLES,
        main=main,
    )
    parser.add_argument(
        "path",
        type=Path,
        metavar="PATH",
        help="checkpoint, artifact, any exporter's model.onnx, or a known model's name",
    )
    add_adapter(parser)
    add_choices(parser)
    parser.add_argument(
        "--no-validate",
        action="store_true",
        help="plan an export without its parity check, and do not compare the tokenizer",
    )


def main(args: Namespace) -> int:
    """Describe an artifact or a graph, or plan the export of a checkpoint."""
    from ...runtime.contract import MANIFEST_FILE
    from ...runtime.manifest import read_manifest, verify_files

    if (args.path / MANIFEST_FILE).is_file():
        manifest = read_manifest(args.path)
        verify_files(args.path, manifest)
        summary = {
            **summarize(manifest),
            "files": f"{len(manifest.files)}, all equal to the manifest's hashes",
        }
        print(json.dumps(summary)) if args.json else print_rows(summary)
        return 0
    from ...graphs.probing.read_graph import find_graphs

    graphs = [args.path] if args.path.suffix == ".onnx" else find_graphs(args.path)
    return _lint(graphs, args) if graphs else _inspect_checkpoint(args)


def _lint(graphs: list[Path], args: Namespace) -> int:
    """Print what is wrong, slow or large in graphs; return 1 if anything is wrong."""
    import dataclasses

    from ...graphs.lint.rules import lint

    by_path = {str(path): lint(path) for path in graphs}
    if args.json:
        content = {path: [dataclasses.asdict(one) for one in f] for path, f in by_path.items()}
        print(json.dumps({"findings": content}))
        return _status(by_path)
    for path, findings in by_path.items():
        print(f"{path}: {counted(len(findings), 'finding') if findings else 'no findings'}")
        for finding in findings:
            print(f"\n{finding.severity}: {finding.rule} ({finding.where})")
            print(f"  found: {finding.found}\n  consequence: {finding.consequence}")
            print(f"  advice: {finding.advice}")
    return _status(by_path)


def _status(findings: dict[str, list[LintFinding]]) -> int:
    return int(any(one.severity == "error" for each in findings.values() for one in each))


def _inspect_checkpoint(args: Namespace) -> int:
    """Print the plan of an export, and what would stop the export.

    The plan is printed before any file of weights is opened.
    """
    from ...export.cache_choice import choose_cache
    from ...export.formats.checkpoint import read_merged_config
    from ...export.formats.layouts import ways_to_weights
    from ...export.known_models import GEOMETRIES, find_geometry
    from ...export.planning.plan import plan_each
    from ...export.planning.plan_table import plan_json, print_plan
    from ...export.window_choice import adapted, refuse_two_patterns

    is_known = not args.path.exists() and str(args.path) in GEOMETRIES
    if not is_known and not args.path.exists():
        raise ConfigError(
            f"{args.path}: neither a folder or file nor a known model, expected one of them; "
            f"{hints.instead_of(args.path) or 'known are ' + ', '.join(GEOMETRIES)}"
        )
    published = (
        find_geometry(str(args.path)) if is_known else read_merged_config(args.path, args.adapter)
    )
    config = adapted(published, window=args.window)
    refuse_two_patterns(config)
    cache = choose_cache(args.cache, kv=args.kv)
    own = None if args.recipe is None else open_recipe(args.recipe)
    plans, refusals = plan_each(config, target=args.target, own=own, block=args.block, cache=cache)
    if not args.json:
        print_plan(config, cache, plans)
        print("".join(f"{refusal}\n" for refusal in refusals), end="")
        if is_known:
            ways = ways_to_weights(str(args.path))
            print(f"weights: none, this is a known model's name; {ways}")
        else:
            for line in _checked(args, published):
                print(line)
            print(f"export: {own.name if own else args.quant} for {args.target} can be exported")
        return 0
    refusal, status = None, 0
    try:
        if not is_known:
            _checked(args, published)
    except TramontaneError as error:
        refusal = {"error": type(error).__name__, "message": str(error)}
        status = status_of_refusal(error)
        complain(str(error))
    print(json.dumps({**plan_json(config, cache, plans), "refused": refusal}))
    return status


def _checked(args: Namespace, published: MistralConfig) -> list[str]:
    """Run the checks that an export runs before it traces; return a line for each thing found.

    Raises:
        TramontaneError: what the export raises.
    """
    from ...export.options import ExportOptions
    from ...export.planning.preflight import preflight
    from ...export.tokenizer.write_tokenizer import write_tokenizer

    choices = choices_of(args)
    if not args.no_validate:
        refuse_parity_check_beyond_memory(published, args, quant=choices["quant"])
    name = artifact_name(args.path, args.adapter, **choices)
    options = ExportOptions(**choices)
    ready = preflight(args.path, ARTIFACTS / name, options, adapters=args.adapter)
    with ready.weights as weights, tempfile.TemporaryDirectory() as folder:
        write_tokenizer(weights, Path(folder), ready.vocabulary)
        found = f"{weights.layout}, {counted(len(weights.parameters), 'tensor')}"
        lines = [f"weights: {found}, shapes and types as expected"]
        if not args.no_validate:
            lines.append(_tokenizer(Path(folder), ready, name=name))
        return lines


def _tokenizer(folder: Path, ready: Preflight, *, name: str) -> str:
    """Compare the tokenizer as an export does; return a line on what was compared.

    Raises:
        ParityError: it differs, as transformers reads it or as the artifact has it.
    """
    from ...console.progress import track
    from ...export.build import CHECKING_TOKENIZER
    from ...validate.tokenizer.checked_files import require_same_tokenizer

    for weights in track([ready.weights], CHECKING_TOKENIZER):
        found = require_same_tokenizer(folder, ready.vocabulary, weights, name=name).found
    end = "" if found.not_compared is None else f"; {found.not_compared}"
    return f"tokenizer: {counted(len(found.checks), 'parity check')} passed{end}"
