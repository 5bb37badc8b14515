"""Is a checkpoint's name, licence and repository read from where it was published?"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tramontane.errors import CheckpointError, ConfigError
from tramontane.export.checkpoint import Checkpoint
from tramontane.export.origin import read_origin

Write = Callable[..., Path]
CARD = """---
license: other
license_name: "mrl: research"
license_link: https://example.org/licence
language: [en, fr]
tags: [theirs]
base_model: someone/else
---

# A model
license: mit
"""


def origin(path: Path, **options: Any) -> dict[str, Any]:
    return read_origin(Checkpoint.open(path), **options)


@pytest.fixture
def folder(tiny_checkpoint: Write, tmp_path: Path) -> Path:
    """A checkpoint in a folder that has a name."""
    return tiny_checkpoint().rename(tmp_path / "Mistral-Tiny-v0.1")


def test_folder_without_a_card_has_a_name_alone(folder: Path) -> None:
    assert origin(folder) == {"name": "Mistral-Tiny-v0.1"}


def test_folder_is_named_however_it_is_reached(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "below").mkdir()
    monkeypatch.chdir(folder)
    for path in (Path(), Path("below") / ".."):
        assert origin(path) == {"name": "Mistral-Tiny-v0.1"}


def test_licence_and_language_come_from_the_card_and_nothing_else_does(folder: Path) -> None:
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    assert origin(folder) == {
        "name": "Mistral-Tiny-v0.1",
        "license": "other",
        "license_name": "mrl: research",
        "license_link": "https://example.org/licence",
        "language": ["en", "fr"],
    }


def test_embedded_model_has_the_licence_of_its_card(stdlib_5m: Path) -> None:
    assert origin(stdlib_5m) == {"name": "stdlib-5m", "license": "apache-2.0"}


@pytest.mark.parametrize("text", ["", "# A model\n\nlicense: mit\n", "---\n---\n\n# A model\n"])
def test_card_without_metadata_says_nothing(folder: Path, text: str) -> None:
    (folder / "README.md").write_text(text)
    assert origin(folder) == {"name": "Mistral-Tiny-v0.1"}


@pytest.mark.parametrize("metadata", ["license: [mit", "license: mit\n\tlanguage: en", "- mit"])
def test_card_whose_metadata_cannot_be_read_is_named(folder: Path, metadata: str) -> None:
    card = folder / "README.md"
    card.write_text(f"---\n{metadata}\n---\n")
    with pytest.raises(CheckpointError) as refusal:
        origin(folder)
    message = str(refusal.value)
    assert message.startswith(f"{card}: its metadata cannot be read (")
    assert message.endswith("); mend or remove it")


def test_card_that_is_not_text_is_named(folder: Path) -> None:
    (folder / "README.md").write_bytes(b"---\nlicense: \xff\xfe\n---\n")
    with pytest.raises(CheckpointError, match=r"README\.md: its metadata cannot be read \("):
        origin(folder)


def test_repository_is_known_in_a_hubs_cache(folder: Path, tmp_path: Path) -> None:
    snapshots = tmp_path / "hub" / "models--mistralai--Mistral--7B-v0.1" / "snapshots"
    snapshots.mkdir(parents=True)
    cached = Path(shutil.move(folder, snapshots / "0123456789abcdef"))
    found = origin(cached)
    assert found == {"name": "Mistral--7B-v0.1", "base_model": "mistralai/Mistral--7B-v0.1"}
    assert origin(cached, base_model="me/mine")["base_model"] == "me/mine"


def test_files_of_a_hubs_cache_may_be_links(folder: Path, tmp_path: Path) -> None:
    cached = tmp_path / "hub" / "models--org--name" / "snapshots" / "0123"
    shutil.copytree(folder, cached)
    for path in cached.iterdir():
        blob = cached.parents[1] / "blobs" / path.name
        blob.parent.mkdir(exist_ok=True)
        path.rename(blob)
        path.symlink_to(blob)
    assert origin(cached) == {"name": "name", "base_model": "org/name"}


def test_folder_that_is_named_almost_as_in_a_cache_is_none(folder: Path, tmp_path: Path) -> None:
    for name in ("models--name", "datasets--org--name", "models-org-name", "my-models--org--name"):
        path = Path(shutil.copytree(folder, tmp_path / name))
        assert origin(path) == {"name": name}


def test_repository_that_is_given_is_kept(folder: Path) -> None:
    found = origin(folder, base_model="mistralai/Mistral-7B-v0.1")
    assert found == {"name": "Mistral-Tiny-v0.1", "base_model": "mistralai/Mistral-7B-v0.1"}


@pytest.mark.parametrize(
    "given",
    ["", "Mistral-7B-v0.1", "a/b/c", "/b", "a/", "a b/c", "https://example.org/a/b", "a/b\n"],
)
def test_repository_in_another_form_is_refused(folder: Path, given: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        origin(folder, base_model=given)
    expected = f"--base-model {given}: expected ORGANIZATION/NAME, as on a hub"
    assert str(refusal.value) == expected


def test_gguf_is_named_by_its_file_and_has_the_licence_of_its_metadata(
    tiny_checkpoint: Write, as_gguf: Write
) -> None:
    source = tiny_checkpoint()
    assert origin(as_gguf(source, name="tiny.Q8_0.gguf")) == {"name": "tiny.Q8_0"}
    path = as_gguf(source, name="tiny.gguf", metadata={"general.license": "apache-2.0"})
    assert origin(path) == {"name": "tiny", "license": "apache-2.0"}
    path = as_gguf(source, name="other.gguf", metadata={"general.license": 7})
    assert origin(path, base_model="a/b") == {"name": "other", "base_model": "a/b"}


def test_card_beside_mistrals_layout_is_read(tiny_checkpoint: Write, as_mistral: Write) -> None:
    folder = as_mistral(tiny_checkpoint())
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert origin(folder) == {"name": folder.name, "license": "apache-2.0"}
