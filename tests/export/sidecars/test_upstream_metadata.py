"""Is a checkpoint's name, licence and repository read from where it was published?"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.sidecars.upstream_metadata import (
    _LICENSES,
    copy_licenses,
    read_upstream_metadata,
)
from tramontane.runtime.errors import CheckpointError, ConfigError

Write = Callable[..., Path]
LINES = ("license", "license_name", "license_link")
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
    return read_upstream_metadata(Checkpoint.open(path), **options)


def in_hub_cache(folder: Path, tmp_path: Path, *, absolute: bool) -> Path:
    """A copy as a hub's cache has it: a snapshot of links to files beside it."""
    cached = tmp_path / "hub" / "models--org--name" / "snapshots" / "0123"
    shutil.copytree(folder, cached)
    blobs = cached.parents[1] / "blobs"
    blobs.mkdir()
    for path in cached.iterdir():
        path.rename(blobs / path.name)
        path.symlink_to((blobs if absolute else Path("..", "..", "blobs")) / path.name)
    return cached


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


def test_embedded_model_has_the_licence_and_the_example_of_its_card(stdlib_5m: Path) -> None:
    assert origin(stdlib_5m) == {
        "name": "stdlib-5m",
        "license": "apache-2.0",
        "widget": [{"text": "def fibonacci("}],
    }


@pytest.mark.parametrize("text", ["", "# A model\n\nlicense: mit\n", "---\n---\n\n# A model\n"])
def test_card_without_metadata_says_nothing(folder: Path, text: str) -> None:
    (folder / "README.md").write_text(text)
    assert origin(folder) == {"name": "Mistral-Tiny-v0.1"}


@pytest.mark.parametrize(
    "card",
    [
        *(b"---\n%b\n---\n" % text for text in (b"license: [mit", b"a: b\n\tc: d", b"- mit")),
        b"---\nlicense: \xff\xfe\n---\n",
    ],
)
def test_card_whose_metadata_cannot_be_read_is_named_and_stops_nothing(
    folder: Path, card: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "README.md").write_bytes(card)
    assert origin(folder) == {"name": "Mistral-Tiny-v0.1"}
    said = capsys.readouterr().err
    assert said.startswith(f"{folder / 'README.md'}: its metadata cannot be read as YAML (")
    assert "no line names a licence" in said
    assert "look up the model's licence" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (b"license: apache-2.0\ntags: [a", {"license": "apache-2.0"}),
        (b"a: b\n\tc: d\nlicense: 'mit'  ", {"license": "mit"}),
        (
            b"title: a: b\nlicense: other\nlicense_name: my-own\nlicense_link: https://a.b/c",
            {"license": "other", "license_name": "my-own", "license_link": "https://a.b/c"},
        ),
        (b"author: \xff\nlicense: llama2", {"license": "llama2"}),
    ],
)
def test_licence_is_kept_where_its_line_can_be_read_in_broken_metadata(
    folder: Path, lines: bytes, expected: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "README.md").write_bytes(b"---\n%b\n---\nlicense: of-the-text\n" % lines)
    assert origin(folder) == {"name": "Mistral-Tiny-v0.1", **expected}
    said = capsys.readouterr().err
    assert f"license {expected['license']}" in said
    assert "what else it says is lost" in said
    assert said.count("\n") == 1


def test_repository_is_known_in_a_hubs_cache(folder: Path, tmp_path: Path) -> None:
    snapshots = tmp_path / "hub" / "models--mistralai--Mistral--7B-v0.1" / "snapshots"
    snapshots.mkdir(parents=True)
    cached = Path(shutil.move(folder, snapshots / "0123456789abcdef"))
    found = origin(cached)
    assert found == {"name": "Mistral--7B-v0.1", "base_model": "mistralai/Mistral--7B-v0.1"}
    assert origin(cached, base_model="me/mine")["base_model"] == "me/mine"


def test_files_of_a_hubs_cache_may_be_links(folder: Path, tmp_path: Path) -> None:
    cached = in_hub_cache(folder, tmp_path, absolute=True)
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
    escaped = given.replace("\n", "\\n")
    expected = f"--base-model {escaped}: expected ORGANIZATION/NAME, as on a hub"
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


def named(path: Path) -> list[str]:
    found: list[str] = origin(path).get("license_files", [])
    return found


def test_licence_texts_are_found_by_their_names_in_any_case(folder: Path) -> None:
    names = [
        "LICENSE",
        "LICENSE.txt",
        "Licence.md",
        "NOTICE",
        "copying.LESSER",
        "license (1).txt",
        "USE_POLICY.md",
        "Prohibited_Use_Policy.md",
        "ACCEPTABLE USE POLICY.txt",
        "THIRD-PARTY-NOTICES.txt",
        "COPYRIGHT",
        "PATENTS",
        "TERMS_OF_USE.md",
    ]
    others = [
        "UNLICENSE",
        "README.txt",
        "my-license.txt",
        "LICENSE\n.txt",
        "LICENSE`x`",
        "LICENSE|",
        "policy.json",
        "user_policy.md",
    ]
    for name in (*names, *others):
        (folder / name).write_text("text")
    (folder / "LICENSES").mkdir()
    assert named(folder) == sorted(names)


