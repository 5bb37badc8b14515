"""Which SentencePiece model and which files beside it does a folder hold?"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..errors import CheckpointError, ConfigError
from ..runtime.contract import TOKENIZER_FILE
from .config import read_json_object

JSON_FILE = "tokenizer.json"
SETTINGS_FILE = "tokenizer_config.json"
_COMPANIONS = (JSON_FILE, SETTINGS_FILE, "special_tokens_map.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedTokenizer:
    """The tokenizer of a checkpoint, whatever its layout."""

    path: Path  # file that it was read from
    model: bytes  # SentencePiece's ModelProto
    adds_bos: bool  # whether a prompt starts with the start token, if there is one
    # Files that say the same to other programs, by their names.
    companions: dict[str, Path] = field(default_factory=dict)


def tokenizer_file(folder: Path) -> Path | None:
    """The SentencePiece model of a folder; None where it has none.

    Mistral names one by the version of its control tokens, as in ``tokenizer.model.v3``;
    where ``tokenizer.model`` is there too, it is the same.

    Raises:
        CheckpointError: several versions, and none that is meant.
    """
    if (folder / TOKENIZER_FILE).is_file():
        return folder / TOKENIZER_FILE
    found = sorted(folder.glob(f"{TOKENIZER_FILE}.v*"))
    if len(found) > 1:
        raise CheckpointError(
            f"{folder}: holds {' and '.join(path.name for path in found)}, expected one "
            f"tokenizer; copy the one that is meant to {TOKENIZER_FILE}"
        )
    return found[0] if found else None


def read_tokenizer(folder: Path) -> PublishedTokenizer:
    """Read a folder's tokenizer.

    Raises:
        CheckpointError: it has none, several, or settings that are no JSON object.

    Source: transformers' ``LlamaTokenizer``, which Mistral shares: ``add_bos_token`` is true
        where ``tokenizer_config.json`` does not say otherwise.
    """
    path = tokenizer_file(folder)
    if path is None:
        raise CheckpointError(
            f"{folder}: holds no {TOKENIZER_FILE}; the driver needs a SentencePiece model"
        )
    settings = folder / SETTINGS_FILE
    try:
        adds_bos = not settings.is_file() or read_json_object(settings).get("add_bos_token", True)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    return PublishedTokenizer(
        path=path,
        model=path.read_bytes(),
        adds_bos=bool(adds_bos),
        companions={name: folder / name for name in _COMPANIONS if (folder / name).is_file()},
    )
