"""The subcommands of ``tramontane``; each imports the stages that it needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..console import hints
from ..console.rows import print_rows
from ..console.status import EXIT_BAD_INPUT, complain
from ..console.streams import decode_argument, read_standard_input
from ..runtime.errors import ConfigError, ContractError, ParityError, TramontaneError
from ..runtime.sizes import format_bytes, parse_size

if TYPE_CHECKING:
    from argparse import Namespace

    from ..export.build import ExportOptions
    from ..export.formats.checkpoint import Checkpoint
    from ..graphs.lint.rules import LintFinding
    from ..runtime.manifest import Manifest
    from ..validate.gate import GateOptions

# As of graphs/quantization/recipe.py, which needs packages that --print-out does without.
DEFAULT_BLOCK = 128


def export(args: Namespace) -> int:
    """Export a checkpoint, compared with PyTorch unless that is declined."""
    name = artifact_name(args.checkpoint, args)
    out: Path = args.out or Path("artifacts") / name
    if args.print_out:
        print(out)
        return 0
    from ..export.build import export_checkpoint
    from ..validate.preflight import refuse_bad_options
    from ..validate.tolerance import tolerance_for

    def proved(artifact: Path, checkpoint: Checkpoint) -> dict[str, Any]:
        from ..validate.run_gate import prove  # torch, which the weights are written without

        try:
            return prove(artifact, checkpoint, _measuring(args), name=name)
        except ParityError as error:
            raise ParityError(f"{error}\n{_how_to_look_into(args, out)}") from error

    if not args.no_validate:
        _refuse_little_memory(args.checkpoint, args)
        refuse_bad_options(text=args.text, seed=args.seed)
        tolerance_for(scale=args.tolerance, max_kl=args.max_kl, min_agreement=args.min_agreement)
        _refuse_short_text(args.checkpoint, args.text)
    _refuse_one_text_for_both(args.calibration_text, args.text)
    manifest = export_checkpoint(
        args.checkpoint,
        out,
        _options(args),
        resume=not args.no_resume,
        replace=not args.no_replace,
        dump=args.dump,
        gate=None if args.no_validate else proved,
        base_model=args.base_model,
    )
    summary = _summary(manifest)
    if args.json:
        print(json.dumps({"artifact": str(out), **summary}))
    else:
        if manifest.parity is not None:
            _print_parity(out)
        print_rows(summary)
        run_it = hints.suggest("run", OUT=out, PROMPT=_prompt(args.checkpoint))
        print(f"\nwrote {out}; try\n  {run_it}")
    return 0


def artifact_name(checkpoint: Path, args: Namespace) -> str:
    """The name of an export's folder where none is given; recipes of one checkpoint differ in it.

    Args:
        checkpoint: what is exported.
        args: with the options of a recipe.
    """
    parts = [
        checkpoint.resolve().name,
        args.quant,
        args.target,
        *([f"w{args.window}"] if args.window is not None else []),
        *([f"b{args.block}"] if args.block != DEFAULT_BLOCK else []),
        *([args.cache] if args.cache != "windowed" else []),
        *([f"kv-{args.kv}"] if args.kv != "float32" else []),
    ]
    return "-".join(parts)


def _options(args: Namespace) -> ExportOptions:
    """What the options ask to make of a checkpoint; ``inspect`` has those of the recipe alone."""
    from ..export.build import ExportOptions

    calibrated = getattr(args, "calibration_text", None)
    return ExportOptions(
        quant=args.quant,
        target=args.target,
        block=args.block,
        window=args.window,
        cache=args.cache,
        kv=args.kv,
        max_shard_bytes=_size(getattr(args, "max_shard", None), "--max-shard"),
        **({} if calibrated is None else {"calibration_text": calibrated}),
    )


def _how_to_look_into(args: Namespace, out: Path) -> str:
    """The commands that write the artifact that failed beside ``out``, and a report on it."""
    defaults = {"block": DEFAULT_BLOCK, "cache": "windowed", "kv": "float32", "window": None}
    recipe = {"QUANT": args.quant, "TARGET": args.target}
    for name, default in defaults.items():
        if getattr(args, name) != default:
            recipe[name.upper()] = str(getattr(args, name))
    for name in ("calibration_text", "max_shard", "base_model"):
        if getattr(args, name) is not None:
            recipe[name.upper()] = str(getattr(args, name))
    out, report = (out.with_name(f"{out.name}-{end}") for end in ("unproved", "parity"))
    export = hints.suggest("export", MODEL=args.checkpoint, OUT=out, **recipe, NO_VALIDATE=True)
    text = {} if args.text is None else {"TEXT": args.text}
    validate = hints.suggest(
        "validate", OUT=out, MODEL=args.checkpoint, EXPLAIN=True, REPORT=report, **text
    )
    return f"to write it nevertheless, and a report on it:\n  {export}\n  {validate}"


def _refuse_little_memory(checkpoint: Path, args: Namespace) -> None:
    """Refuse a parity check that this machine has too little memory for."""
    from ..export.build import adapted
    from ..export.formats.layouts import read_config
    from ..export.plan import plan
    from ..validate.preflight import refuse_little_memory

    config = adapted(read_config(checkpoint), window=args.window, cache=args.cache, kv=args.kv)
    planned = plan(config, quant=args.quant, target=args.target, block=args.block)
    refuse_little_memory(config, planned)


def _prompt(checkpoint: Path) -> str:
    """A prompt of the kind that a model knows: the bundled one knows Python."""
    return "def fibonacci(" if checkpoint.resolve().name == "stdlib-5m" else "Once upon a time"


def _print_parity(artifact: Path) -> None:
    """Print the verdict on a fresh artifact, from the report inside it."""
    from ..validate.report.summaries import print_summary
    from ..validate.run_gate import FOLDER, JSON_FILE

    print_summary(json.loads((artifact / FOLDER / JSON_FILE).read_text(encoding="utf-8")))


def _refuse_short_text(path: Path, text: Path | None) -> None:
    """Refuse, before any work, a text with too few tokens to measure parity on."""
    from ..console.text_file import read_text
    from ..export.formats.checkpoint import Checkpoint
    from ..validate.sequences.tokens import TokenText

    if text is not None:
        with Checkpoint.open(path) as checkpoint:
            TokenText(checkpoint).count(read_text(text, flag="--text"))


def _refuse_one_text_for_both(calibrated: Path | None, measured: Path | None) -> None:
    """Refuse to measure parity on what was calibrated on: it would look better than it is."""
    if calibrated is None or measured is None:
        return
    if calibrated.resolve() == measured.resolve():
        raise ConfigError(
            f"--calibration-text {calibrated}: is --text too, expected two texts; cut it in two"
        )


def run(args: Namespace) -> int:
    """Continue a prompt, writing text as it comes."""
    given: str | None = args.prompt if args.prompt is not None else args.prompt_option
    if given is not None:
        given = decode_argument(given, flag="the prompt")
    from ..runtime import Sampler, Session

    sampler = Sampler(
        temperature=args.temperature, top_k=args.top_k, top_p=args.top_p, seed=args.seed
    )
    session = Session.load(
        args.artifact,
        threads=args.threads,
        verify=args.verify,
        max_memory_bytes=_size(args.max_memory, "--max-memory"),
    )
    prompt = read_standard_input() if given is None else given
    pieces = session.stream(prompt, max_new_tokens=args.max_new_tokens, sampler=sampler)
    if args.json:
        print(json.dumps({"prompt": prompt, "text": "".join(pieces)}))
        return 0
    first = next(pieces, "")  # a prompt that is refused is not echoed
    print(prompt + first, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()
    return 0


def bench(args: Namespace) -> int:
    """Measure an artifact's speed and memory, and the limits of the machine."""
    from ..bench.artifact.speed import measure
    from ..bench.artifact.speed_table import plot, print_report

    _refuse_unwritable(args, "plot", "out")
    report = measure(args.artifact, rounds=args.rounds, threads=args.threads)
    line = json.dumps(report.as_json())
    print(line) if args.json else print_report(report)
    if args.out is not None:
        args.out.write_text(f"{line}\n", encoding="utf-8")
    if args.plot is not None:
        plot(report, args.plot)
    return 0


