"""The command ``optimum-cli export tramontane``.

optimum-cli imports every module of ``optimum.commands.register``, where this one is installed,
whenever it starts. So heavy packages are imported only when the command runs.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand

_SUMMARY = "Write an ONNX artifact from a Mistral-family checkpoint, compared with PyTorch"
_EXAMPLE = """example:
  optimum-cli export tramontane --model models/stdlib-5m --quant int8 artifacts/stdlib-5m-int8

optimum's ORTModelForCausalLM runs artifacts of --cache growing.
"""


class TramontaneExportCommand(BaseOptimumCLICommand):  # type: ignore[misc] # optimum is untyped
    """``tramontane export`` with its options; checkpoint and folder are named as in optimum.

    Its exit status is one of ``tramontane.console.status.MEANINGS``.
    """

    COMMAND = CommandInfo(name="tramontane", help=f"{_SUMMARY}.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the options to optimum's parser of this command."""
        from tramontane.cli.commands.export import add_export_options
        from tramontane.cli.flags import CHECKPOINT_HELP

        parser.description, parser.epilog = f"{_SUMMARY}.", _EXAMPLE
        parser.formatter_class = RawDescriptionHelpFormatter
        parser.add_argument(
            "-m",
            "--model",
            dest="checkpoint",
            type=Path,
            required=True,
            metavar="DIR",
            help=f"{CHECKPOINT_HELP}; nothing is downloaded",
        )
        parser.add_argument("out", type=Path, metavar="OUT", help="artifact folder to write")
        add_export_options(parser)
        parser.set_defaults(json=False, print_out=False)

    def run(self) -> None:
        """Export; exit with the status of the error that stopped it."""
        from tramontane.console.status import status_of

        name = "optimum-cli export tramontane"
        if status := status_of(lambda: _export(self.args), name=name):
            raise SystemExit(status)


def _export(args: Namespace) -> int:
    from tramontane.cli.commands import export
    from tramontane.console.progress import say
    from tramontane.export.cache_choice import choose_cache, geometry_of
    from tramontane.export.formats.checkpoint import read_merged_config
    from tramontane.export.window_choice import adapted
    from tramontane.interop.optimum_config import describe, obstacles

    config = adapted(read_merged_config(args.checkpoint, args.adapter), window=args.window)
    geometry = geometry_of(config, choose_cache(args.cache, kv=args.kv))
    say(f"{args.checkpoint}: {describe(config)}")
    for obstacle in obstacles(config, geometry):
        say(f"note: optimum's ORTModelForCausalLM will not run {args.out}: {obstacle}")
    return export.main(args)


REGISTER_COMMANDS = [(TramontaneExportCommand, ExportCommand)]
