"""A published model, checked against its config, and the numbers of each parameter."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from ...runtime.errors import CheckpointError
from ...runtime.untrusted.files import in_utf8
from ..architectures.ministral3 import is_images_and_text
from ..config import MistralConfig
from ..files.held_files import HeldFile, Identity
from ..files.metadata_fields import read_json_object
from ..published_tokenizer.tokenizer_files import PublishedTokenizer
from .adapters.adapter import Adapter, open_adapter
from .adapters.merge import merge
from .adapters.own_tokenizer import with_tokenizer
from .huggingface import CONFIG_FILE, without_stale_fields
from .layouts import open_published, read_config
from .parameter_sources import find_sources
from .published import Layout, Published
from .rope_layout import pairs_to_halves
from .tensor_names import EMBEDDING, is_rotated
from .weight_files.stored_tensor import Floats, StoredTensor, TensorSource

ADAPTER_PREFIX = "adapter-"  # of the names of adapters' files, as ``adapter-1/``
_SLICE_ELEMENTS = 1 << 20  # read at once, beside the result


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A published model, checked against its config, read one parameter at a time.

    Its files are open from ``open`` to ``close``, the end of a ``with`` block, or until nothing
    refers to them: all is read, and hashed, of those that were there at the beginning.
    """

    published: Published
    sources: Mapping[str, TensorSource]  # by the parameter's name
    adapters: tuple[Adapter, ...] = ()  # merged into the sources, in order
    notes: tuple[str, ...] = ()  # on what was read in another way than it is described

    @classmethod
    def open(cls, path: Path, adapters: Sequence[Path] = ()) -> Checkpoint:
        """Check names, shapes and types of all tensors; the weights stay on disk.

        One exception: a tied checkpoint that has a head nevertheless gets it compared with
        the embedding.

        Args:
            path: a folder or a file, in one of the layouts of ``layouts``.
            adapters: folders of LoRA adapters, which are merged into it in this order.

        Raises:
            ConfigError: there is no model, or it is not one that is supported.
            CheckpointError: files are missing, unreadable or outside the folder; a tensor is
                missing, unexpected, misshapen or of a type that is not read.
        """
        published = open_published(path)
        sources, notes = find_sources(published)
        opened = tuple(open_adapter(folder, published.held) for folder in adapters)
        for adapter in opened:
            size = published.config.vocab_size
            config, sources = merge(adapter, published.config, sources, published.naming)
            published = dataclasses.replace(published, config=config)
            published, unread = with_tokenizer(
                published, adapter, is_larger=config.vocab_size > size
            )
            notes += [*adapter.notes, *unread]
        return cls(published=published, sources=sources, adapters=opened, notes=tuple(notes))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; what was hashed stays known."""
        self.published.held.close()

    @property
    def path(self) -> Path:
        """Folder or file that it was read from."""
        return self.published.path

    @property
    def layout(self) -> Layout:
        """How it is laid out; its text is for people."""
        return self.published.layout

    @property
    def config(self) -> MistralConfig:
        """Architecture, as published."""
        return self.published.config

    @property
    def files(self) -> list[Path]:
        """All files that it was read from, its adapters' too, and its tokenizer's."""
        return [*self.published.files, *(file for one in self.adapters for file in one.files)]

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters of ``Mistral``, in the order of the model."""
        return tuple(self.sources)

    def read(self, parameter: str) -> Floats:
        """Read one parameter of ``Mistral``: its shape, float32, rope in halves.

        F16 and BF16 widen exactly; quantized types become the numbers that they stand for.
        Beside the result no more is held than a slice of it and the file's own bytes.

        Raises:
            CheckpointError: no such parameter, an unreadable file, or a NaN or infinity.
        """
        if parameter not in self.sources:
            raise CheckpointError(
                f"{self.path}: no parameter {parameter!r}, expected one of the model's; "
                f"they are named like {EMBEDDING}"
            )
        tensor = self.sources[parameter]
        array = np.empty(tensor.shape, np.float32)
        is_paired = self._is_paired(parameter)
        head_dim = self.config.head_dim if is_paired else 1
        rows = max(1, _SLICE_ELEMENTS // array[:1].size // head_dim) * head_dim
        start = 0
        for values in tensor.slices(rows):
            _refuse_bad_values(tensor, values, rows)
            out = array[start : start + len(values)]
            if is_paired:
                pairs_to_halves(values, head_dim=head_dim, out=out)
            else:
                out[...] = values
            start += len(values)
        return array

    def rows_of(self, parameter: str) -> Callable[[int, int], Floats] | None:
        """What reads a matrix from one row to before another, (n, K) as ``read`` yields them.

        None where that is not what the file has: rope in pairs, or numbers that are computed from
        several tensors. The function raises what ``read`` does.
        """
        tensor = self.sources.get(parameter)
        if not isinstance(tensor, StoredTensor) or len(tensor.shape) != 2:
            return None
        if self._is_paired(parameter):
            return None

        def read_rows(start: int, stop: int) -> Floats:
            values = tensor.rows(start, stop)
            _refuse_bad_values(tensor, values, max(1, _SLICE_ELEMENTS // tensor.shape[1]))
            return values

        return read_rows

    def _is_paired(self, parameter: str) -> bool:
        return self.published.naming.rope == "pairs" and is_rotated(parameter)

    def read_tokenizer(self) -> PublishedTokenizer:
        """Read the tokenizer that was published with the weights.

        Raises:
            CheckpointError: there is none, or not one that the driver reads.
        """
        return self.published.read_tokenizer()

    def config_json(self) -> dict[str, Any] | None:
        """``config.json`` as published, but fields that say what the weights are not.

        None in a layout that is described elsewhere, and where it describes more than the decoder.
        """
        if self.published.layout is not Layout.HUGGING_FACE:
            return None
        content = read_json_object(self.published.held.hold(self.path / CONFIG_FILE))
        if is_images_and_text(content):
            return None
        return without_stale_fields(content, self.config)

    def beside(self, name: str) -> HeldFile | None:
        """A file beside the weights, held from now on; None where there is none."""
        return self.published.held.find(self.path / name)

    def hashes(self) -> dict[str, str]:
        """sha256 by name of config, weights, their index, the tokenizer's files and adapters."""
        own = {in_utf8(path.name): self._sha256(path) for path in self.published.files}
        return {**own, **self.adapter_hashes()}

    def adapter_hashes(self) -> dict[str, str]:
        """Those of the adapters' files; the number of an adapter stands before their names."""
        return {
            f"{ADAPTER_PREFIX}{number}/{path.name}": self._sha256(path)
            for number, adapter in enumerate(self.adapters, start=1)
            for path in adapter.files
        }

    def _sha256(self, path: Path) -> str:
        return self.published.held.hold(path).sha256()

    def identities(self) -> dict[str, Identity]:
        """Identities of the held files, for another process that opens them too."""
        return self.published.held.identities()

    def refuse_others(self, expected: dict[str, Identity]) -> None:
        """Refuse files that do not have these identities.

        Raises:
            CheckpointError: naming the first.
        """
        self.published.held.refuse_others(expected)

    def refuse_changed(self) -> None:
        """Refuse a checkpoint that was changed since it was opened, however little.

        Raises:
            CheckpointError: naming the first such file, and what became of it.
        """
        self.published.held.refuse_changed()


def read_merged_config(path: Path, adapters: Sequence[Path]) -> MistralConfig:
    """Read the architecture of a model with its adapters; without any it needs no weights.

    Raises:
        ConfigError, CheckpointError: as ``read_config`` and ``Checkpoint.open``.
    """
    if not adapters:
        return read_config(path)
    with Checkpoint.open(path, adapters) as checkpoint:
        return checkpoint.config


def _refuse_bad_values(tensor: TensorSource, values: Floats, rows: int) -> None:
    """Refuse values of a tensor that are no numbers; count them all, so many rows at a time.

    Raises:
        CheckpointError: naming the tensor.
    """
    if not np.isfinite(values).all():
        raise CheckpointError(f"{tensor.path}: {tensor.name} {_bad_values(tensor, rows)}")


def _bad_values(tensor: TensorSource, rows: int) -> str:
    """How many values are no numbers, and where the first is, in the order of the file."""
    first, bad, start = None, 0, 0
    for values in tensor.slices(rows):
        is_bad = ~np.isfinite(values)
        if first is None and is_bad.any():
            row, *rest = np.unravel_index(is_bad.argmax(), is_bad.shape)
            first = (start + int(row), *map(int, rest))
        bad += int(is_bad.sum())
        start += len(values)
    return (
        f"holds {bad} values that are NaN or infinite, the first at {first}, "
        "expected finite numbers; download the file again"
    )
