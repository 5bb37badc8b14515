"""The chat template of an artifact: messages to the text that the model was trained on.

Templates are programs in Jinja. They run in its sandbox, with limits, and need the package
``jinja2`` (the extra ``chat``).
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contract import CHAT_TEMPLATE_FILE, TOKENIZER_SETTINGS_FILE
from ..errors import ContractError, printable
from ..untrusted.fields import shown
from ..untrusted.files import is_file, read_file
from ..untrusted.json_text import SMALL_BYTES, parse_object
from .chat_limits import TemplateTooLong, render_within_limits

if TYPE_CHECKING:
    from ..tokenizers.tokenizer import Tokenizer

Message = Mapping[str, Any]  # "role", "content", and what else a template reads

_OLDEST = (3, 1, 6)  # of jinja2; older ones have known ways out of the sandbox
_DEFAULT = "default"  # of several templates in the settings
# What a template's own code raises on messages that it was not written for.
_ERRORS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


class ChatTemplate:
    """Renders conversations.

    >>> rule = ChatTemplate("{% for m in messages %}<{{ m.role }}> {{ m.content }}{% endfor %}")
    >>> rule.render([{"role": "user", "content": "Hello"}])
    '<user> Hello'
    """

    def __init__(
        self, source: str, *, names: Mapping[str, str] | None = None, where: object = "template"
    ) -> None:
        """Compile a template.

        Args:
            source: in Jinja.
            names: special tokens that it may write, such as ``bos_token``.
            where: what messages call it.

        Raises:
            ContractError: it is no template, or the package ``jinja2`` is missing.
        """
        self._where = where
        self._names = dict(names or {})
        jinja2 = _jinja2(where)
        from .chat_sandbox import sandbox

        self._errors = (jinja2.TemplateError, *_ERRORS)
        try:
            self._template = sandbox().from_string(source)
        except self._errors as error:
            raise self._refusal("cannot be read", error) from error

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True, **names: Any
    ) -> str:
        """The text of a conversation.

        Args:
            messages: each with ``role`` ("system", "user" or "assistant") and ``content``.
            add_generation_prompt: end with what the model's next message begins with.
            names: others that the template reads, such as ``tools``.

        Raises:
            ContractError: the template refuses the messages; the error has its words. Or it takes
                more steps, seconds or characters than a conversation needs.
        """
        for number, message in enumerate(messages):
            if not isinstance(message, Mapping) or "role" not in message:
                raise ContractError(
                    f"message {number}: {shown(message)}, expected a dictionary with role and "
                    'content, such as {"role": "user", "content": "Hello"}'
                )
        # Those without a value are defined all the same: templates ask whether they are none.
        given = {"tools": None, "documents": None, **self._names, **names}
        given["messages"] = [dict(message) for message in messages]
        try:
            return render_within_limits(
                self._template, {"add_generation_prompt": add_generation_prompt, **given}
            )
        except self._errors as error:
            raise self._refusal("refuses the messages", error) from error
        except TemplateTooLong as error:
            raise ContractError(
                f"{self._where}: the template {error}, expected one that is done in a moment; "
                "take the file from whom you trust, or render the prompt yourself"
            ) from error

    def _refusal(self, what: str, error: Exception) -> ContractError:
        said = printable(f"{type(error).__name__}: {error}", most=400)
        return ContractError(
            f"{self._where}: {what} ({said}), expected messages as the model's card shows them; "
            "change their roles, or render the prompt yourself"
        )


def open_chat_template(folder: Path) -> ChatTemplate:
    """The chat template of an artifact.

    Raises:
        ContractError: it has none, or it cannot be read.
    """
    path, settings_path = folder / CHAT_TEMPLATE_FILE, folder / TOKENIZER_SETTINGS_FILE
    settings: dict[str, Any] = {}
    if is_file(settings_path):
        content = read_file(settings_path, most=SMALL_BYTES)
        settings = parse_object(content, what=settings_path)
    source = _in_settings(settings.get("chat_template"))
    if is_file(path):
        try:
            source = read_file(path, most=SMALL_BYTES).decode()
        except UnicodeDecodeError as error:
            raise ContractError(
                f"{path}: byte {error.start} is not UTF-8, expected a text; copy it again"
            ) from error
    elif source is not None:
        path = settings_path
    if source is None:
        raise ContractError(
            f"{folder}: has no chat template, neither {CHAT_TEMPLATE_FILE} nor chat_template in "
            f"{TOKENIZER_SETTINGS_FILE}; expected one of them; continue a text with generate() "
            "instead"
        )
    names = {name: text for name, value in settings.items() if (text := _token(name, value))}
    return ChatTemplate(source, names=names, where=path)


def refuse_special(messages: Sequence[Message], tokenizer: Tokenizer) -> None:
    """Refuse content that would be read as special tokens.

    Raises:
        ContractError: naming the first message.
    """
    for number, message in enumerate(messages):
        content = message.get("content")
        if not isinstance(content, str) or not content:
            continue
        plain = tokenizer.encode(content, is_first=True)
        if tokenizer.encode(content, is_first=True, allow_special=True) != plain:
            raise ContractError(
                f"message {number}: {shown(content)} spells a special token of the model, "
                "expected plain text; leave it out, or give allow_special=True to read it so"
            )


def _in_settings(found: Any) -> str | None:
    """The template of ``tokenizer_config.json``: one text, or the default of several by name."""
    if isinstance(found, str):
        return found
    for one in found if isinstance(found, list) else ():
        if isinstance(one, dict) and one.get("name") == _DEFAULT:
            return str(one.get("template"))
    return None


def _token(name: str, value: Any) -> str | None:
    """The text of a special token that a setting names; None for another setting."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if name.endswith("_token") and isinstance(text, str) else None


def _jinja2(where: object) -> Any:
    """The package, in a version whose sandbox has no known way out.

    Raises:
        ContractError: it is missing, or older.
    """
    found = "is not installed"
    try:
        import jinja2

        version = importlib.metadata.version("jinja2")
        if tuple(int(part) for part in re.findall(r"\d+", version)[:3]) >= _OLDEST:
            return jinja2
        found = f"is {version}"
    except ImportError:
        pass
    wanted = ".".join(map(str, _OLDEST))
    raise ContractError(
        f"{where}: needs the package jinja2, which {found}, expected {wanted} or newer; "
        f"pip install 'jinja2>={wanted}'"
    )
