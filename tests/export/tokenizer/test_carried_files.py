"""Files that an artifact carries over are a tokenizer's, and lie in the checkpoint."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from tramontane.export.files.links import is_own
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.tokenizer.carried_files import written_anew
from tramontane.export.tokenizer.tokenizer import read_vocabulary
from tramontane.export.tokenizer.write_tokenizer import write_tokenizer
from tramontane.runtime.errors import CheckpointError, ConfigError
from tramontane.runtime.untrusted.json_text import SMALL_BYTES


@pytest.fixture
def folder(stdlib_5m: Path, tmp_path: Path) -> Path:
    """The bundled demo model, its weights linked by a second name."""
    folder = tmp_path / "model"
    shutil.copytree(stdlib_5m, folder, copy_function=os.link)
    return folder


def carry(folder: Path) -> None:
    out = folder.parent / "out"
    out.mkdir()
    with Checkpoint.open(folder) as checkpoint:
        write_tokenizer(checkpoint, out, read_vocabulary(checkpoint))


@pytest.mark.parametrize(
    "name",
    [
        "special_tokens_map.json",
        "added_tokens.json",
        "generation_config.json",
        "chat_template.jinja",
    ],
)
def test_a_link_to_another_file_of_the_disk_is_refused(folder: Path, name: str) -> None:
    secret = folder.parent / "secret.json"
    secret.write_text('{"password": 1}' if name != "added_tokens.json" else "{}")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(secret)
    with pytest.raises(CheckpointError, match=f"{name}: is a link to .*secret.json, which is out"):
        carry(folder)


def test_a_template_that_the_driver_would_not_read_is_refused(folder: Path) -> None:
    with (folder / "chat_template.jinja").open("wb") as file:
        file.truncate(SMALL_BYTES + 1)
    with pytest.raises(CheckpointError, match=r"chat_template.jinja: is larger than 67.11 MB"):
        carry(folder)


def test_a_link_within_the_checkpoint_is_followed(folder: Path) -> None:
    (folder / "map.json").write_text("{}")
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    (folder / "special_tokens_map.json").symlink_to("map.json")
    carry(folder)
    assert (folder.parent / "out/special_tokens_map.json").read_text() == "{}"


@pytest.mark.parametrize("name", ["special_tokens_map.json", "tokenizer_config.json"])
def test_what_is_carried_was_parsed_and_written_anew(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    twice = b'{"extra": 1, \t"extra": "\xe2\x82\xac", "x": [1e30, -0.5]}' + b" " * 5000
    (folder / name).write_bytes(twice)
    carry(folder)
    found = (folder.parent / "out" / name).read_bytes()
    assert b'"extra": 1' not in found
    assert len(found) < 1000
    assert json.loads(found).items() >= json.loads(twice).items()


@pytest.mark.parametrize("number", ["NaN", "1e400", "-Infinity"])
def test_a_number_that_json_has_not_is_not_carried(folder: Path, number: str) -> None:
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    (folder / "special_tokens_map.json").write_text(f'{{"x": {number}}}')
    with pytest.raises(CheckpointError, match=r"map\.json: holds a number that is not finite"):
        carry(folder)


def test_a_published_tokenizer_is_written_as_the_package_tokenizers_writes_it(
    folder: Path,
) -> None:
    published = Tokenizer.from_str(
        Tokenizer(models.BPE({"a": 0, "é": 1, "aé": 2}, [("a", "é")])).to_str(pretty=True)
    ).to_str(pretty=True)
    assert written_anew(published.encode(), what="tokenizer.json") == published.encode()


def test_a_link_into_a_hubs_cache_is_the_checkpoints_own(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "snapshots/abc", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1").write_text("{}")
    (snapshot / "a.json").symlink_to(blobs / "1")
    assert is_own(snapshot / "a.json")


@pytest.mark.parametrize("content", [b"root:x:0:0", b"[1]", b'"\\ud800"', b"\xff"])
def test_a_file_of_another_kind_is_not_carried(folder: Path, content: bytes) -> None:
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    (folder / "special_tokens_map.json").write_bytes(content)
    with pytest.raises((CheckpointError, ConfigError), match="special_tokens_map.json: "):
        carry(folder)


def test_a_template_that_is_no_text_is_not_carried(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja: not UTF-8"):
        carry(folder)


@pytest.mark.parametrize("name", ["a\nb.jinja", "a\\b.jinja", "a\udcff.jinja", "\x1b[31m.jinja"])
def test_a_template_whose_name_no_manifest_takes_is_refused(folder: Path, name: str) -> None:
    more = folder / "additional_chat_templates"
    more.mkdir()
    (more / name).write_text("x")
    with pytest.raises(CheckpointError, match="expected a name that every system has: printable"):
        carry(folder)
