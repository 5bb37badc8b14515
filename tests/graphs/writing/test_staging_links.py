"""Are links followed to where the artifact belongs, and links to nowhere refused?"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tramontane.graphs.writing.partial_folder import partial_of
from tramontane.graphs.writing.staging import refuse_occupied, staged
from tramontane.runtime.errors import (
    ContractError,
)

from .staged_folders import IDENTITY, interrupt, names, write_old

LINKS = {
    "to an artifact": ("real", True),
    "to an empty folder": ("real", False),
    "to a name that is free": ("real", None),
    "relative": ("../models/real", True),
}


@pytest.mark.parametrize("kind", LINKS)
def test_linked_artifact_is_written_where_the_link_leads(out: Path, kind: str) -> None:
    leads_to, is_artifact = LINKS[kind]
    real = out.with_name("real")
    out.parent.mkdir()
    out.symlink_to(leads_to if kind == "relative" else real)
    if is_artifact:
        write_old(real)
    elif is_artifact is False:
        real.mkdir()
    for text in ("first", "second"):
        with staged(out, identity=IDENTITY) as staging:
            assert partial_of(out) == real.with_name(".real.partial")
            assert staging.folder.is_relative_to(partial_of(out))
            write_old(staging.folder, text=text)
        assert out.is_symlink()
        assert not real.is_symlink()
        assert (real / "config.json").read_text() == text
        assert names(out.parent) == ["artifact", "real"]


def test_link_to_a_link_and_a_linked_parent_are_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "parent").symlink_to("disk")
    (tmp_path / "disk" / "second").symlink_to("real")
    out = tmp_path / "parent" / "first"
    out.symlink_to("second")
    with staged(out, identity=IDENTITY) as staging:
        write_old(staging.folder)
    assert names(tmp_path / "disk") == ["first", "real", "second"]
    assert (out / "config.json").read_text() == "old"
    assert (tmp_path / "disk" / "first").is_symlink()


@pytest.mark.parametrize("leads_to", ["artifact", "missing/artifact"])
def test_link_that_leads_nowhere_is_refused_before_any_work(out: Path, leads_to: str) -> None:
    out.parent.mkdir()
    out.symlink_to(leads_to)
    with pytest.raises(ContractError, match=r"artifact: a link .*; .*name another folder"):
        refuse_occupied(out)
    assert names(out.parent) == ["artifact"]


def test_interrupted_run_into_a_linked_artifact_is_resumed_and_keeps_the_older_one(
    out: Path,
) -> None:
    write_old(out.with_name("real"))
    out.symlink_to("real")
    interrupt(out)
    assert "resuming it" in interrupt(out)
    assert (out / "config.json").read_text() == "old"
    assert names(out.parent) == [".real.partial", "artifact", "real"]


def test_folder_where_a_disk_is_mounted_is_refused_before_any_work(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out.mkdir(parents=True)
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == out)
    message = r"artifact: a disk is mounted there, .*; name a folder in it, such as .*artifact$"
    with pytest.raises(ContractError, match=message):
        refuse_occupied(out)
