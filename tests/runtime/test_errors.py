"""Messages of errors: one line without control characters, whatever they quote."""

from __future__ import annotations

import pytest
from tramontane.runtime.errors import LONGEST, ConfigError, ParityError, printable


@pytest.mark.parametrize("quoted", ["a\nb", "a\r\nb", "\x1b[31m", "a\u2028b", "\u202e", "\x00"])
def test_a_message_has_one_line_and_no_control_characters(quoted: str) -> None:
    message = str(ConfigError(f"file: found {quoted}, expected a name; correct it"))
    assert message.isprintable()
    assert message.startswith("file: found ")
    assert message.endswith(", expected a name; correct it")


def test_a_long_message_keeps_its_beginning_and_its_advice() -> None:
    message = str(ConfigError(f"file: found {'x' * 10**6}, expected a name; correct it"))
    assert len(message) <= LONGEST
    assert message.startswith("file: found x")
    assert message.endswith("x, expected a name; correct it")


def test_escapes_do_not_lengthen_a_message_beyond_the_limit() -> None:
    assert len(str(ConfigError("\x00" * LONGEST))) <= LONGEST


def test_a_message_that_is_raised_again_stays_as_it_is() -> None:
    message = str(ConfigError("a\nb" + "y" * 5000))
    assert str(ConfigError(message)) == message


def test_a_parity_error_has_a_line_for_each_check() -> None:
    assert str(ParityError("failed:\n  one\n  two\x1b")) == "failed:\n  one\n  two\\x1b"


def test_printable_text_stays_as_it_is() -> None:
    for text in ("Größe µ 漢字 😀", "a name that is no text: \udcff"):
        assert printable(text) == text
