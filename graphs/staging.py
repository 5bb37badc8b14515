"""How does a folder get its name only when it is whole, and what of an interrupted one is kept?

Beside ``out`` lies a folder ``.out.partial`` while an artifact is being made: the artifact to be,
the journal of its weights, and a lock. It goes when the artifact takes its name, or when it is
refused; whoever is interrupted, or killed, leaves it for the next run to go on with.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock

from ..errors import ContractError, TramontaneError
from ..runtime.contract import DATA_FILE, MANIFEST_FILE
from .journal import Identity, Journal

_FOLDER, _JOURNAL, _LOCK = "artifact", "journal.jsonl", "lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class Staging:
    """A folder that will be an artifact."""

    folder: Path
    journal: Journal
    is_resumed: bool  # whether it holds what an earlier, interrupted run wrote
    note: str  # what became of such a run; empty where there was none


@contextlib.contextmanager
def staged(
    out: Path, *, identity: Identity, resume: bool = True, replace: bool = True
) -> Iterator[Staging]:
    """Yield a folder that takes the name ``out`` when the block succeeds.

    An artifact already there stays until then. When the block raises one of our errors, nothing
    is left behind. When it is interrupted, what it wrote is kept for the next run; so it is where
    the disk or the machine was in the way, which a ``ContractError`` tells.

    Args:
        out: the artifact's folder.
        identity: all that decides the bytes of the weights, by name; a run of another identity
            is not gone on with.
        resume: go on with an interrupted run.
        replace: whether an artifact that is there is replaced, or refused.

    Raises:
        ContractError: ``out`` exists and is not an artifact or not to be replaced, or another run
            is writing it.
    """
    refuse_occupied(out, replace=replace)
    partial, replaced = partial_of(out), out.with_name(f".{out.name}.replaced")
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ContractError(f"{out}: cannot be made ({error}); name another --out") from error
    lock = filelock.FileLock(partial / _LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise ContractError(
            f"{out}: another export is writing it; wait for it, or name another --out"
        ) from error
    _bring_back(out, replaced)
    staging = _begin(partial, identity, resume=resume)
    try:
        yield staging
        refuse_occupied(out, replace=replace)  # it may have been made meanwhile
        if out.exists():
            out.rename(replaced)
        staging.folder.rename(out)
    except BaseException as error:
        _bring_back(out, replaced)
        if isinstance(error, TramontaneError) and not _is_worth_keeping(error, staging):
            _remove(lock, partial)
        else:
            lock.release()
        if isinstance(error, OSError):
            raise ContractError(
                f"{out}: cannot be written ({error}); where a file is too large for the disk, "
                "cut it with --max-shard; what was written is kept for the next run"
            ) from error
        raise
    shutil.rmtree(replaced, ignore_errors=True)
    _remove(lock, partial)


def refuse_occupied(out: Path, *, replace: bool = True) -> None:
    """Refuse a name that something else than an artifact has, before any work is done.

    Args:
        out: the artifact's folder.
        replace: whether an artifact may have that name.

    Raises:
        ContractError: ``out`` exists and is neither an artifact nor an empty folder, or is an
            artifact that is not to be replaced.
    """
    if out.name in ("", ".."):
        raise ContractError(f"--out {out}: expected the name of a new folder; give one")
    if not (out / MANIFEST_FILE).is_file() and not _is_free(out):
        raise ContractError(
            f"{out}: exists and is not an artifact (no {MANIFEST_FILE}); name another --out"
        )
    if not replace and not _is_free(out):
        raise ContractError(
            f"{out}: holds an artifact{_named(out)}, expected none with --no-replace; "
            "name another --out, or leave --no-replace out"
        )


def note_of_replaced(out: Path, *, is_proved: bool) -> str:
    """What an export to ``out`` will replace, and when; empty where nothing is there.

    Args:
        out: the artifact's folder.
        is_proved: whether the new artifact is compared with PyTorch before it takes the name.
    """
    if _is_free(out):
        return ""
    when = "passes its parity check" if is_proved else "is complete"
    return (
        f"{out}: the artifact there{_named(out)} is replaced when the new one {when}; "
        "--no-replace keeps it"
    )


def _named(out: Path) -> str:
    """Model and recipe of an artifact, as far as its manifest can be read."""
    try:
        content = json.loads((out / MANIFEST_FILE).read_bytes())
        return f" ({content['origin']['name']}, {content['quant']} for {content['target']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _is_worth_keeping(error: TramontaneError, staging: Staging) -> bool:
    """Weights that were written are good where disk or machine alone were in the way."""
    return isinstance(error, ContractError) and staging.journal.num_noted > 0


def partial_of(out: Path) -> Path:
    """Where an artifact lies until it is whole."""
    return out.with_name(f".{out.name}.partial")


def _begin(partial: Path, identity: Identity, *, resume: bool) -> Staging:
    folder, journal = partial / _FOLDER, Journal(partial / _JOURNAL)
    differences = journal.differences(identity)
    is_resumed = resume and differences == [] and folder.is_dir()
    if is_resumed:
        note = "an earlier run was interrupted: going on with it"
        _keep_weights_alone(folder)
    else:
        note = _why_over(folder, differences, resume=resume)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        journal.begin(identity)
    return Staging(folder=folder, journal=journal, is_resumed=is_resumed, note=note)


def _why_over(folder: Path, differences: list[str] | None, *, resume: bool) -> str:
    if differences is None and _is_free(folder):
        return ""
    if not resume:
        why = "as --no-resume asks"
    elif differences is None:
        why = "its journal is gone or unreadable"
    else:
        why = f"other now: {', '.join(differences)}" if differences else "its files are gone"
    return f"an earlier run was interrupted: starting over, {why}"


def _keep_weights_alone(folder: Path) -> None:
    """The rest is written anew, and another run may have written more of it (a report)."""
    for path in sorted(folder.rglob("*"), reverse=True):  # what a folder holds before itself
        if path.is_dir():
            with contextlib.suppress(OSError):  # it holds weights
                path.rmdir()
        elif not path.relative_to(folder).as_posix().startswith(DATA_FILE):
            path.unlink()


def _is_free(folder: Path) -> bool:
    """Whether nothing has that name, or an empty folder."""
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def _bring_back(out: Path, replaced: Path) -> None:
    """A run killed between its two renamings has left the old artifact under another name."""
    if replaced.exists() and _is_free(out):
        if out.exists():
            out.rmdir()
        replaced.rename(out)
    shutil.rmtree(replaced, ignore_errors=True)


def _remove(lock: filelock.BaseFileLock, partial: Path) -> None:
    """Remove the folder, its lock last: whoever finds no lock there begins to write."""
    shutil.rmtree(partial / _FOLDER, ignore_errors=True)
    (partial / _JOURNAL).unlink(missing_ok=True)
    shutil.rmtree(partial, ignore_errors=True)
    lock.release()
    if os.name == "nt":  # where an open file can't be removed
        shutil.rmtree(partial, ignore_errors=True)
