"""Are two tokenizer files of one checkpoint refused where they are of different tokenizers?"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.options import ExportOptions
from tramontane.export.planning.preflight import preflight
from tramontane.export.tokenizer.tokenizer import read_vocabulary
from tramontane.export.tokenizer.two_files import refuse_two_tokenizers
from tramontane.export.tokenizer.write_tokenizer import MADE, write_tokenizer
from tramontane.runtime.errors import CheckpointError

Write = Callable[..., Path]


@pytest.fixture
def both(tiny_checkpoint: Write, tmp_path: Path) -> Path:
    """A folder with the SentencePiece model, and a tokenizer.json that was made from it."""
    folder, made = tiny_checkpoint(), tmp_path / "made"
    made.mkdir()
    checkpoint = Checkpoint.open(folder)
    assert write_tokenizer(checkpoint, made, read_vocabulary(checkpoint)) == MADE
    (folder / "tokenizer.json").write_bytes((made / "tokenizer.json").read_bytes())
    return folder


def with_metaspace(folder: Path) -> None:
    """The rule for spaces that transformers writes with legacy: false."""
    path = folder / "tokenizer.json"
    described = json.loads(path.read_bytes())
    spaces = {"replacement": "\u2581", "prepend_scheme": "first", "split": False}
    described["normalizer"] = None
    described["pre_tokenizer"] = {"type": "Metaspace", **spaces}
    path.write_text(json.dumps(described))


def change(folder: Path, **vocabulary: str) -> None:
    """Exchange the ids of two tokens of tokenizer.json."""
    path = folder / "tokenizer.json"
    described = json.loads(path.read_bytes())
    ids = described["model"]["vocab"]
    for one, other in vocabulary.items():
        ids[one], ids[other] = ids[other], ids[one]
    path.write_text(json.dumps(described))


def test_files_of_one_tokenizer_are_accepted(both: Path, tmp_path: Path) -> None:
    preflight(both, tmp_path / "out", ExportOptions(quant="fp32", target="ort"))


def test_another_rule_for_spaces_in_front_is_no_other_tokenizer(both: Path) -> None:
    with_metaspace(both)
    refuse_two_tokenizers(Checkpoint.open(both))


def test_files_of_different_tokenizers_are_refused_with_the_first_text(
    both: Path, tmp_path: Path
) -> None:
    change(both, a="b")
    with pytest.raises(
        CheckpointError,
        match=r"tokenizer\.json: token \d+ of '.*' is \d+, and \d+ in tokenizer\.model beside it, "
        r"expected the same tokens in both; remove the one that is not of this model$",
    ):
        preflight(both, tmp_path / "out", ExportOptions(quant="fp32", target="ort"))
    for name in ("tokenizer.json", "tokenizer.model"):
        kept = (both / name).read_bytes()
        (both / name).unlink()
        refuse_two_tokenizers(Checkpoint.open(both))
        (both / name).write_bytes(kept)


def test_file_that_cannot_be_read_is_left_to_the_export(both: Path) -> None:
    (both / "tokenizer.json").write_text("{")
    refuse_two_tokenizers(Checkpoint.open(both))
