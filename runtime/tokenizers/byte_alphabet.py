"""The character that stands for each byte in byte-level vocabularies.

Source: openai/gpt-2, src/encoder.py, ``bytes_to_unicode``: printable bytes are themselves, the
others follow from U+0100 on.
"""

from __future__ import annotations

_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS = (byte for byte in range(0x100) if byte not in _PRINTABLE)

SPELLED = {
    **{byte: chr(byte) for byte in _PRINTABLE},
    **{byte: chr(0x100 + number) for number, byte in enumerate(_OTHERS)},
}
BYTES = {character: byte for byte, character in SPELLED.items()}
