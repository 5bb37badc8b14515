"""Limits on how long a chat template runs, and on what it writes.

A chat template comes with the model, so it is not trusted. Jinja's sandbox gives it no access to
files or to Python's internals, but it may still nest loops, call macros recursively or double a
string again and again. Here each turn of a loop, each call, filter and operator whose result may
be longer than its input counts as a step, and so does each character that they make.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from time import perf_counter
from typing import Any

MOST_STEPS = 200_000  # turns of loops, calls and operators of one rendering
MOST_CHARACTERS = 1 << 26  # that one rendering makes, also those of values that it drops
MOST_SECONDS = 10.0  # of one rendering, looked at in each step
_MOST_SIZE = 10_000  # given to what makes texts and lists of a size, such as center()
_SIZED = {
    *("batch", "center", "expandtabs", "indent", "ljust", "rjust", "round", "slice", "to_bytes"),
    *("tojson", "wordwrap", "zfill"),
}
_MOST_BITS = 10_000  # of a whole number
# A format with a width of five digits or more, or one that a value gives.
_WIDE = re.compile(r"%[-+ #0.\d]*(?:\d{5}|\*)|\{[^{}]*:[^{}]*\d{5}")


class TemplateTooLong(Exception):  # noqa: N818 - what it says of the template
    """A template would run for too long or write too much; the message says which."""


class Work:
    """What one rendering has done."""

    def __init__(self) -> None:
        self.steps = self.characters = 0
        self.end = perf_counter() + MOST_SECONDS

    def count(self, steps: int = 1) -> None:
        """Count steps."""
        self.steps += steps
        if self.steps > MOST_STEPS:
            raise TemplateTooLong(f"takes more than {MOST_STEPS} steps")
        if perf_counter() > self.end:
            raise TemplateTooLong(f"takes more than {MOST_SECONDS:.0f} s")

    def made(self, value: Any) -> Any:
        """Count a step, and what it made."""
        self.count()
        if isinstance(value, (str, bytes, list, tuple)):
            self.characters += len(value)
            self.refuse(0)
        return value

    def refuse(self, more: int) -> None:
        """Refuse to make so many characters more."""
        if self.characters + more > MOST_CHARACTERS:
            raise TemplateTooLong(f"writes more than {MOST_CHARACTERS} characters")


work: ContextVar[Work] = ContextVar("work")


def render_within_limits(template: Any, names: dict[str, Any]) -> str:
    """The text of a template of ``chat_sandbox.py``.

    Raises:
        TemplateTooLong: it takes more steps, seconds or characters than a conversation needs.
    """
    token = work.set(Work())
    try:
        text: str = template.render(names)
    except MemoryError as error:
        raise TemplateTooLong("takes more memory than there is") from error
    finally:
        work.reset(token)
    return text


def refuse_arguments(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse a filter or a call by name whose result may be far longer than its arguments.

    A method's object is the first of ``args``.
    """
    values = [*args, *kwargs.values()]
    sizes = [abs(size) for size in values[1:] if isinstance(size, int)]
    if name in _SIZED and max(sizes, default=0) > _MOST_SIZE:
        raise TemplateTooLong(f"calls {name} with a number above {_MOST_SIZE}")
    if name in ("replace", "join"):
        sizes = sorted(len(value) for value in values if isinstance(value, (str, list, tuple)))
        work.get().refuse(sizes[-1] * sizes[-2] if len(sizes) > 1 else 0)
    if name in ("format", "format_map"):
        _refuse_format(next((value for value in values if isinstance(value, str)), ""))


def refuse_operands(operator: str, left: Any, right: Any) -> None:
    """Refuse an operator whose result may be far longer than its operands."""
    if operator == "%" and isinstance(left, str):
        _refuse_format(left)
    if operator not in ("*", "**"):
        return
    for one, other in ((left, right), (right, left)):
        if operator == "*" and isinstance(one, (str, list, tuple)) and isinstance(other, int):
            work.get().refuse(len(one) * max(other, 0))
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * (max(right, 1) if operator == "**" else 1)
        if bits + right.bit_length() > _MOST_BITS:
            raise TemplateTooLong(f"computes a number of more than {_MOST_BITS} bits")


def _refuse_format(form: str) -> None:
    if found := _WIDE.search(form):
        raise TemplateTooLong(f"writes in a format with the width {found.group()}")
