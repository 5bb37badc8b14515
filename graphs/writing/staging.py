"""A folder for a new artifact, which takes its name when the artifact is whole.

While an artifact is made, the partial folder beside ``out`` holds it, files that are made before
its weights, the journal of its weights, and for a moment the artifact that is replaced. It is
removed when the artifact takes its name, or when the artifact is refused; a run that is
interrupted or killed leaves it for the next run to resume. Where ``out`` is a link, all this
happens where it leads, and the link stays.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...runtime.contract import DATA_FILE, MANIFEST_FILE
from ...runtime.durable import rename, sync_names_of, sync_tree
from ...runtime.errors import ContractError, TraceError, TramontaneError, printable
from ...runtime.untrusted.json_text import read_object
from .journal import Identity, Journal
from .own_folders import files_of_artifact, foreign_files, is_free, refuse_mounted, target_of
from .partial_folder import PartialKind, open_partial

_FOLDER, _EARLY, _JOURNAL, _SCRATCH = "artifact", "early", "journal.jsonl", "scratch"
_REPLACED = "replaced"
_NAMES = 200  # characters of what is other than in an earlier run
_KIND = PartialKind(
    content="an artifact that is not whole yet",
    made_by="an export",
    another="another export",
    advice="name another --out",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Staging:
    """A folder that will be an artifact."""

    folder: Path
    journal: Journal
    scratch: Path  # a folder for what the export needs on its way; gone with the partial folder
    is_resumed: bool  # whether it holds what an earlier, interrupted run wrote
    note: str  # what became of such a run; empty where there was none


class Claim:
    """The partial folder of one run, before and after what decides the weights is known."""

    def __init__(self, partial: Path) -> None:
        """Empty the folder of early files, which a killed run leaves."""
        self.early = partial / _EARLY  # for files that are made before the weights
        self.staging: Staging | None = None
        self._partial = partial
        shutil.rmtree(self.early, ignore_errors=True)
        self.early.mkdir()

    def begin(self, *, identity: Identity, resume: bool = True) -> Staging:
        """The folder that takes the name.

        Args:
            identity: all that decides the bytes of the weights, by name; a run of another
                identity is not resumed.
            resume: resume an interrupted run.
        """
        self.staging = _begin(self._partial, identity, resume=resume)
        return self.staging

    def is_worth_keeping(self, error: BaseException) -> bool:
        """Whether the next run can use what is there: weights of this run, or of one before."""
        if self.staging is None:
            return (self._partial / _JOURNAL).exists()
        if not isinstance(error, TramontaneError):
            return True
        # What was written is good where disk or machine alone were in the way; a process that was
        # killed, as where memory ran out, is a TraceError.
        is_begun = self.staging.journal.num_noted > 0 or any(self.staging.scratch.iterdir())
        return isinstance(error, ContractError | TraceError) and is_begun


@contextlib.contextmanager
def staged(
    out: Path, *, identity: Identity, resume: bool = True, replace: bool = True
) -> Iterator[Staging]:
    """Yield a folder that takes the name ``out`` when the block succeeds.

    Args:
        out, replace: as ``claimed`` takes them.
        identity, resume: as ``Claim.begin`` takes them.

    Raises:
        ContractError: as ``claimed``.
    """
    with claimed(out, replace=replace) as claim:
        yield claim.begin(identity=identity, resume=resume)


@contextlib.contextmanager
def claimed(out: Path, *, replace: bool = True) -> Iterator[Claim]:
    """Yield a claim on the name ``out``; the folder that it begins takes the name at the end.

    An artifact already there stays until then. When the block raises one of our errors, nothing
    is left behind. When it is interrupted, what it wrote is kept for the next run; so it is where
    the disk or the machine failed (``ContractError``). Before the claim begins a folder, only what
    an earlier run wrote is kept.

    Args:
        out: the artifact's folder.
        replace: whether an artifact that is there is replaced, or refused.

    Raises:
        ContractError: as ``refuse_occupied``; or another run is writing ``out``, or its
            ``.out.partial`` is not ours.
    """
    refuse_occupied(out, replace=replace)
    target, partial = target_of(out), open_partial(out, _KIND)
    replaced, claim = partial.path / _REPLACED, None
    try:
        _bring_back(target, replaced)
        claim = Claim(partial.path)
        yield claim
        assert claim.staging is not None, "the block has begun no folder"
        refuse_occupied(out, replace=replace)  # it may have been made, or changed, meanwhile
        sync_tree(claim.staging.folder)
        sync_names_of(partial.path)
        if target.exists():
            rename(target, replaced)
        rename(claim.staging.folder, target)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the next run tries again
            _bring_back(target, replaced)
        if claim is None or claim.is_worth_keeping(error):
            partial.release()
        else:
            partial.remove()
        if isinstance(error, OSError) and (claim is None or claim.staging is not None):
            raise ContractError(
                f"{out}: cannot be written ({error}); where a file is too large for the disk, "
                "cut it with --max-shard; what was written is kept for the next run"
            ) from error
        raise
    partial.remove()


def refuse_occupied(out: Path, *, replace: bool = True) -> None:
    """Refuse a name that something else than an artifact has, before any work is done.

    Args:
        out: the artifact's folder.
        replace: whether an artifact may have that name.

    Raises:
        ContractError: ``out`` exists and is neither an artifact nor an empty folder, is an
            artifact that is not to be replaced or that holds other files too, is a mounted
            disk, or a link as in ``target_of``.
    """
    if out.name in ("", ".."):
        raise ContractError(f"--out {out}: expected the name of a new folder; give one")
    target = target_of(out)
    refuse_mounted(target)
    if is_free(target):
        return
    own = files_of_artifact(target)
    if own is None:
        raise ContractError(
            f"{out}: exists and is not an artifact (no {MANIFEST_FILE} of one); name another --out"
        )
    if not replace:
        raise ContractError(
            f"{out}: holds an artifact{_named(out)}, expected none with --no-replace; "
            "name another --out, or leave --no-replace out"
        )
    if foreign := foreign_files(target, own):
        raise ContractError(
            f"{out}: holds {foreign[0]} ({len(foreign)} such in all), which is not among the "
            f"files that its {MANIFEST_FILE} lists, and would be lost when the artifact is "
            "replaced; move it elsewhere or name another --out"
        )


def note_of_replaced(out: Path, *, is_proved: bool) -> str:
    """What an export to ``out`` will replace, and when; empty where nothing is there.

    Args:
        out: the artifact's folder.
        is_proved: whether the new artifact is compared with PyTorch before it takes the name.
    """
    if is_free(target_of(out)):
        return ""
    when = "passes its parity check" if is_proved else "is complete"
    return (
        f"{out}: the artifact there{_named(out)} is replaced when the new one {when}; "
        "--no-replace keeps it"
    )


def _named(out: Path) -> str:
    """Model and recipe of an artifact, as far as its manifest can be read."""
    try:
        content = read_object(out / MANIFEST_FILE)
        return f" ({content['origin']['name']}, {content['quant']} for {content['target']})"
    except (ContractError, KeyError, TypeError):
        return ""


def _begin(partial: Path, identity: Identity, *, resume: bool) -> Staging:
    folder, scratch = partial / _FOLDER, partial / _SCRATCH
    journal = Journal(partial / _JOURNAL)
    differences = journal.differences(identity)
    is_resumed = resume and differences == [] and folder.is_dir()
    if is_resumed:
        note = "an earlier run was interrupted: resuming it"
        _keep_weights_alone(folder)
    else:
        note = _why_over(folder, differences, resume=resume)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if scratch.exists():
            shutil.rmtree(scratch)  # nothing of another recipe may stay
        journal.begin(identity)
    scratch.mkdir(exist_ok=True)
    return Staging(
        folder=folder, journal=journal, scratch=scratch, is_resumed=is_resumed, note=note
    )


def _why_over(folder: Path, differences: list[str] | None, *, resume: bool) -> str:
    if differences is None and is_free(folder):
        return ""
    if not resume:
        why = "as --no-resume asks"
    elif differences is None:
        why = "its journal is missing or unreadable"
    else:
        names = printable(", ".join(differences), most=_NAMES)
        why = f"changed since: {names}" if names else "its files are missing"
    return f"an earlier run was interrupted: starting over, {why}"


def _keep_weights_alone(folder: Path) -> None:
    """The rest is written anew, and another run may have written more of it (a report)."""
    for path in sorted(folder.rglob("*"), reverse=True):  # what a folder holds before itself
        if path.is_dir():
            with contextlib.suppress(OSError):  # it holds weights
                path.rmdir()
        elif not path.relative_to(folder).as_posix().startswith(DATA_FILE):
            path.unlink()


def _bring_back(out: Path, replaced: Path) -> None:
    """A run killed between its two renamings has left the old artifact under another name."""
    if replaced.exists() and is_free(out):
        if out.exists():
            out.rmdir()
        rename(replaced, out)
    shutil.rmtree(replaced, ignore_errors=True)
