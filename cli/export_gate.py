"""The parity check of ``tramontane export``: of the tokenizer, and of the whole artifact."""

from __future__ import annotations

import contextlib
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..console import hints
from ..export.budget.asked import AUTO
from ..runtime.errors import ParityError
from .flags import CHOICE_DEFAULTS, choices_of, gate_options_of

if TYPE_CHECKING:
    from ..export.formats.checkpoint import Checkpoint
    from ..runtime.tokenizers.vocabulary import Vocabulary
    from ..validate.tokenizer.checked_files import CheckedFiles


class ExportGate:
    """Proves an artifact; where it fails, the error ends with the commands that help to see why.

    The tokenizer is compared before the model is traced, so that no weights are written for one
    that differs. At the end it is compared again only if its files have changed.
    """

    def __init__(self, args: Namespace, out: Path, *, name: str) -> None:
        """Nothing is compared yet.

        Args:
            args: of the command.
            out: the artifact's folder.
            name: that a report has for it.
        """
        self._args, self._out, self._name = args, out, name
        self._checked: CheckedFiles | None = None

    def prove_tokenizer(
        self, folder: Path, vocabulary: Vocabulary, checkpoint: Checkpoint
    ) -> None:
        """Compare a new artifact's tokenizer, whose files lie in a folder, with the checkpoint's.

        Raises:
            ParityError: it differs.
        """
        from ..validate.tokenizer.checked_files import require_same_tokenizer

        with self._with_commands():
            self._checked = require_same_tokenizer(folder, vocabulary, checkpoint, name=self._name)

    def __call__(self, artifact: Path, checkpoint: Checkpoint) -> dict[str, Any]:
        """Compare an artifact with PyTorch; return its headline figures.

        Raises:
            ParityError: a check failed.
        """
        # Imported late: torch, which the weights are written without.
        from ..validate.run_gate import require_parity

        options = gate_options_of(self._args)
        with self._with_commands():
            return require_parity(
                artifact, checkpoint, options, name=self._name, checked=self._checked
            )

    @contextlib.contextmanager
    def _with_commands(self) -> Iterator[None]:
        try:
            yield
        except ParityError as error:
            raise ParityError(
                f"{error}\n{_commands_to_look_into(self._args, self._out)}"
            ) from error


def _commands_to_look_into(args: Namespace, out: Path) -> str:
    """The commands that write the failed artifact beside ``out``, and a report on it."""
    choices = {
        name.upper(): str(value)
        for name, value in choices_of(args).items()
        if name in ("quant", "target") or value != CHOICE_DEFAULTS[name]
    }
    if args.recipe is not None:
        del choices["QUANT"]
        choices["RECIPE"] = str(args.recipe)
    if args.quant == AUTO:
        choices["QUANT"] = AUTO
        choices |= {"SIZE": args.size} if args.size is not None else {"BITS": f"{args.bits:g}"}
    if args.native:
        choices["NATIVE"] = "1"
    for name in ("calibration_tokens", "max_shard", "base_model"):
        if getattr(args, name) is not None:
            choices[name.upper()] = str(getattr(args, name))
    out, report = (out.with_name(f"{out.name}-{end}") for end in ("unproved", "parity"))
    adapters = {"ADAPTER": args.adapter} if args.adapter else {}
    texts = {"CALIBRATION_TEXT": args.calibration_text} if args.calibration_text else {}
    export = hints.suggest(
        "export", MODEL=args.checkpoint, OUT=out, **adapters, **choices, **texts, NO_VALIDATE=True
    )
    text = {} if args.text is None else {"TEXT": args.text}
    validate = hints.suggest(
        "validate", OUT=out, MODEL=args.checkpoint, **adapters, EXPLAIN=True, REPORT=report, **text
    )
    return f"to write it anyway, and a report on it:\n  {export}\n  {validate}"