def validate(args: Namespace) -> int:
    """Check an artifact, ours or another exporter's, against its source; 1 if a check failed."""
    from ..export.formats.checkpoint import Checkpoint
    from ..validate.report.summaries import as_junit, as_markdown, print_table
    from ..validate.run_gate import validate, write_reports

    _refuse_unwritable(args, "report", "junit", "markdown")
    with Checkpoint.open(args.reference) as checkpoint:
        verdict = validate(
            args.artifact, checkpoint, _measuring(args), explains=args.explain, window=args.window
        )
        report = verdict.as_json()
    print(json.dumps(report)) if args.json else print_table(report)
    if args.report is not None:
        write_reports(verdict, args.report)
    if args.junit is not None:
        args.junit.write_text(as_junit(report), encoding="utf-8")
    if args.markdown is not None:
        args.markdown.write_text(as_markdown(report), encoding="utf-8")
    return 0 if report["passed"] else 1


def _measuring(args: Namespace) -> GateOptions:
    """How the flags say that parity is measured."""
    from ..validate.gate import GateOptions

    given = {"text": args.text, "store": args.store}
    return GateOptions(
        seed=args.seed,
        tolerance=args.tolerance,
        max_kl=args.max_kl,
        min_agreement=args.min_agreement,
        thorough=args.thorough,
        **{name: value for name, value in given.items() if value is not None},
    )


