"""Is a checkpoint that is written as GGUF still the same, to our reader and to others?"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import tokenizers
from tramontane.export import write_gguf as writer
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.formats.tensor_names import HEAD
from tramontane.export.tokenizer.tokenizer import CheckpointTokenizer
from tramontane.export.write_gguf import write_gguf
from tramontane.runtime.errors import CheckpointError

Write = Callable[..., Path]
QUERY = "layers.0.attention.query.weight"


@pytest.fixture
def written(tmp_path: Path) -> Callable[[Path], Path]:
    def write(source: Path) -> Path:
        path = tmp_path / "model.gguf"
        write_gguf(Checkpoint.open(source), path)
        return path

    return write


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("MistralForCausalLM", {}),
        ("MistralForCausalLM", {"tie": True, "dtype": "bfloat16"}),
        ("LlamaForCausalLM", {"dtype": "float16", "num_key_value_heads": 4}),
    ],
)
def test_our_reader_finds_the_same_model(
    tiny_checkpoint: Write,
    written: Callable[[Path], Path],
    architecture: str,
    options: dict[str, object],
) -> None:
    source = Checkpoint.open(tiny_checkpoint(architecture, **options))
    found = Checkpoint.open(written(source.path))
    assert found.config == source.config
    assert found.parameters == source.parameters
    for name in source.parameters:
        np.testing.assert_array_equal(found.read(name), source.read(name), err_msg=name)


@pytest.mark.parametrize(("dtype", "kind"), [("float32", "F32"), ("bfloat16", "BF16")])
def test_matrices_keep_their_type_and_vectors_are_float32(
    tiny_checkpoint: Write, written: Callable[[Path], Path], dtype: str, kind: str
) -> None:
    reader = gguf.GGUFReader(written(tiny_checkpoint(dtype=dtype)))
    for tensor in reader.tensors:
        expected = kind if len(tensor.shape) > 1 else "F32"
        assert tensor.tensor_type.name == expected, tensor.name
    assert reader.fields["general.architecture"].contents() == "llama"


def test_a_tied_head_is_left_out(tiny_checkpoint: Write, written: Callable[[Path], Path]) -> None:
    path = written(tiny_checkpoint(tie=True))
    assert "output.weight" not in {tensor.name for tensor in gguf.GGUFReader(path).tensors}
    assert HEAD in Checkpoint.open(path).parameters


def test_what_was_quantized_is_widened(
    tiny_checkpoint: Write, as_gguf: Write, tmp_path: Path
) -> None:
    source = Checkpoint.open(as_gguf(tiny_checkpoint(), kind="Q8_0"))
    write_gguf(source, tmp_path / "again.gguf")
    again = Checkpoint.open(tmp_path / "again.gguf")
    assert again.published.tensors["blk.0.attn_q.weight"].dtype == "F32"
    np.testing.assert_array_equal(again.read(QUERY), source.read(QUERY))


def test_rows_in_the_wrong_order_are_found_by_reading_back(
    tiny_checkpoint: Write, written: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "halves_to_pairs", lambda values, **_: values)
    source = Checkpoint.open(tiny_checkpoint())
    found = Checkpoint.open(written(source.path))
    assert not np.array_equal(found.read(QUERY), source.read(QUERY))


def test_the_tokenizer_reads_the_same(
    tiny_checkpoint: Write, written: Callable[[Path], Path]
) -> None:
    source = Checkpoint.open(tiny_checkpoint())
    found = Checkpoint.open(written(source.path))
    ids = []
    for checkpoint in (source, found):
        tokenizer = CheckpointTokenizer.read(checkpoint)
        text = "def f(x):\n\treturn  'é\u2603'"
        ids.append((tokenizer.vocabulary.prompt_start, tokenizer.codec.encode(text)))
    assert ids[0] == ids[1]


def test_another_kind_of_tokenizer_is_left_out_and_the_file_takes_token_ids(
    tiny_checkpoint: Write, written: Callable[[Path], Path]
) -> None:
    source = tiny_checkpoint()
    (source / "tokenizer.model").unlink()
    byte_level = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1}, []))
    byte_level.save(str(source / "tokenizer.json"))
    fields = gguf.GGUFReader(written(source)).fields
    assert fields["tokenizer.ggml.model"].contents() == "no_vocab"
    assert "tokenizer.ggml.tokens" not in fields
    assert fields["llama.vocab_size"].contents() == Checkpoint.open(source).config.vocab_size


@pytest.mark.slow
def test_scores_beyond_the_tokenizer_have_tokens_that_no_text_has(
    tiny_checkpoint: Write, written: Callable[[Path], Path]
) -> None:
    fields = gguf.GGUFReader(written(tiny_checkpoint(vocab_size=2050))).fields
    assert fields["tokenizer.ggml.tokens"].contents()[-2:] == ["[PAD2048]", "[PAD2049]"]
    assert fields["tokenizer.ggml.token_type"].contents()[-2:] == [5, 5]


def test_equal_checkpoints_give_equal_bytes(tiny_checkpoint: Write, tmp_path: Path) -> None:
    source = Checkpoint.open(tiny_checkpoint(dtype="bfloat16"))
    paths = [tmp_path / "a.gguf", tmp_path / "b.gguf"]
    for path in paths:
        write_gguf(source, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_file_has_its_name_only_when_it_is_whole(
    tiny_checkpoint: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Checkpoint.open(tiny_checkpoint())

    def fail(*_: object) -> None:
        raise CheckpointError("unreadable")

    monkeypatch.setattr(Checkpoint, "read", fail)
    with pytest.raises(CheckpointError, match="unreadable"):
        write_gguf(source, tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()
    assert list(tmp_path.iterdir()) == []


def test_what_lies_beside_a_file_stays_whatever_its_name(
    tiny_checkpoint: Write, tmp_path: Path
) -> None:
    theirs = tmp_path / "model.gguf.partial"
    theirs.write_text("mine")
    write_gguf(Checkpoint.open(tiny_checkpoint()), tmp_path / "model.gguf")
    assert theirs.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.gguf", theirs.name]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("folder", "exists and is no regular file, expected the name of the GGUF file"),
        (".", "exists and is no regular file"),
        ("folder/..", "exists and is no regular file"),
        ("fifo", "exists and is no regular file"),
        ("missing/a.gguf", r"cannot be written \(No such file or directory\), expected a folder"),
        ("file/a.gguf", r"cannot be written \(Not a directory\), expected a folder"),
    ],
)
def test_a_place_where_no_file_can_be_written_is_refused(
    tiny_checkpoint: Write, tmp_path: Path, name: str, expected: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "fifo")
    source = Checkpoint.open(tiny_checkpoint())
    with pytest.raises(CheckpointError, match=expected):
        write_gguf(source, tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fifo", "file", "folder"]


def test_a_disk_that_fails_is_named_and_leaves_nothing(
    tiny_checkpoint: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Checkpoint.open(tiny_checkpoint())

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", fail)
    with pytest.raises(CheckpointError, match=r"model.gguf: cannot be written \(No space left"):
        write_gguf(source, tmp_path / "model.gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_name_as_long_as_the_system_allows_is_written(
    tiny_checkpoint: Write, tmp_path: Path
) -> None:
    path = tmp_path / f"{'n' * 250}.gguf"
    write_gguf(Checkpoint.open(tiny_checkpoint()), path)
    assert path.is_file()


def test_scaled_rope_is_refused(tiny_checkpoint: Write, tmp_path: Path) -> None:
    scaling = {"rope_type": "linear", "factor": 2.0}
    source = Checkpoint.open(tiny_checkpoint("LlamaForCausalLM", rope_scaling=scaling))
    with pytest.raises(CheckpointError, match=r"rope is scaled by .*linear.*convert_hf_to_gguf"):
        write_gguf(source, tmp_path / "model.gguf")
    assert list(tmp_path.iterdir()) == []
