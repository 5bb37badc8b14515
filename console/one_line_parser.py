"""An argument parser whose errors are one line: found, expected, and where the options are listed.

argparse prints the usage of the whole command before its message. (stdlib only)
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from ..runtime.errors import ConfigError, printable
from . import hints
from .status import EXIT_BAD_INPUT, complain

_VALUE = r"(?:'(.*)'|\"(.*)\")"
_MARK = "'"  # around each choice, before Python 3.12
_KINDS = {"int": "a whole number", "float": "a number"}
_SAID = {  # regular expressions of argparse's messages, and ours; Python 3.11 to 3.14
    rf"argument (\S+): invalid choice: {_VALUE} \(choose from (.*?)\).*": r"\1 \2\3: expected \4",
    rf"argument (\S+): invalid (\w+) value: {_VALUE}": r"\1 \3\4: expected \2",
    r"argument (\S+): expected (.+)": r"\1: no value, expected \2",
    r"argument (\S+): ignored explicit argument (.+)": r"\1=\2: a value, expected none",
    r"argument (\S+): not allowed with argument (.+)": r"\1: given with \2, expected one of them",
    r"argument (\S+): (.+)": r"\1 \2",
    r"ambiguous option: (.+) could match (.+)": r"\1: several options, expected one of \2",
    r"the following arguments are required: (.+)": r"missing arguments, expected \1",
}


class OneLineParser(argparse.ArgumentParser):
    """As ``argparse.ArgumentParser``; its subcommands' parsers are of this class too."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse as ``argparse`` does, and refuse what is left with the nearest option's name."""
        parsed, left = super().parse_known_args(args, namespace)
        if left:
            near = difflib.get_close_matches(left[0].partition("=")[0], self._flags(), n=1)
            expected = f"expected {near[0]}" if near else "expected nothing more"
            self.error(f"{left[0]}: unknown argument, {expected}")
        return parsed, left

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2; for a call of make, with make's names of the options."""
        for form, ours in _SAID.items():
            if found := re.fullmatch(form, message, re.DOTALL):
                message = _plain(found, ours)
                break
        try:
            note = hints.names_in_make(message)
        except ConfigError as unreadable:
            message, note = str(unreadable), ""
        note = note or f"{self.prog} --help lists all arguments"
        complain(f"{printable(message)}; {note}", has_note=False, prog=self.prog)
        raise SystemExit(EXIT_BAD_INPUT)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help or a version; argparse would let a failing write pass."""
        print(message, end="", file=file or sys.stderr, flush=True)

    def _flags(self) -> list[str]:
        actions: list[Any] = self._actions
        return [flag for action in actions for flag in action.option_strings]


def _plain(found: re.Match[str], ours: str) -> str:
    """Our message, without quotation marks around choices, with words for types."""
    message = found.expand(ours)
    if "invalid choice" in found.re.pattern:
        start, _, choices = message.rpartition(": expected ")
        return f"{start}: expected one of {choices.replace(_MARK, '')}"
    start, _, kind = message.rpartition("expected ")
    return f"{start}expected {_KINDS[kind]}" if kind in _KINDS else message
