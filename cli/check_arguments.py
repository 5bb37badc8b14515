"""Checks that subcommands make of their arguments before they start to work."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..graphs.quantization.recipes.recipe import Recipe
from ..runtime.errors import ConfigError, ContractError

if TYPE_CHECKING:
    from ..export.config import MistralConfig


def refuse_parity_check_beyond_memory(
    published: MistralConfig, args: Namespace, *, quant: str | Recipe
) -> None:
    """Refuse a parity check of a recipe that this machine has too little memory for.

    Args:
        published: the checkpoint's architecture, its adapters merged.
        args: of the command.
        quant: the recipe.

    Raises:
        ContractError: as ``validate.can_measure.refuse_little_memory``.
    """
    from ..export.cache_choice import choose_cache, geometry_of
    from ..export.planning.plan import plan
    from ..export.window_choice import adapted
    from ..validate.can_measure import refuse_little_memory

    config = adapted(published, window=args.window)
    cache = choose_cache(args.cache, kv=args.kv)
    planned = plan(config, quant=quant, target=args.target, block=args.block, cache=cache)
    refuse_little_memory(geometry_of(config, cache), planned)


def refuse_short_text(path: Path, text: Path | None, adapters: Sequence[Path]) -> None:
    """Refuse a text with too few tokens to measure parity on.

    Raises:
        ConfigError, ContractError: naming ``--text``.
    """
    from ..console.text_file import read_text
    from ..export.formats.checkpoint import Checkpoint
    from ..validate.sequences.tokens import TokenText

    if text is not None:
        with Checkpoint.open(path, adapters) as checkpoint:
            TokenText(checkpoint).count(read_text(text, flag="--text"))


def refuse_same_text(*, calibration: Sequence[Path], measured: Path | None) -> None:
    """Refuse to measure parity on a calibration text: the result would look too good.

    Raises:
        ConfigError: both options name one file.
    """
    if measured is None:
        return
    for path in calibration:
        if path.resolve() == measured.resolve():
            raise ConfigError(
                f"--calibration-text {path}: is --text too, expected two texts; cut it in two"
            )


def refuse_unwritable(args: Namespace, *flags: str) -> None:
    """Refuse reports that cannot be written where the options name them.

    Args:
        args: the parsed arguments.
        flags: options that name a file, or with ``report`` a folder; it is made here.

    Raises:
        ContractError: naming the option.
    """
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