def _refuse_unwritable(args: Namespace, *flags: str) -> None:
    """Refuse, before anything is measured, places where no report can be written."""
    for flag in flags:
        path: Path | None = getattr(args, flag)
        if path is None:
            continue
        folder = path if flag == "report" else path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if flag != "report":
                path.open("ab").close()
        except OSError as error:
            raise ContractError(
                f"--{flag} {path}: cannot be written ({error.strerror}); name another "
                f"{'folder' if flag == 'report' else 'file'}"
            ) from error


def inspect(args: Namespace) -> int:
    """Say what an artifact or a graph is, or what exporting a checkpoint gives and needs."""
    from ..runtime.contract import MANIFEST_FILE
    from ..runtime.manifest import read_manifest, verify_files

    if (args.path / MANIFEST_FILE).is_file():
        manifest = read_manifest(args.path)
        verify_files(args.path, manifest)
        summary = {**_summary(manifest), "files": f"{len(manifest.files)}, all as promised"}
        print(json.dumps(summary)) if args.json else print_rows(summary)
        return 0
    from ..graphs.probing.tensor_roles import find_graphs

    graphs = [args.path] if args.path.suffix == ".onnx" else find_graphs(args.path)
    return _lint(graphs, args) if graphs else _inspect_checkpoint(args)


def _lint(graphs: list[Path], args: Namespace) -> int:
    """Print what is wrong, slow or large about graphs; 1 if anything is wrong."""
    import dataclasses

    from ..graphs.lint.rules import lint

    by_path = {str(path): lint(path) for path in graphs}
    if args.json:
        content = {path: [dataclasses.asdict(one) for one in f] for path, f in by_path.items()}
        print(json.dumps({"findings": content}))
        return _status(by_path)
    for path, findings in by_path.items():
        print(f"{path}: {len(findings) or 'no'} finding{'' if len(findings) == 1 else 's'}")
        for finding in findings:
            print(f"\n{finding.severity}: {finding.rule} ({finding.where})")
            print(f"  found: {finding.found}\n  consequence: {finding.consequence}")
            print(f"  advice: {finding.advice}")
    return _status(by_path)


def _status(findings: dict[str, list[LintFinding]]) -> int:
    return int(any(one.severity == "error" for each in findings.values() for one in each))


