"""Files that torch.save wrote: the same numbers as PyTorch reads, and no code of theirs is run."""

from __future__ import annotations

import collections
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tramontane.export.files.held_files import HeldFile
from tramontane.export.formats.checkpoint import Checkpoint
from tramontane.export.formats.weight_files import torch_file
from tramontane.export.formats.weight_files.torch_file import read_headers
from tramontane.runtime.errors import CheckpointError

Write = Callable[..., Path]
BIN = "pytorch_model.bin"


def to_bin(folder: Path, *, parts: int = 1, is_indexed: bool = True) -> Path:
    """Save a folder's weights again with torch.save."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if parts == 1:
        torch.save(tensors, folder / BIN)
        return folder
    weight_map = {}
    for part in range(parts):
        file = f"pytorch_model-{part + 1:05}-of-{parts:05}.bin"
        own = dict(list(tensors.items())[part::parts])
        torch.save(own, folder / file)
        weight_map |= dict.fromkeys(own, file)
    if is_indexed:
        (folder / f"{BIN}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.mark.situation(
    "`pytorch_model.bin`: one file, and shards with or without an index", package="torch"
)
@pytest.mark.parametrize(
    ("parts", "is_indexed", "dtype"),
    [(1, True, "float32"), (3, True, "bfloat16"), (2, False, "float16")],
)
def test_bin_files_read_as_the_same_weights_in_safetensors(
    tiny_checkpoint: Write, parts: int, is_indexed: bool, dtype: str
) -> None:
    expected = Checkpoint.open(tiny_checkpoint(dtype=dtype))
    folder = to_bin(tiny_checkpoint(dtype=dtype), parts=parts, is_indexed=is_indexed)
    with Checkpoint.open(folder) as found:
        assert len([name for name in found.hashes() if name.endswith(".bin")]) == parts
        for name in expected.parameters:
            np.testing.assert_array_equal(found.read(name), expected.read(name))
        (folder / next(n for n in found.hashes() if n.endswith(".bin"))).touch()
        with pytest.raises(CheckpointError, match=r"\.bin: was written to"):
            found.refuse_changed()


def test_safetensors_are_preferred_as_in_transformers(tiny_checkpoint: Write) -> None:
    folder = tiny_checkpoint()
    torch.save({"a": torch.ones(2)}, folder / BIN)
    with Checkpoint.open(folder) as checkpoint:
        assert BIN not in checkpoint.hashes()


BASE = torch.arange(24, dtype=torch.float32)
TENSORS: dict[str, torch.Tensor] = {
    "view": BASE[6:18].reshape(3, 4),
    "same storage": BASE.reshape(6, 4),
    "transposed": BASE.reshape(6, 4).t(),
    "every second row": BASE.reshape(6, 4)[::2],
    "every third": BASE[::3],
    "columns": BASE.reshape(6, 4)[:, 1:3].bfloat16().t(),
    "repeated": torch.ones(1).expand(3, 2),
    "double": BASE.double().reshape(4, 6),
    "float8": BASE.reshape(4, 6).to(torch.float8_e4m3fn),
    "float8, wide range": BASE.reshape(4, 6).to(torch.float8_e5m2),
    "parameter": torch.nn.Parameter(BASE.reshape(2, 12)),
    "row": BASE[:5].reshape(1, 5),
}


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_every_view_gives_the_numbers_that_pytorch_reads(tmp_path: Path, rows: int) -> None:
    torch.save(TENSORS, tmp_path / BIN)
    headers = {header.name: header for header in read_headers(HeldFile(tmp_path / BIN))}
    expected = torch.load(tmp_path / BIN, weights_only=True)
    for name, tensor in expected.items():
        assert headers[name].shape == tuple(tensor.shape)
        found = np.concatenate(list(headers[name].slices(rows)))
        np.testing.assert_array_equal(found, tensor.detach().float(), err_msg=name)


class _RunsCode:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._path),)


@pytest.mark.parametrize("is_nested", [False, True])
def test_file_that_would_run_code_is_refused_and_runs_none(
    tmp_path: Path, is_nested: bool
) -> None:
    attack = _RunsCode(tmp_path / "ran")
    torch.save({"a": torch.ones(2), "b": attack} if is_nested else attack, tmp_path / BIN)
    with pytest.raises(
        CheckpointError, match=r"would run \w+\.mkdir.*nothing was run: do not trust"
    ):
        read_headers(HeldFile(tmp_path / BIN))
    assert not (tmp_path / "ran").exists()


def repacked(path: Path, change: Callable[[str, bytes], bytes]) -> None:
    """Write an archive again with other records."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, change(name, content))


