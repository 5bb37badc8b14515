"""How does optimum-cli come by ``export tramontane``?

It runs every module that it finds in ``optimum.commands.register``, where this one is installed,
at each of its starts: so what is heavy is imported when the command is run.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand

_SUMMARY = "Mistral-family checkpoint to an ONNX artifact for edge devices, proved"
_EXAMPLE = """example:
  optimum-cli export tramontane --model models/stdlib-5m --quant int8 artifacts/stdlib-5m-int8

An artifact that optimum's ORTModelForCausalLM is to run takes --cache growing.
"""


class TramontaneExportCommand(BaseOptimumCLICommand):  # type: ignore[misc] # optimum is untyped
    """``tramontane export`` with its options, and its checkpoint and folder named as optimum does.

    It exits as ``tramontane`` does: 0 done, 1 parity failed, 2 bad input, 130 interrupted.
    """

    COMMAND = CommandInfo(name="tramontane", help=f"{_SUMMARY}.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the options to optimum's parser of this command."""
        from tramontane.cli import CHECKPOINT, add_export_options

        parser.description, parser.epilog = f"{_SUMMARY}.", _EXAMPLE
        parser.formatter_class = RawDescriptionHelpFormatter
        parser.add_argument(
            "-m",
            "--model",
            dest="checkpoint",
            type=Path,
            required=True,
            metavar="DIR",
            help=f"{CHECKPOINT}; nothing is downloaded",
        )
        parser.add_argument("out", type=Path, metavar="OUT", help="artifact folder to write")
        add_export_options(parser)
        parser.set_defaults(json=False)

    def run(self) -> None:
        """Export; leave with the status of what stopped it."""
        from tramontane.cli import exit_status

        if status := exit_status(lambda: _export(self.args)):
            raise SystemExit(status)


def _export(args: Namespace) -> int:
    from tramontane import commands
    from tramontane.export.build import adapted
    from tramontane.export.layouts import read_config
    from tramontane.export.progress import say
    from tramontane.interop.optimum_config import describe, obstacles

    _refuse_hub_name(args.checkpoint)
    config = adapted(
        read_config(args.checkpoint), window=args.window, cache=args.cache, kv=args.kv
    )
    say(f"{args.checkpoint}: {describe(config)}")
    for obstacle in obstacles(config):
        say(f"note: optimum's ORTModelForCausalLM will not run {args.out}: {obstacle}")
    return commands.export(args)


def _refuse_hub_name(model: Path) -> None:
    """Siblings of this command download what is named like this.

    Raises:
        ConfigError: nothing lies there, and it may be a name on the Hub.
    """
    from tramontane.errors import ConfigError

    if model.exists() or model.is_absolute() or len(model.parts) > 2:
        return
    raise ConfigError(
        f"--model {model}: no such folder or file here, and nothing is downloaded; expected a "
        f"local one: for a name on the Hub, hf download {model} --local-dir DIR, then --model DIR"
    )


REGISTER_COMMANDS = [(TramontaneExportCommand, ExportCommand)]