def test_licence_texts_have_no_name_that_an_artifact_gives_a_file(stdlib_5m: Path) -> None:
    ours = ["README.md", "manifest.json", "config.json", "tokenizer.model", "onnx", "parity"]
    assert not any(_LICENSES.fullmatch(name) for name in ours)


def test_large_files_and_links_to_elsewhere_are_left_out_and_that_is_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret").write_text("secret")
    (folder / "LICENSE").symlink_to(tmp_path / "secret")
    (folder / "NOTICE").symlink_to(tmp_path / "missing")
    (folder / "COPYING").write_bytes(bytes((1 << 20) + 1))
    (folder / "LICENSE.txt").write_text("text")
    (folder / "LICENSE.md").symlink_to("LICENSE.txt")
    capsys.readouterr()
    assert named(folder) == ["LICENSE.md", "LICENSE.txt"]
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"{folder / 'COPYING'}: is larger than 1048576 bytes, no licence's text, and is left out",
        f"{folder / 'LICENSE'}: is a link to a file outside the checkpoint, and is left out",
    ]


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff\N{COPYRIGHT SIGN} 1999\r\n".encode(),
        b"\xa9 1999\n",
        "\N{COPYRIGHT SIGN} 1999".encode("utf-16"),
        b"",
    ],
    ids=["UTF-8", "Latin-1", "UTF-16", "empty"],
)
def test_a_licence_text_is_carried_byte_for_byte(
    folder: Path, tmp_path: Path, content: bytes
) -> None:
    (folder / "NOTICE").write_bytes(content)
    checkpoint = Checkpoint.open(folder)
    copy_licenses(checkpoint, tmp_path, read_upstream_metadata(checkpoint)["license_files"])
    assert (tmp_path / "NOTICE").read_bytes() == content


COMMIT = "0123456789abcdef" * 2 + "01234567"


def test_revision_is_known_in_a_hubs_cache(folder: Path, tmp_path: Path) -> None:
    snapshots = tmp_path / "hub" / "models--org--name" / "snapshots"
    cached = Path(shutil.copytree(folder, snapshots / COMMIT))
    assert origin(cached) == {"name": "name", "base_model": "org/name", "revision": COMMIT}
    elsewhere = Path(shutil.copytree(folder, tmp_path / "snapshots" / COMMIT))
    assert "revision" not in origin(elsewhere)


def test_revision_is_known_of_files_that_are_as_the_hubs_client_wrote_them(folder: Path) -> None:
    from huggingface_hub._local_folder import write_download_metadata

    names = [path.name for path in Checkpoint.open(folder).published.files]
    for name in names:
        write_download_metadata(folder, name, COMMIT, "etag")
    assert origin(folder)["revision"] == COMMIT
    write_download_metadata(folder, names[0], COMMIT[::-1], "etag")
    assert "revision" not in origin(folder)  # of two
    write_download_metadata(folder, names[0], COMMIT, "etag")
    later = (folder / names[0]).stat().st_mtime + 60
    os.utime(folder / names[0], (later, later))
    assert "revision" not in origin(folder)  # written to since
    note = folder / ".cache" / "huggingface" / "download" / f"{names[0]}.metadata"
    for content in (b"", b"\xff", b"a\nb\nc\n", bytes(5000)):
        note.write_bytes(content)
        assert "revision" not in origin(folder)


def test_licence_texts_of_a_hubs_cache_are_followed(folder: Path, tmp_path: Path) -> None:
    (folder / "LICENSE").write_text("text")
    cached = in_hub_cache(folder, tmp_path, absolute=False)
    assert named(cached) == ["LICENSE"]
    out = tmp_path / "out"
    out.mkdir()
    copy_licenses(Checkpoint.open(cached), out, ["LICENSE"])
    assert not (out / "LICENSE").is_symlink()
    assert (out / "LICENSE").read_text() == "text"


def test_licence_text_that_changes_while_exporting_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "LICENSE").write_text("text")
    checkpoint = Checkpoint.open(folder)
    names = read_upstream_metadata(checkpoint)["license_files"]
    checkpoint.refuse_changed()
    (folder / "LICENSE").unlink()
    copy_licenses(checkpoint, tmp_path, names)
    assert (tmp_path / "LICENSE").read_text() == "text"
    with pytest.raises(CheckpointError, match="LICENSE: was removed while it was being read"):
        checkpoint.refuse_changed()


