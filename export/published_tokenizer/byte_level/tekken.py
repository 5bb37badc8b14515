"""Mistral's ``tekken.json`` as ``tokenizer.json``.

A file lists ordinary tokens by rank, more of them than are used, and the split regex.
Special tokens have the first ids: the id of an ordinary token is its rank plus their number.

Source: mistral-common 1.9, mistral_common/tokens/tokenizers/tekken.py.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from ....runtime.errors import CheckpointError, ConfigError
from ....runtime.tokenizers.panics import panics_as
from ....runtime.untrusted.fields import shown
from ...files.held_files import HeldFile
from ...files.metadata_fields import number, read_json_object
from ...largest_sizes import refuse_size
from .bpe import ByteLevelBpe, merges_of, spell
from .pre_tokenizers import split_by

FILE = "tekken.json"
START, END, UNKNOWN, PADDING = "<s>", "</s>", "<unk>", "<pad>"
# Special tokens of files that list none: those before version 11.
_IMPLIED = (
    UNKNOWN, START, END, "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", PADDING, "[IMG_BREAK]",
    "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
)  # fmt: skip
_LAST_IMPLIED = 7  # the last version whose files may list none
_REST = "<SPECIAL_{}>"  # special tokens up to their number, by id


@dataclass(frozen=True, kw_only=True, slots=True)
class Tekken:
    """What one file says."""

    pattern: str
    special: tuple[str, ...]  # by id
    tokens: tuple[bytes, ...]  # by rank, only those that are used

    def ordinary_ids(self) -> dict[str, int]:
        """Id of each ordinary token, spelled."""
        return {spell(token): i for i, token in enumerate(self.tokens, len(self.special))}

    def tokenizer(self) -> Tokenizer:
        """The tokenizer, for ``tokenizer.json``; a text gets ``<s>`` in front."""
        return ByteLevelBpe(
            vocabulary={**self.ordinary_ids(), **{t: i for i, t in enumerate(self.special)}},
            merges=merges_of({token: rank for rank, token in enumerate(self.tokens)}),
            pre_tokenizer=split_by(self.pattern),
            is_whole_first=True,
            added=[AddedToken(token, special=True, normalized=False) for token in self.special],
            start=START,
        ).tokenizer()


def read_tekken(path: Path | HeldFile) -> Tekken:
    """Read a ``tekken.json``.

    Raises:
        CheckpointError: it is not JSON, or not what mistral-common reads.
    """
    try:
        return _parse(read_json_object(path))
    except ConfigError as error:
        message = str(error).removeprefix(f"{path}: ")
        raise CheckpointError(f"{path}: {message}; download it again") from error


def _parse(content: Mapping[str, Any]) -> Tekken:
    config, listed = content.get("config"), content.get("vocab")
    if not isinstance(config, Mapping) or not isinstance(listed, list):
        raise ConfigError(f"its keys are {shown(sorted(content))}, expected config and vocab")
    pattern = config.get("pattern")
    if not isinstance(pattern, str):
        raise ConfigError(f"config.pattern is {shown(pattern)}, expected a regular expression")
    with panics_as(
        ConfigError,
        f"config.pattern is {shown(pattern)}, expected a regular expression ({{said}})",
    ):
        split_by(pattern)
    size = number(config, "default_vocab_size", int)
    refuse_size("vocab_size", size)
    count = number(config, "default_num_special_tokens", int)
    if count > size:
        raise ConfigError(
            f"config.default_num_special_tokens is {count}, expected at most {size}, "
            "default_vocab_size"
        )
    special = _special(content, count)
    if not 256 <= size - len(special) <= len(listed):
        raise ConfigError(
            f"config.default_vocab_size is {size}, expected at least {len(special)} special "
            f"tokens and 256 bytes, and at most {len(special) + len(listed)}, all that it lists"
        )
    tokens = tuple(_token(rank, each) for rank, each in enumerate(listed[: size - len(special)]))
    found = Tekken(pattern=pattern, special=special, tokens=tokens)
    texts = [*special, *map(spell, tokens)]
    if len(set(texts)) < size:
        twin = next(text for text, times in Counter(texts).items() if times > 1)
        raise ConfigError(f"{shown(twin)} is there twice, expected each token once")
    return found


def _special(content: Mapping[str, Any], count: int) -> tuple[str, ...]:
    version = str(content["config"].get("version"))
    if not re.fullmatch(r"v\d+", version):
        raise ConfigError(f"config.version is {shown(version)}, expected v and a number, as v3")
    listed = content.get("special_tokens")
    if not isinstance(listed, list):
        if listed is not None or int(version[1:]) > _LAST_IMPLIED:
            raise ConfigError(
                f"special_tokens is {shown(listed)} in version {version}, expected a list (only "
                f"files up to v{_LAST_IMPLIED} may lack it)"
            )
        texts = list(_IMPLIED)
    else:
        texts = [_special_text(i, each) for i, each in enumerate(listed)]
    if len(texts) > count:
        raise ConfigError(
            f"config.default_num_special_tokens is {count}, expected at least {len(texts)}, as "
            "many as special_tokens has"
        )
    if START not in texts:
        raise ConfigError(f"special_tokens lack {START}, expected that start token")
    return (*texts, *(_REST.format(i) for i in range(len(texts), count)))


def _special_text(i: int, listed: Any) -> str:
    entry = listed if isinstance(listed, Mapping) else {}
    text = entry.get("token_str")
    if entry.get("rank") != i or not isinstance(text, str) or not text:
        raise ConfigError(f"special token {i} is {shown(listed)}, expected rank {i} and token_str")
    return text


def _token(rank: int, listed: Any) -> bytes:
    entry = listed if isinstance(listed, Mapping) else {}
    text = entry.get("token_bytes")
    if entry.get("rank") != rank or not isinstance(text, str):
        raise ConfigError(
            f"token {rank} is {shown(listed)}, expected rank {rank} and token_bytes in base64"
        )
    try:
        token = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ConfigError(f"token {rank} is {shown(text)} ({error}), expected base64") from error
    if rank < 256 and token != bytes([rank]):
        raise ConfigError(f"token {rank} is {token!r}, expected the byte {bytes([rank])!r}")
    return token
