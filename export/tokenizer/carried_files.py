"""Content of a checkpoint's tokenizer files that an artifact carries: parsed, and written anew."""

from __future__ import annotations

import json

from ...runtime.contract import TOKENIZER_JSON_FILE
from ...runtime.errors import CheckpointError
from ...runtime.untrusted.json_text import LARGE_BYTES, SMALL_BYTES, parse_object
from ..files.held_files import HeldFile
from ..files.links import refuse_foreign

_REMEDY = "download it again"


def carried(file: HeldFile) -> bytes:
    """What an artifact carries of a published file: a JSON object, or a template's text.

    A ``tokenizer.json`` that is no JSON stays as it is: it is judged where it is read, and beside
    a SentencePiece model it is made anew.

    Raises:
        CheckpointError: it is neither, larger than the driver reads, or a link out of the
            checkpoint.
    """
    refuse_foreign(file.path)
    is_vocabulary = file.path.name == TOKENIZER_JSON_FILE
    content = file.read_bytes(most=LARGE_BYTES if is_vocabulary else SMALL_BYTES)
    if is_vocabulary:
        try:
            return written_anew(content, what=file)
        except CheckpointError:
            return content
    if file.path.suffix == ".json":
        return written_anew(content, what=file)
    try:
        return content.decode().encode()
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{file}: not UTF-8 ({error}), expected a template; {_REMEDY}"
        ) from error


def written_anew(content: bytes, *, what: object) -> bytes:
    """A JSON object as ``tokenizers`` and ``transformers`` write it: its values, and no more.

    A file that they wrote keeps its bytes.

    Raises:
        CheckpointError: it is no JSON object, or holds a number that JSON cannot.
    """
    found = parse_object(content, what=what, error=CheckpointError, remedy=_REMEDY)
    try:
        text = json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise CheckpointError(
            f"{what}: holds a number that is not finite, expected finite numbers; {_REMEDY}"
        ) from error
    return f"{text}\n".encode() if content.endswith(b"\n") else text.encode()
