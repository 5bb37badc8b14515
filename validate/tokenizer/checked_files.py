"""Checks of a tokenizer's files before a model is traced.

Where transformers reads them, it does so in a process of its own: it imports torch, whose memory
stays, and the process that writes the weights never does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...console.processes.ask_module import answer_asked, ask_module
from ...export.formats.checkpoint import Checkpoint
from ...export.published_tokenizer.chat_templates import FOLDER
from ...runtime.contract import (
    CHAT_TEMPLATE_FILE,
    TOKENIZER_FILE,
    TOKENIZER_JSON_FILE,
    TOKENIZER_SETTINGS_FILE,
)
from ...runtime.tokenizers.vocabulary import Vocabulary
from ...runtime.untrusted.fields import decode
from ..verdict import checks_of, raise_if_broken
from .check_tokenizer import TokenizerChecks, check_tokenizer
from .readers import imports_transformers

_READ = (TOKENIZER_FILE, TOKENIZER_JSON_FILE, TOKENIZER_SETTINGS_FILE, CHAT_TEMPLATE_FILE)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedFiles:
    """Checks that hold for every folder with the same tokenizer files, of the same checkpoint."""

    digests: Mapping[str, str]  # of all files that the checks read, by name
    vocabulary: Vocabulary
    found: TokenizerChecks

    def fits(self, artifact: Path, vocabulary: Vocabulary) -> bool:
        """Whether an artifact's files are those that were checked."""
        return vocabulary == self.vocabulary and _digests(artifact) == self.digests


def require_same_tokenizer(
    folder: Path, vocabulary: Vocabulary, checkpoint: Checkpoint, *, name: str
) -> CheckedFiles:
    """Check the tokenizer's files of a new artifact; refuse those that differ.

    Args:
        folder, vocabulary, checkpoint: as ``check_files`` takes them.
        name: of the artifact, for the message.

    Raises:
        ParityError: the tokenizer or a chat template differs from the checkpoint's.
        CheckpointError, ConfigError, ContractError, TraceError: as ``check_files``.
    """
    checked = check_files(folder, vocabulary, checkpoint)
    raise_if_broken(checked.found.checks, artifact=Path(name))
    return checked


def check_files(folder: Path, vocabulary: Vocabulary, checkpoint: Checkpoint) -> CheckedFiles:
    """Check the tokenizer's files of a new artifact as ``check_tokenizer`` does.

    Args:
        folder: the files lie in it.
        vocabulary: as the manifest will have it.
        checkpoint: what they are made from.

    Raises:
        CheckpointError, ConfigError, ContractError: as ``check_tokenizer``; or a file is another
            than the checkpoint holds.
        TraceError: the process was ended.
    """
    if imports_transformers(checkpoint.read_tokenizer()):
        found = _in_own_process(folder, vocabulary, checkpoint)
    else:
        found = check_tokenizer(folder, vocabulary, checkpoint)
    return CheckedFiles(digests=_digests(folder), vocabulary=vocabulary, found=found)


def _in_own_process(
    folder: Path, vocabulary: Vocabulary, checkpoint: Checkpoint
) -> TokenizerChecks:
    asked = {
        "folder": str(folder.resolve()),
        "vocabulary": dataclasses.asdict(vocabulary),
        "checkpoint": str(checkpoint.path.resolve()),
        "adapters": [str(one.folder.resolve()) for one in checkpoint.adapters],
        "files": checkpoint.identities(),
    }
    content = json.dumps(asked).encode()
    answer = json.loads(ask_module(__name__, content, what="the check of the tokenizer"))
    return TokenizerChecks(
        checks=checks_of(answer), notes=answer["notes"], not_compared=answer["not_compared"]
    )


def _digests(folder: Path) -> dict[str, str]:
    """sha256 of the files that the checks read."""
    paths = [*(folder / name for name in _READ), *(folder / FOLDER).glob("*")]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(paths)
        if path.is_file()
    }


def main() -> int:
    """Read what to check as JSON from standard input, write the checks to standard output."""
    return answer_asked(_answer)


def _answer(asked: Any) -> bytes:
    vocabulary: Vocabulary = decode(Vocabulary, asked["vocabulary"], where="vocabulary")
    with Checkpoint.open(
        Path(asked["checkpoint"]), [Path(one) for one in asked["adapters"]]
    ) as checkpoint:
        found = check_tokenizer(Path(asked["folder"]), vocabulary, checkpoint)
        checkpoint.refuse_others(asked["files"])
    return json.dumps(dataclasses.asdict(found)).encode()


if __name__ == "__main__":
    raise SystemExit(main())
