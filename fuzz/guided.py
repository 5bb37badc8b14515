"""Coverage-guided fuzzing of every reader, by atheris, in processes that a finding ends.

Inputs are the beginnings of the reader's file. Those that reach new code are kept in a corpus,
with which the next run begins. One process imports what all readers need, with the code that
counts branches, which takes seconds; each reader is fuzzed in a fork of it.

Source: Google, atheris, README.md; LLVM, libFuzzer.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ..runtime.errors import ContractError
from .mutations import apply, draw_mutations

_MODULE = "tramontane.fuzz.guided"
_RUN = re.compile(r"^#(\d+)\s", re.MULTILINE)
_FOUND = 77  # libFuzzer's exit status where an input ended in an exception
_LIMIT_S, _LIMIT_MB = 10, 4096  # of one input; memory is that of the whole process
_LARGEST = 65536  # bytes of an input
_OF_BYTES = 0.5  # of the mutations: libFuzzer's own
_SAID, _INPUTS = "said", "input-"  # what a fork prints; inputs that ended it
# Ours, and pure Python that reads for us. What is compiled is not seen into.
_WATCHED = ("tramontane", "gguf", "yaml", "json", "tomllib", "zipfile", "pickle", "model_signing")


def is_installed() -> bool:
    """Whether atheris is; it has wheels for some systems alone."""
    return importlib.util.find_spec("atheris") is not None


def guide_each(
    readers: Sequence[str],
    *,
    seconds: float,
    seed: int,
    folder: Path,
    most_runs: int | None = None,
) -> dict[str, Counter[str]]:
    """Fuzz every reader for its share of the time, those first that were fuzzed longest ago.

    Args:
        readers: their names.
        seconds: how long, all together; what a reader needs to begin is not counted.
        seed: of libFuzzer's mutations.
        folder: keeps the corpora and, beside them, what ended as it should not.
        most_runs: inputs of one reader, at most; None: as many as there is time for.

    Returns:
        By reader, how many inputs were tried (``runs``), and how many kinds of findings there
        were.

    Raises:
        ContractError: fuzzing itself broke; the message has the end of what it said.
    """

    def fuzzed_at(reader: str) -> float:
        corpus = _corpus(folder, reader)
        return corpus.stat().st_mtime if corpus.exists() else 0.0

    options = [f"--seconds={seconds / len(readers)}", f"--seed={seed}", f"--folder={folder}"]
    if most_runs is not None:
        options.append(f"--most-runs={most_runs}")
    done = subprocess.run(
        [sys.executable, "-P", "-m", _MODULE, *options, *sorted(readers, key=fuzzed_at)],
        check=False,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode:
        raise ContractError(
            f"fuzzing by coverage: ended with status {done.returncode}, expected 0; it said "
            f"{done.stderr[-1000:]}"
        )
    counts = json.loads(done.stdout.splitlines()[-1])
    return {reader: Counter(counts[reader]) for reader in readers}


def _known(found: Path, reader: str) -> Path:
    """The file with a line for each kind of finding of this run, which goes on beyond them."""
    return found / f"known-{reader}.txt"


def _corpus(folder: Path, reader: str) -> Path:
    return folder / "corpus" / reader


def _guide(
    reader: str, *, seconds: float, seed: int, folder: Path, most_runs: int
) -> Counter[str]:
    """Fuzz a reader for a time, in a new fork after each finding."""
    corpus, found, end = _corpus(folder, reader), folder / "found", time.monotonic() + seconds
    corpus.mkdir(parents=True, exist_ok=True)
    found.mkdir(exist_ok=True)
    _known(found, reader).unlink(missing_ok=True)
    counts: Counter[str] = Counter()
    while (left := round(end - time.monotonic())) > 0 or not counts:
        flags = [
            f"-max_total_time={max(1, left)}",
            f"-runs={most_runs}",
            f"-seed={seed + 1 + counts['findings']}",
        ]
        with tempfile.TemporaryDirectory() as temporary:
            scratch = Path(temporary)
            if not (child := os.fork()):
                _fuzz(reader, scratch, corpus=corpus, found=found, flags=flags)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            said = (scratch / _SAID).read_text(encoding="utf-8", errors="replace")
            counts["runs"] += _runs(said)
            if not status:
                break
            counts["findings"] += 1
            if status != _FOUND:
                _keep_ended(scratch, found, reader, ended=f"status {status}; it said {said}")
    os.utime(corpus)
    return counts


def _runs(said: str) -> int:
    """The last number of inputs that libFuzzer names."""
    numbers = _RUN.findall(said)
    return int(numbers[-1]) if numbers else 0


def _keep_ended(scratch: Path, found: Path, reader: str, *, ended: str) -> None:
    """Keep an input that hung, took too much memory or ended the process."""
    inputs = [path for path in scratch.iterdir() if path.name.startswith(_INPUTS)]
    if not inputs:
        raise ContractError(f"fuzzing {reader}: {ended[:50]} ... {ended[-1000:]}, expected 0")
    for path in inputs:
        (found / f"{path.name.removeprefix(_INPUTS)}-{reader}").write_bytes(path.read_bytes())


def _fuzz(
    reader: str, scratch: Path, *, corpus: Path, found: Path, flags: Sequence[str]
) -> NoReturn:
    """Fuzz in this process, which ends; libFuzzer ends it where it found nothing."""
    status = 1
    try:
        with (scratch / _SAID).open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        good = scratch / "good"
        good.mkdir()
        _until_found(reader, good, corpus=corpus, found=found, flags=flags)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _until_found(
    reader: str, good: Path, *, corpus: Path, found: Path, flags: Sequence[str]
) -> None:
    import atheris

    from .readers import READERS
    from .trial import LARGE, UNTYPED, Folder

    known = _known(found, reader)
    seen = set(known.read_text(encoding="utf-8").splitlines()) if known.exists() else set()
    folder = Folder(READERS[reader], good)
    if not any(corpus.iterdir()):
        (corpus / "good").write_bytes(folder.head)

    def one(head: bytes) -> None:
        outcome = folder.try_head(head)
        if outcome.kind not in (UNTYPED, LARGE) or outcome.detail in seen:
            return
        name = hashlib.sha256(head).hexdigest()[:12]
        (found / f"{name}-{reader}").write_bytes(folder.smallest(head, outcome))
        with known.open("a", encoding="utf-8") as file:
            file.write(f"{outcome.detail}\n")
        os._exit(_FOUND)

    def mutate(head: bytes, most: int, seed: int) -> bytes:
        """LibFuzzer's mutations, and as often those that know what values look like."""
        draw = random.Random(seed)
        if draw.random() < _OF_BYTES:
            return bytes(atheris.Mutate(head, most))
        return apply(head, draw_mutations(draw, len(head)))[:most]

    limits = [f"-timeout={_LIMIT_S}", f"-rss_limit_mb={_LIMIT_MB}", f"-max_len={_LARGEST}"]
    prefix = f"-artifact_prefix={good.parent / _INPUTS}"
    arguments = [sys.argv[0], *limits, *flags, prefix, str(corpus)]
    atheris.Setup(arguments, one, custom_mutator=mutate)
    atheris.Fuzz()


def main() -> None:
    """Fuzz some readers, each for so many seconds; print the counts as one line of JSON."""
    import atheris

    parser = argparse.ArgumentParser(prog=f"python -m {_MODULE}", description=__doc__)
    parser.add_argument("readers", nargs="+")
    parser.add_argument("--seconds", type=float, required=True, help="of each reader")
    parser.add_argument("--seed", type=int, required=True, help="of libFuzzer's mutations")
    parser.add_argument("--folder", type=Path, required=True, help="keeps corpora and findings")
    parser.add_argument("--most-runs", type=int, default=-1, help="of each reader (unlimited)")
    args = parser.parse_args()
    with atheris.instrument_imports(include=list(_WATCHED)):
        importlib.import_module("tramontane.fuzz.trial")
    chosen = {
        "seconds": args.seconds,
        "seed": args.seed,
        "folder": args.folder,
        "most_runs": args.most_runs,
    }
    print(json.dumps({reader: _guide(reader, **chosen) for reader in args.readers}))


if __name__ == "__main__":
    main()
