"""A conversation in the terminal, or of the lines of standard input. (stdlib only)"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import sys
from collections.abc import Callable, Iterator
from threading import Event
from typing import TYPE_CHECKING, Any

from ..console.processes.stop_on_interrupt import interrupts_stop_runs
from ..console.streams import decode_argument, read_lines
from ..runtime.errors import ContractError

if TYPE_CHECKING:
    from ..runtime import Model, Result, Session

DEFAULT_NEW_TOKENS = 1024  # of an answer
KEPT = 64  # tokens that can be taken back: of an answer whose text is tokenized otherwise
EXIT, RESET = "/exit", "/reset"
_PROMPT = "> "


class Chat:
    """Messages so far, and the session that answers."""

    def __init__(
        self,
        model: Model,
        *,
        system: str | None,
        max_new_tokens: int,
        allow_special: bool,
        options: dict[str, Any],
        time_limit: float | None = None,
    ) -> None:
        """Begin a conversation.

        Args:
            model: that answers.
            system: the system's message, if any.
            max_new_tokens: of an answer.
            allow_special: whether messages may spell special tokens.
            options: of ``Session.generate``.
            time_limit: as ``Model.session``.
        """
        self._model = model
        self._session: Session = model.session(keep=KEPT, time_limit=time_limit)
        self._allow_special = allow_special
        self._most = max_new_tokens
        self._options = options
        self._first = [] if system is None else [{"role": "system", "content": system}]
        self.messages = [*self._first]
        model.chat_template.render([*self._first, {"role": "user", "content": "x"}])

    def forget(self) -> None:
        """Begin anew."""
        self.messages = [*self._first]

    def answer(self, text: str, show: Callable[[str], object]) -> Result:
        """Answer a message; each piece of the text is shown as it comes.

        Raises:
            ContractError: the message cannot be read, or there is no room for an answer; the
                conversation is what it was.
        """
        messages = [*self.messages, {"role": "user", "content": text}]
        tokens = self._model.chat_tokens(messages, allow_special=self._allow_special)
        room = self._model.geometry.max_positions - len(tokens)
        if room < 1:
            raise ContractError(
                f"the conversation has {len(tokens)} tokens, the artifact has "
                f"{len(tokens) + room} positions; {RESET} begins a new one"
            )
        cancel = Event()
        pieces = self._session.generate(
            tokens,
            reuse=True,
            cancel=cancel,
            max_new_tokens=min(self._most, room),
            **self._options,
        )
        with _interrupts(cancel):
            for piece in pieces:
                show(piece)
        result = pieces.result
        self.messages = [*messages, {"role": "assistant", "content": result.text}]
        return result


def converse(
    chat: Chat,
    first: str | None,
    *,
    as_json: bool,
    after: Callable[[Result], object],
) -> None:
    """Answer messages until there are no more, or one is ``/exit``.

    Args:
        chat: the conversation.
        first: its first message, if there is one already.
        as_json: print a line of JSON for each answer, no text.
        after: what is done with each answer's result.
    """
    is_terminal = sys.stdin is not None and sys.stdin.isatty()
    for text in _messages(first, is_terminal=is_terminal):
        if text.strip() == RESET:
            chat.forget()
            continue
        try:
            result = chat.answer(text, _ignore if as_json else _show)
        except ContractError as error:
            if not is_terminal:
                raise
            print(f"tramontane: {error}", file=sys.stderr)
            continue
        print(json.dumps({"message": text, **_plain(result)}) if as_json else "", flush=True)
        after(result)


def _messages(first: str | None, *, is_terminal: bool) -> Iterator[str]:
    """Messages of the user; empty ones are left out."""
    if first:
        yield first
    lines = _typed() if is_terminal else read_lines()
    for line in lines:
        if line.strip() == EXIT:
            return
        if line.strip():
            yield line


def _typed() -> Iterator[str]:
    """Lines typed at a terminal, until Ctrl-D."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - input() edits lines with it
    print(f"{EXIT} or Ctrl-D ends, {RESET} begins anew, Ctrl-C stops an answer", file=sys.stderr)
    while True:
        try:
            yield decode_argument(input(_PROMPT), flag="the message")
        except EOFError:
            print()
            return


@contextlib.contextmanager
def _interrupts(cancel: Event) -> Iterator[None]:
    """Let the first Ctrl-C end the answer alone; a second one raises KeyboardInterrupt.

    The second one ends the step in flight too; the first lets it end, so that the conversation
    can go on.
    """

    def handle(*_: object) -> None:
        if cancel.is_set():
            raise KeyboardInterrupt
        cancel.set()

    before = signal.signal(signal.SIGINT, handle)
    try:
        with interrupts_stop_runs(after=2):
            yield
    finally:
        signal.signal(signal.SIGINT, before)


def _show(piece: str) -> None:
    print(piece, end="", flush=True)


def _ignore(_: str) -> None:
    pass


def _plain(result: Result) -> dict[str, Any]:
    shown = dataclasses.asdict(result)
    del shown["logprobs"]
    return shown
