"""A folder for a new checkpoint, which takes its name when the checkpoint is whole."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from ...graphs.writing.own_folders import free_bytes, refuse_mounted, target_of
from ...graphs.writing.partial_folder import PartialKind, open_partial
from ...runtime.durable import rename, sync_names_of, sync_tree
from ...runtime.errors import CheckpointError, ContractError
from ...runtime.sizes import format_bytes
from ..formats.huggingface import CONFIG_FILE
from ..formats.mistral import PARAMS_FILE

_KIND = PartialKind(
    content="a checkpoint that is not whole yet",
    made_by="synthesize",
    another="another synthesize",
    advice="name another folder",
)


@contextlib.contextmanager
def new_checkpoint_folder(out: Path, needed_bytes: int) -> Iterator[Path]:
    """Yield a new folder that takes the name ``out`` when the block succeeds, and else is removed.

    Where ``out`` is a link, it stays, and the folder takes the name that it leads to.

    Raises:
        CheckpointError: ``out`` is there and not empty, its disk has less than ``needed_bytes``,
            or another run is writing it; it is a mounted disk, or a link that leads nowhere.
    """
    try:
        target = target_of(out)
        _refuse_occupied(out)
        refuse_mounted(target)
        _refuse_full_disk(target, needed_bytes)
        partial = open_partial(out, _KIND)
    except ContractError as error:
        raise CheckpointError(str(error)) from error
    try:
        folder = partial.path / "checkpoint"
        shutil.rmtree(folder, ignore_errors=True)  # a killed run left it
        folder.mkdir()
        yield folder
        _take_name(folder, target)
    finally:
        partial.remove()


def _take_name(folder: Path, out: Path) -> None:
    try:
        if out.exists():
            out.rmdir()  # it was empty, and is not removed where it is not
        sync_tree(folder)
        rename(folder, out)
        sync_names_of(out)
    except OSError as error:
        raise CheckpointError(
            f"{out}: cannot take its name ({error}), expected it to stay new or empty; name "
            "another one"
        ) from error


def _refuse_occupied(out: Path) -> None:
    if out.name in ("", ".."):
        raise CheckpointError(f"{out}: expected the name of a new folder; give one")
    if any((out / name).is_file() for name in (CONFIG_FILE, PARAMS_FILE)):
        raise CheckpointError(
            f"{out}: holds a checkpoint already, expected a new folder; name another one, or "
            "remove this one if it is not needed"
        )
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise CheckpointError(f"{out}: exists, expected a new or empty folder; name another one")


def _refuse_full_disk(out: Path, needed_bytes: int) -> None:
    free = free_bytes(out)
    if free < needed_bytes:
        raise CheckpointError(
            f"{out}: {format_bytes(free)} free on its disk, expected at least "
            f"{format_bytes(needed_bytes)}; make room, take fewer layers or name another folder"
        )
