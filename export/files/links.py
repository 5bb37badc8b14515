"""Whether a file of a checkpoint is one of its own, where it is a link."""

from __future__ import annotations

from pathlib import Path

from ...runtime.errors import CheckpointError


def is_own(path: Path) -> bool:
    """Whether a file lies in its folder, or in a hub's cache beside it, wherever links lead.

    A cache keeps ``snapshots/REV/NAME`` as links to ``blobs/HASH``.

    Source: huggingface_hub, "Understand caching".
    """
    folder = path.parent.resolve()
    held = (folder, folder.parent.parent / "blobs")
    return any(path.resolve().is_relative_to(place) for place in held)


def refuse_foreign(path: Path) -> None:
    """Refuse a link that would carry another file of this machine into an artifact.

    Raises:
        CheckpointError: it leads out of the checkpoint.
    """
    if not is_own(path):
        raise CheckpointError(
            f"{path}: is a link to {path.resolve()}, which is outside the checkpoint, expected a "
            "file of its own; replace the link with a copy if it is meant"
        )