def big_endian(name: str, content: bytes) -> bytes:
    return b"big" if name.endswith("byteorder") else content


def cut_storage(name: str, content: bytes) -> bytes:
    return content[:4] if "/data/" in name else content


def no_pickle(name: str, content: bytes) -> bytes:
    return b"" if name.endswith("data.pkl") else content


def nonsense(name: str, content: bytes) -> bytes:
    return b"\x80\x02}(" if name.endswith("data.pkl") else content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (big_endian, "byte order of another kind of machine"),
        (cut_storage, "a does not lie within its storage"),
        (no_pickle, r"unreadable \(ValueError\('no data.pkl"),
        (nonsense, r"unreadable \(.*download it again"),
    ],
)
def test_damaged_file_is_refused(
    tmp_path: Path, change: Callable[[str, bytes], bytes], message: str
) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / BIN)
    repacked(tmp_path / BIN, change)
    with pytest.raises(CheckpointError, match=message):
        read_headers(HeldFile(tmp_path / BIN))


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_truncated_file_is_named(tmp_path: Path, size: int) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / BIN)
    (tmp_path / BIN).write_bytes((tmp_path / BIN).read_bytes()[:size])
    with pytest.raises(CheckpointError, match=rf"{BIN}: (is|unreadable) .*download it again"):
        read_headers(HeldFile(tmp_path / BIN))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(2)], "holds a list, expected a dictionary of tensors"),
        ({}, "holds no tensors, expected a dictionary of tensors"),
        ({"state_dict": {"a": torch.ones(2)}}, "'state_dict' is a dict, expected a tensor; if"),
        ({"epoch": 3}, "'epoch' is a int, expected a tensor"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / BIN)
    with pytest.raises(CheckpointError, match=message):
        read_headers(HeldFile(tmp_path / BIN))


def test_old_format_is_named(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / BIN, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="format from before version 1.6"):
        read_headers(HeldFile(tmp_path / BIN))


def test_reference_to_something_else_than_a_storage_is_refused(tmp_path: Path) -> None:
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return ("module", "a", "b") if obj == b"x" else None

    torch.save({"a": torch.ones(2)}, tmp_path / BIN)
    out = io.BytesIO()
    Pickler(out).dump({"a": b"x"})
    repacked(tmp_path / BIN, lambda n, c: out.getvalue() if n.endswith("data.pkl") else c)
    with pytest.raises(CheckpointError, match="a reference to 'module'"):
        read_headers(HeldFile(tmp_path / BIN))


