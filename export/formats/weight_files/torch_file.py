"""Headers of the tensors in a file that ``torch.save`` wrote; no code of the file is run.

The file is a zip archive that compresses nothing: a pickle that describes the tensors, and a
record for each storage. The pickle may name the few constructors below; instead of them it gets
functions that note what they are given. So tensors are read from the file like those of any other
format, one at a time.

Source: PyTorch 2.13, torch/serialization.py and torch/_utils.py.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ....runtime.errors import CheckpointError
from ....runtime.untrusted.fields import shown
from ...files.held_files import HeldFile
from .stored_tensor import StoredTensor, StridedTensor

# Types of elements as safetensors names them, and their bytes.
_STORAGES = {
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "DoubleStorage": "F64",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "ShortStorage": "I16",
    "IntStorage": "I32",
    "LongStorage": "I64",
    "BoolStorage": "BOOL",
}
_DTYPES = {
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
}
_BYTES = {
    "F64": 8,
    "I64": 8,
    "F32": 4,
    "I32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
}
_LOCAL_HEADER_BYTES = 30  # of a zip archive's record, before its name
_AGAIN = "save it again as safetensors (save_pretrained of transformers)"


@dataclass(frozen=True, slots=True)
class _Record:
    """Where a storage lies."""

    offset: int
    size: int
    dtype: str  # empty: the tensor says it


@dataclass(frozen=True, slots=True)
class _Tensor:
    """What the pickle says of a tensor; sizes in elements."""

    record: _Record
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str


# Opcodes that keep a value for later, that bring it back, and that make values which a pickle of
# tensors brings back: names of constructors, texts, what constructors return, dictionaries.
_PUT = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_GET = ("GET", "BINGET", "LONG_BINGET")
_SHARED = (
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "EMPTY_DICT", "EMPTY_LIST"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
)


def _refuse_growth(pickled: bytes) -> None:
    """Refuse a pickle of a few bytes from which much is made.

    The memory of what is kept grows with the largest number that is given, and the time to hash a
    tuple doubles with each tuple that holds another one twice.

    Raises:
        ValueError: naming the opcode.
    """
    kept: set[int] = set()
    shared: set[int] = set()
    before = ""
    for opcode, argument, _ in pickletools.genops(pickled):
        name = opcode.name
        if name in _PUT:
            number = len(kept) if name == "MEMOIZE" else int(argument or 0)
            if number > len(pickled):
                raise ValueError(f"{name} keeps value {number}, expected at most {len(pickled)}")
            kept.add(number)
            (shared.add if before in _SHARED else shared.discard)(number)
        elif name == "DUP" or (name in _GET and int(argument or 0) not in shared):
            raise ValueError(f"{name} uses a value twice that no tensor shares")
        before = name


def _size(values: Any) -> tuple[int, ...]:
    """The sizes of a tensor.

    Raises:
        ValueError: they are no whole numbers.
    """
    if not isinstance(values, (tuple, list)) or any(type(value) is not int for value in values):
        raise ValueError(f"sizes {shown(values)}")
    return tuple(values)


class _CodeError(Exception):
    """The pickle names something that is no constructor of a tensor."""


class _Unpickler(pickle.Unpickler):
    """Reads a pickle that may name the constructors of tensors alone."""

    def __init__(self, content: bytes, records: dict[str, tuple[int, int]]) -> None:
        super().__init__(io.BytesIO(content))
        self._records = records

    def find_class(self, module: str, name: str) -> Any:
        known = _known()
        if (module, name) not in known:
            raise _CodeError(f"{module}.{name}")
        return known[module, name]

    def persistent_load(self, pid: Any) -> _Record:
        kind, dtype, key, *_ = pid
        if kind != "storage" or not isinstance(dtype, str):
            raise ValueError(f"a reference to {shown(kind)}")
        offset, size = self._records[key]
        return _Record(offset, size, dtype)


def _tensor(record: Any, start: Any, shape: Any, strides: Any, dtype: Any) -> _Tensor:
    """What a constructor was given, which may be anything in a file that was not made by PyTorch.

    Raises:
        ValueError: no storage, or sizes that are no whole numbers of at least 0.
    """
    is_sized = (
        isinstance(shape, tuple)
        and isinstance(strides, tuple)
        and len(shape) == len(strides)
        and all(type(size) is int and size >= 0 for size in (start, *shape, *strides))
    )
    if not isinstance(record, _Record) or not isinstance(dtype, str) or not is_sized:
        raise ValueError(f"a tensor of size {shown(shape)}, strides {shown(strides)}")
    return _Tensor(record, start, shape, strides, dtype)


def _known() -> dict[tuple[str, str], Any]:
    """What a pickle may name, made anew for each: it could change what it gets."""
    rebuild: dict[str, Callable[..., Any]] = {
        "_rebuild_tensor_v2": lambda record, start, shape, strides, *_: _tensor(
            record, start, shape, strides, record.dtype
        ),
        "_rebuild_tensor_v3": lambda record, start, shape, strides, _grad, _hooks, dtype, *_: (
            _tensor(record, start, shape, strides, dtype)
        ),
        "_rebuild_parameter": lambda tensor, *_: tensor,
    }
    return {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch", "Size"): _size,
        ("torch.storage", "UntypedStorage"): "",
        **{("torch._utils", name): function for name, function in rebuild.items()},
        **{("torch", name): dtype for name, dtype in (_STORAGES | _DTYPES).items()},
    }


def read_headers(file: HeldFile) -> list[StoredTensor | StridedTensor]:
    """Read where the tensors of a file lie.

    Raises:
        CheckpointError: it is unreadable, would run code, holds something else than a dictionary
            of tensors, or was written by PyTorch before 1.6 or on a machine that orders bytes the
            other way.
    """
    content = _unpickled(file)
    if not isinstance(content, dict) or not dict.__len__(content):
        found = "no tensors" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise CheckpointError(
            f"{file.path}: holds {found}, expected a dictionary of tensors by name; {_AGAIN}"
        )
    tensors = list(dict.items(content))  # of an OrderedDict the file may replace ``items``
    for name, value in tensors:
        if not isinstance(name, str) or not isinstance(value, _Tensor):
            raise CheckpointError(
                f"{file.path}: {shown(name)} is a {type(value).__name__}, expected a tensor; if "
                f"the model's tensors are nested in it, save those alone, or {_AGAIN}"
            )
    return [_header(file, name, tensor) for name, tensor in tensors]


def _unpickled(file: HeldFile) -> Any:
    if not zipfile.is_zipfile(file.stream()):
        first = file.read_bytes(1)
        kinds = {
            b"": "empty",
            b"\x80": "in PyTorch's format from before version 1.6, or incomplete",
        }
        found = kinds.get(first, "not a file of torch.save, or incomplete")
        raise CheckpointError(
            f"{file.path}: is {found}, expected the zip archive that torch.save "
            f"writes; download it again, or load it with PyTorch and {_AGAIN}"
        )
    try:
        with zipfile.ZipFile(file.stream()) as archive:
            records, pickled = _records(file, archive)
        _refuse_growth(pickled)
        return _Unpickler(pickled, records).load()
    except _CodeError as error:
        raise CheckpointError(
            f"{file.path}: reading it would run {error}, expected tensors alone; nothing was run: "
            f"do not trust this file, or, if you made it, {_AGAIN}"
        ) from error
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise CheckpointError(
            f"{file.path}: unreadable ({error!r}), expected a file of torch.save; download it "
            "again"
        ) from error


def _records(file: HeldFile, archive: zipfile.ZipFile) -> tuple[dict[str, tuple[int, int]], bytes]:
    """Offset and size of each storage by its key, and the pickle."""
    records, pickled = {}, b""
    for info in archive.infolist():
        inner = info.filename.partition("/")[2]
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{info.filename} is compressed")
        if inner == "data.pkl":
            pickled = archive.read(info)
        elif inner == "byteorder" and archive.read(info) != b"little":
            raise CheckpointError(
                f"{file.path}: byte order of another kind of machine, expected little; load it "
                f"with PyTorch and {_AGAIN}"
            )
        elif inner.startswith("data/"):
            head = file.read_bytes(_LOCAL_HEADER_BYTES, offset=info.header_offset)
            names = sum(int.from_bytes(head[i : i + 2], "little") for i in (26, 28))
            start = info.header_offset + _LOCAL_HEADER_BYTES + names
            records[inner.removeprefix("data/")] = (start, info.file_size)
    if not pickled:
        raise ValueError("no data.pkl in it")
    return records, pickled


def _header(file: HeldFile, name: str, tensor: _Tensor) -> StoredTensor | StridedTensor:
    shape, strides, bytes_each = tensor.shape, tensor.strides, _BYTES.get(tensor.dtype, 0)
    steps = [(n - 1) * stride for n, stride in zip(shape, strides, strict=True)]
    count = 1 + sum(steps) if math.prod(shape) else 0  # elements from the first to the last
    end = tensor.record.offset + tensor.record.size
    offset = tensor.record.offset + tensor.start * bytes_each
    if not bytes_each or offset + count * bytes_each > min(end, file.identity[2]):
        raise CheckpointError(
            f"{file.path}: {name} does not lie within its storage, expected the whole tensor; "
            "download it again"
        )
    dense = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    is_dense = all(n == 1 or a == b for n, a, b in zip(shape, strides, dense, strict=True))
    stored = StoredTensor(
        file=file,
        name=name,
        dtype=tensor.dtype,
        shape=shape if is_dense else (count,),
        offset=offset,
        size=count * bytes_each,
    )
    return stored if is_dense else StridedTensor(stored=stored, shape=shape, strides=strides)
