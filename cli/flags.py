"""Options that several subcommands share, and what their values mean. (stdlib only)"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..export.budget.asked import AUTO, asked_for
from ..export.window_choice import WindowChoice, parse_window
from ..graphs.quantization.recipes.all_recipes import open_recipe, recipe_names
from ..graphs.quantization.recipes.recipe import DEFAULT_BLOCK
from ..graphs.targets.all_targets import DEFAULT_TARGET, TARGETS
from ..runtime.contract import CACHE_DTYPES
from ..runtime.errors import ConfigError
from ..runtime.sizes import parse_size

if TYPE_CHECKING:
    from ..validate.measurement import GateOptions

CHECKPOINT_HELP = "checkpoint: a folder in Hugging Face's or Mistral's layout, or a GGUF file"
ARTIFACT_HELP = "artifact folder, as export writes it"
# The stages define these defaults too, and take seconds to import; tests compare the two.
CHOICE_DEFAULTS: dict[str, Any] = {  # as in ``export.options.ExportOptions``
    "quant": "int8",
    "target": DEFAULT_TARGET,
    "block": DEFAULT_BLOCK,
    "cache": "windowed",
    "kv": "float32",
    "window": None,
}
MAX_KL, MIN_AGREEMENT = 2.0, 0.2  # as in ``validate.tolerance``


def window_of(text: str) -> WindowChoice:
    """The value of ``--window``, for argparse."""
    try:
        return parse_window(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text}: expected a number of tokens, such as 4096, or a pattern by layer, such as "
            "none,4096"
        ) from error


def add_adapter(parser: argparse.ArgumentParser) -> None:
    """Add the option for adapters, which may be repeated."""
    parser.add_argument(
        "--adapter",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="folder of a LoRA adapter (PEFT) to merge into the checkpoint; repeat the option for "
        "several, which are merged in order (default: none)",
    )


def add_size(parser: argparse.ArgumentParser) -> None:
    """Add the options for the size that a recipe is made for."""
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--size", metavar="SIZE", help="budget for the files of weights, e.g. 3.8GB")
    size.add_argument(
        "--bits",
        type=float,
        metavar="N",
        help="budget in bits per weight, over all files of weights",
    )


def add_scheduler(parser: argparse.ArgumentParser, *, what: str) -> None:
    """Add the option for what runs independent tasks.

    Args:
        parser: that takes it.
        what: the tasks.
    """
    parser.add_argument(
        "--scheduler",
        metavar="WHERE",
        help=f"{what}: tcp://HOST:PORT of a Dask scheduler, or local:N for N processes of this "
        "machine; the results are the same (default: this process)",
    )


def add_target(parser: argparse.ArgumentParser) -> None:
    """Add the option for the kernels that a graph is made for."""
    parser.add_argument(
        "--target",
        choices=TARGETS,
        default=CHOICE_DEFAULTS["target"],
        help="kernels: onnxruntime's, any ONNX runtime's, or those of browsers' WASM "
        "(default: %(default)s)",
    )


def add_calibration_text(parser: argparse.ArgumentParser, *, what: str) -> None:
    """Add the option for the texts that a model is observed on.

    Args:
        parser: that takes it.
        what: what such a text is, and what it is for.
    """
    parser.add_argument(
        "--calibration-text",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help=f"{what}; repeat the option for several, which count alike (default: a bundled one)",
    )


def add_choices(parser: argparse.ArgumentParser, *, has_auto: bool = False) -> None:
    """Add the options that decide an artifact's graph and weights.

    Args:
        parser: that takes them.
        has_auto: whether a recipe may be made for a size, which takes the checkpoint's weights.
    """
    quant = parser.add_mutually_exclusive_group()
    auto = f"; {AUTO}: the one that changes the model least within --size or --bits"
    quant.add_argument(
        "--quant",
        choices=(*recipe_names(), *([AUTO] if has_auto else [])),
        default=CHOICE_DEFAULTS["quant"],
        help="recipe: bits, block and method of each matrix, which tramontane recipes prints"
        f"{auto if has_auto else ''} (default: %(default)s)",
    )
    if has_auto:
        add_size(parser)
    quant.add_argument(
        "--recipe",
        type=Path,
        metavar="FILE",
        help="a recipe of your own, or an artifact whose recipe to take, instead of --quant",
    )
    add_target(parser)
    parser.add_argument(
        "--block",
        type=int,
        default=CHOICE_DEFAULTS["block"],
        metavar="N",
        help="weights that share a scale, at most, where the recipe fixes none: 16, 32, 64, 128 "
        "or 256 (default: %(default)s)",
    )
    parser.add_argument(
        "--window",
        type=window_of,
        metavar="N",
        help="window in tokens, instead of the checkpoint's, which makes it another model; for "
        "layers that differ, a pattern that repeats, such as none,32768,32768,32768",
    )
    parser.add_argument(
        "--cache",
        choices=("windowed", "growing"),
        default=CHOICE_DEFAULTS["cache"],
        help="windowed: KV cache of a fixed size; growing: one that starts at length 0, for "
        "runtimes that need that (default: %(default)s)",
    )
    parser.add_argument(
        "--kv",
        choices=tuple(CACHE_DTYPES),
        default=CHOICE_DEFAULTS["kv"],
        help="type of keys and values in the cache; int8 takes a quarter of the memory, float16 "
        "half of it in the graph for the native library (default: %(default)s)",
    )


def choices_of(args: argparse.Namespace) -> dict[str, Any]:
    """The values of ``add_choices``'s options, by the names that ``ExportOptions`` gives them.

    The recipe of ``--quant auto`` is not found yet: its place has the size that was asked for.

    Raises:
        ConfigError, ContractError: ``--recipe`` names no recipe, or a size is given without
            ``--quant auto``.
    """
    given = {name: getattr(args, name) for name in CHOICE_DEFAULTS}
    size, bits = getattr(args, "size", None), getattr(args, "bits", None)
    if args.quant == AUTO:
        return {**given, "quant": asked_for(size=size, bits=bits)}
    if size is not None or bits is not None:
        asked = asked_for(size=size, bits=bits)
        raise ConfigError(
            f"{asked.option}: given without --quant {AUTO}, expected with it; add it, or leave "
            "the size out"
        )
    return given if args.recipe is None else {**given, "quant": open_recipe(args.recipe)}


def add_measuring(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how parity is measured."""
    parser.add_argument(
        "--text",
        type=Path,
        metavar="FILE",
        help="text to measure parity on, of the kind that the model was trained on "
        "(default: a bundled one, half code, half story)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed for the random tokens, and for where in the text measuring begins "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1.0,
        metavar="FACTOR",
        help="multiply the bounds on the artifact against its recipe; 0.5 is twice as strict "
        "(default: 1)",
    )
    parser.add_argument(
        "--max-kl",
        type=float,
        default=MAX_KL,
        metavar="NATS",
        help="largest mean KL divergence from the float32 model on the text "
        "(default: %(default)g)",
    )
    parser.add_argument(
        "--min-agreement",
        type=float,
        default=MIN_AGREEMENT,
        metavar="SHARE",
        help="least top-1 agreement with the float32 model on the text, 0 to 1 "
        "(default: %(default)g)",
    )
    parser.add_argument(
        "--thorough",
        action="store_true",
        help="check all lengths and all layers, which takes much longer",
    )
    parser.add_argument(
        "--store",
        type=Path,
        metavar="DIR",
        help="folder where the results of the PyTorch reference are stored, for the next export "
        "of the checkpoint (default: the user's cache)",
    )


def gate_options_of(args: argparse.Namespace) -> GateOptions:
    """The values of ``add_measuring``'s options."""
    from ..validate.measurement import GateOptions

    given = {"text": args.text, "store": args.store}
    return GateOptions(
        seed=args.seed,
        tolerance=args.tolerance,
        max_kl=args.max_kl,
        min_agreement=args.min_agreement,
        thorough=args.thorough,
        **{name: value for name, value in given.items() if value is not None},
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add the option for the number of threads."""
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads to compute with (default: as many as physical cores)",
    )


def size_of(text: str | None, *, flag: str) -> int | None:
    """The bytes that an option such as ``--max-memory 6GiB`` asks for; None where it is absent.

    Raises:
        ConfigError: the text is not a size.
    """
    return None if text is None else parse_size(text, flag=flag)