def described(path: Path, content: Callable[[Any], Any], storage: str = "FloatStorage") -> None:
    """Write an archive whose pickle says of a storage of 8 bytes what no PyTorch would write."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return ("storage", getattr(torch, storage), "0", "cpu", 2) if obj == b"x" else None

    class Made:
        def __init__(self, *arguments: Any) -> None:
            self.arguments = arguments

        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor_v2, self.arguments

    torch.save({"a": torch.ones(2)}, path)
    out = io.BytesIO()
    Pickler(out, protocol=2).dump(content(Made))
    repacked(path, lambda n, c: out.getvalue() if n.endswith("data.pkl") else c)


@pytest.mark.parametrize(
    ("start", "shape", "strides"),
    [
        (0, (2,), (1.0,)),
        (0, (2.0,), (1,)),
        (0, (2,), (1, 1)),
        (0, [2], [1]),
        (0, (True,), (1,)),
        (0, 2, 1),
        (0, None, None),
        (0, ("2",), ("1",)),
        (0, (-2,), (1,)),
        (0, (2,), (-1,)),
        (0.5, (1,), (1,)),
        (-1, (1,), (1,)),
    ],
)
def test_sizes_that_are_no_whole_numbers_are_refused(
    tmp_path: Path, start: Any, shape: Any, strides: Any
) -> None:
    described(tmp_path / BIN, lambda made: {"a": made(b"x", start, shape, strides, False, {})})
    with pytest.raises(CheckpointError, match=rf"{BIN}: unreadable .*download it again"):
        read_headers(HeldFile(tmp_path / BIN))


@pytest.mark.parametrize(
    ("pickled", "said"),
    [
        (b"Nr\x00\xff\xff\xff.", "LONG_BINPUT keeps value 4294967040"),
        (b"Np2000000000\n.", "PUT keeps value 2000000000"),
        (b"})" + b"2\x86" * 60 + b"Ns.", "DUP uses a value twice"),
        (b"})q\x00h\x00" + b"\x86q\x00h\x00" * 60 + b"\x86Ns.", "BINGET uses a value twice"),
        (b")\x94" + b"h\x00" * 2 + b"\x86.", "BINGET uses a value twice"),
        (b"}ctorch\nSize\n)\x85\x85RNs.", "sizes"),
    ],
)
def test_pickle_from_which_much_is_made_is_refused_at_once(
    tmp_path: Path, pickled: bytes, said: str
) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / BIN)
    content = b"\x80\x02" + pickled
    repacked(tmp_path / BIN, lambda n, c: content if n.endswith("data.pkl") else c)
    with pytest.raises(CheckpointError, match=rf"{BIN}: unreadable .*{said}.*download it again"):
        read_headers(HeldFile(tmp_path / BIN))


def test_name_of_a_tensor_that_is_a_number_of_any_length_is_shown(tmp_path: Path) -> None:
    described(tmp_path / BIN, lambda _: {10**5000: 1})
    with pytest.raises(
        CheckpointError, match=r"<a whole number of 16610 bits> is a int, expected"
    ):
        read_headers(HeldFile(tmp_path / BIN))


def test_sound_sizes_are_read(tmp_path: Path) -> None:
    described(tmp_path / BIN, lambda made: {"a": made(b"x", 0, (2,), (1,), False, {})})
    (header,) = read_headers(HeldFile(tmp_path / BIN))
    assert header.shape == (2,)


def test_tensor_without_a_storage_is_refused(tmp_path: Path) -> None:
    described(tmp_path / BIN, lambda made: {"a": made("x", 0, (2,), (1,), False, {})})
    with pytest.raises(CheckpointError, match=rf"{BIN}: unreadable .*download it again"):
        read_headers(HeldFile(tmp_path / BIN))


@pytest.mark.parametrize("attribute", ["items", "__len__", "__eq__", "__bool__", "__iter__"])
def test_attributes_that_a_file_gives_its_dictionary_change_nothing(
    tmp_path: Path, attribute: str
) -> None:
    class Dictionary:
        def __init__(self, tensor: Any) -> None:
            self.tensor = tensor

        def __reduce__(self) -> Any:
            state, items = {attribute: 3}, iter([("a", self.tensor)])
            return collections.OrderedDict, (), state, None, items

    described(tmp_path / BIN, lambda made: Dictionary(made(b"x", 0, (2,), (1,), False, {})))
    (header,) = read_headers(HeldFile(tmp_path / BIN))
    assert header.name == "a"


@pytest.mark.parametrize("record", ["data.pkl", "byteorder", "data/0"])
def test_compressed_record_is_refused(tmp_path: Path, record: str) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / BIN)
    with zipfile.ZipFile(tmp_path / BIN) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / BIN, "w") as archive:
        for name, content in records.items():
            how = zipfile.ZIP_DEFLATED if name.endswith(record) else zipfile.ZIP_STORED
            archive.writestr(name, content, compress_type=how)
    with pytest.raises(CheckpointError, match=rf"unreadable .*{record} is compressed"):
        read_headers(HeldFile(tmp_path / BIN))


def test_lack_of_memory_is_not_called_a_damaged_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_: pickle.Unpickler) -> Any:
        raise MemoryError

    torch.save({"a": torch.ones(2)}, tmp_path / BIN)
    monkeypatch.setattr(torch_file._Unpickler, "load", load)
    with pytest.raises(MemoryError):
        read_headers(HeldFile(tmp_path / BIN))