def _inspect_checkpoint(args: Namespace) -> int:
    """Print the plan before any weight's file is opened; then check what would stop an export."""
    from ..export.build import adapted
    from ..export.formats.layouts import read_config
    from ..export.known_models import GEOMETRIES, find_geometry
    from ..export.plan import plan_each
    from ..export.plan_table import plan_json, print_plan

    is_known = not args.path.exists() and str(args.path) in GEOMETRIES
    if not is_known and not args.path.exists():
        raise ConfigError(
            f"{args.path}: neither a folder or file nor a known model, expected one of them; "
            f"{hints.instead_of(args.path) or 'known are ' + ', '.join(GEOMETRIES)}"
        )
    published = find_geometry(str(args.path)) if is_known else read_config(args.path)
    config = adapted(published, window=args.window, cache=args.cache, kv=args.kv)
    plans, refusals = plan_each(config, target=args.target, block=args.block)
    if not args.json:
        print_plan(config, plans)
        print("".join(f"{refusal}\n" for refusal in refusals), end="")
        if not is_known:
            print(f"weights: {_checked(args)}, shapes and types as expected")
            print(f"export: nothing stops {args.quant} for {args.target}")
        return 0
    refusal = None
    try:
        if not is_known:
            _checked(args)
    except TramontaneError as error:
        refusal = {"error": type(error).__name__, "message": str(error)}
        complain(str(error))
    print(json.dumps({**plan_json(config, plans), "refused": refusal}))
    return 0 if refusal is None else EXIT_BAD_INPUT


def _checked(args: Namespace) -> str:
    """Check all that an export of a checkpoint checks before it traces; say what was found."""
    from ..export.build import preflight

    if not args.no_validate:
        _refuse_little_memory(args.path, args)
    out = Path("artifacts") / artifact_name(args.path, args)
    with preflight(args.path, out, _options(args)).weights as weights:
        return f"{weights.layout}, {len(weights.parameters)} tensors"


def card(args: Namespace) -> int:
    """Print an artifact's model card."""
    from ..export.sidecars.card import render_card
    from ..runtime.manifest import read_manifest

    text = render_card(read_manifest(args.artifact))
    print(json.dumps({"card": text}) if args.json else text, end="\n" if args.json else "")
    return 0


def synthesize(args: Namespace) -> int:
    """Write a checkpoint of random weights."""
    from ..export.synthesize.synthesize import synthesize

    written = synthesize(
        args.geometry,
        args.out,
        layers=args.layers,
        layout=args.layout,
        dtype=args.dtype,
        seed=args.seed,
        max_shard_bytes=_size(args.max_shard, "--max-shard"),
    )
    counts = {"parameters": written.num_parameters, "files": written.num_files}
    if args.json:
        print(json.dumps({"checkpoint": str(args.out), **counts, "bytes": written.num_bytes}))
    else:
        print_rows({**counts, "size": format_bytes(written.num_bytes)})
        print(
            f"\nwrote {args.out}; try\n  {hints.suggest('export', MODEL=args.out, QUANT='int8')}"
        )
    return 0


def _size(text: str | None, flag: str) -> int | None:
    return None if text is None else parse_size(text, flag=flag)


def _summary(manifest: Manifest) -> dict[str, Any]:
    geometry, memory = manifest.geometry, manifest.memory
    bits = [
        entry["bits"]
        for entry in manifest.tensors
        if "block" in entry or entry.get("why_float") == "QUANT=fp32"
        if len(entry["shape"]) > 1
    ]
    return {
        "recipe": f"{manifest.quant} for {manifest.target}",
        "weights": format_bytes(memory.weights_bytes),
        "bits": f"matrices: {', '.join(f'{bits.count(b)} {b}-bit' for b in sorted(set(bits)))}",
        "window": geometry.window or "none",
        "cache": f"{format_bytes(memory.cache_bytes_at_most)} at most, "
        + (f"{geometry.rows} rows" if geometry.rows else "grows with the tokens")
        + f", {geometry.cache_dtype}",
        "estimated RAM to run": f"{format_bytes(memory.resident_bytes)} at most",
    }