def test_gguf_file_takes_no_licence_text_of_the_folder_it_lies_in(
    tiny_checkpoint: Write, as_gguf: Write
) -> None:
    path = as_gguf(tiny_checkpoint())
    (path.parent / "LICENSE").write_text("of something else")
    assert named(path) == []


_BOMB = "\n".join(
    [
        "a: &a [x, x]",
        *(f"{b}: &{b} [*{a}, *{a}, *{a}]" for a, b in pairwise("abcdefghijklmnopqrst")),
    ]
)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (f"license: mit\n{_BOMB}", "an alias, expected none"),
        ("license: mit\nwidget: &a\n- *a", "an alias, expected none"),
        (f"license: mit\nwidget: {'[' * 99}{']' * 99}", "nested deeper than 20"),
        (f"license: mit\nwidget: {'[' * 10**5}", "nested deeper than 20"),
        ("license: mit\nwidget: !!bool 1", "the tag 'tag:yaml.org,2002:bool', expected none"),
        ("license: mit\nwidget: !!int ''", "the tag 'tag:yaml.org,2002:int', expected none"),
        ("license: mit\nwidget: !!timestamp x", "the tag 'tag:yaml.org,2002:timestamp', expected"),
        ("license: mit\nwidget: !!binary aGVsbG8=", "the tag 'tag:yaml.org,2002:binary', exp"),
        ("license: mit\nwidget: !!set {a, b}", "the tag 'tag:yaml.org,2002:set', expected none"),
        ("license: mit\nwidget: !x {a: b}", "the tag '!x', expected none"),
        (f"license: mit\na: 1{':1' * 10**5}", "200001 characters in one value, expected at most"),
        (f"license: mit\na: 1{':1' * 300}.5", "int too large to convert to float"),
        (f"license: mit\na: {'1' * 5000}", "Exceeds the limit"),
        ("license: mit\n" + "a: b\n" * 2 * 10**5, "expected at most 524288"),
    ],
)
def test_metadata_that_would_not_end_is_not_read(
    folder: Path, capsys: pytest.CaptureFixture[str], metadata: str, said: str
) -> None:
    (folder / "README.md").write_text(f"---\n{metadata}\n---\n")
    assert origin(folder) == {"name": folder.name, "license": "mit"}
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("license", "2024-01-01"),
        ("license", "[mit]"),
        ("language", "2024-01-01"),
        ("widget", "{1: a}"),
        ("widget", ".nan"),
        ("widget", "[.inf]"),
        ("widget", f"0x{'f' * 10**4}"),
        ("widget", r'"\ud800"'),
        ("language", r'{"\ud800": en}'),
        ("widget", f"[{'x' * 40_000}, {'x' * 40_000}]"),
        *((name, "x" * 1001) for name in LINES),
        *((name, "x" * 60_000) for name in LINES),
        *((name, r'"a\nb"') for name in LINES),
        *((name, r'"\e[31m"') for name in LINES),
        *((name, r'"\ud800"') for name in LINES),
        *((name, "' '") for name in LINES),
    ],
)
def test_metadata_that_an_artifact_cannot_print_are_left_out_and_that_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    (folder / "README.md").write_text(f"---\n{name}: {value}\n---\n")
    assert origin(folder) == {"name": folder.name}
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"{folder / 'README.md'}: {name} is ")
    assert said.endswith("; it is left out")
    assert len(said) < 400


def test_a_licence_has_no_blanks_around_it(folder: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: |\n  mit\nlicense_name: ' a b '\n---\n")
    assert origin(folder) == {"name": folder.name, "license": "mit", "license_name": "a b"}


def test_a_long_licence_in_a_line_of_broken_metadata_is_lost(folder: Path) -> None:
    (folder / "README.md").write_text(f"---\nlicense: {'x' * 2000}\na: [\n---\n")
    assert origin(folder) == {"name": folder.name}


def test_a_long_licence_of_a_gguf_file_is_left_out(
    tiny_checkpoint: Write, as_gguf: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = as_gguf(tiny_checkpoint(), metadata={"general.license": "x" * 2000})
    assert origin(path) == {"name": "model"}
    assert f"{path}: license is 'xxx" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "expected"), [("a\udcff", r"a\udcff"), ("a\nb", r"a\nb"), ("\x1b[31m", r"\x1b[31m")]
)
def test_a_folder_of_any_name_is_named_on_one_line_of_utf_8(
    folder: Path, name: str, expected: str
) -> None:
    renamed = folder.rename(folder.with_name(name))
    assert origin(renamed) == {"name": expected}


@pytest.mark.parametrize("name", ["models--a\nb--c", "models--a--b|c", "models--a--b c"])
def test_a_folder_in_no_hubs_form_is_no_repository(
    folder: Path, tmp_path: Path, name: str
) -> None:
    cached = shutil.copytree(folder, tmp_path / name / "snapshots" / "0123")
    assert origin(cached) == {"name": "0123"}
