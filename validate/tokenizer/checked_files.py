"""Checks of a tokenizer's files before a model is traced, in a process of their own.

transformers imports torch, whose memory stays; the process that writes the weights never does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...console.processes.end_with_parent import command_of
from ...console.processes.refusals import REFUSED, as_bytes, raise_refusal
from ...console.streams import accept_any_text
from ...export.formats.checkpoint import Checkpoint
from ...export.published_tokenizer.chat_templates import FOLDER
from ...runtime.contract import (
    CHAT_TEMPLATE_FILE,
    TOKENIZER_FILE,
    TOKENIZER_JSON_FILE,
    TOKENIZER_SETTINGS_FILE,
)
from ...runtime.errors import TraceError, TramontaneError
from ...runtime.tokenizers.vocabulary import Vocabulary
from ...runtime.untrusted.fields import decode
from ..verdict import checks_of
from .check_tokenizer import TokenizerChecks, check_tokenizer

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
    asked = {
        "folder": str(folder.resolve()),
        "vocabulary": dataclasses.asdict(vocabulary),
        "checkpoint": str(checkpoint.path.resolve()),
        "adapters": [str(one.folder.resolve()) for one in checkpoint.adapters],
        "files": checkpoint.identities(),
    }
    done = subprocess.run(
        command_of(__name__), input=json.dumps(asked).encode(), capture_output=True, check=False
    )
    if done.returncode == REFUSED:
        raise_refusal(done.stdout)
    if done.returncode < 0:
        raise TraceError(
            f"the check of the tokenizer was ended by signal {-done.returncode}, expected it to "
            "finish; if you did not stop it, memory ran out: close other programs and try again"
        )
    if done.returncode:
        output = done.stderr.decode(errors="replace").strip()
        raise TraceError(
            f"the check of the tokenizer ended with status {done.returncode}, expected 0; this is "
            f"a bug, report it with this: {output}"
        )
    answer = json.loads(done.stdout)
    found = TokenizerChecks(checks=checks_of(answer), notes=answer["notes"])
    return CheckedFiles(digests=_digests(folder), vocabulary=vocabulary, found=found)


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
    accept_any_text()
    asked = json.load(sys.stdin)
    vocabulary: Vocabulary = decode(Vocabulary, asked["vocabulary"], where="vocabulary")
    # What packages may print is not part of the answer.
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        try:
            with Checkpoint.open(
                Path(asked["checkpoint"]), [Path(one) for one in asked["adapters"]]
            ) as checkpoint:
                found = check_tokenizer(Path(asked["folder"]), vocabulary, checkpoint)
                checkpoint.refuse_others(asked["files"])
        except TramontaneError as error:
            out.write(as_bytes(error))
            return REFUSED
        out.write(json.dumps(dataclasses.asdict(found)).encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
