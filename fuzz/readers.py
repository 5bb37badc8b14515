"""What is fuzzed: a file of a good folder, and what reads the folder after the file was mutated.

A new reader is a function and an entry in ``READERS``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..cli.artifact_summary import summarize
from ..export.calibrate import progress_file
from ..export.formats.checkpoint import Checkpoint
from ..export.formats.gguf.file import read_gguf
from ..export.formats.gguf.tokenizer import rebuild_tokenizer
from ..export.sidecars.sidecars import _generation
from ..export.sidecars.upstream_metadata import read_upstream_metadata
from ..export.tokenizer.tokenizer import read_vocabulary
from ..graphs.lint.rules import lint
from ..graphs.quantization.recipes.read import read_recipe
from ..runtime import manifest as manifests
from ..runtime.chat.chat_template import open_chat_template
from ..runtime.contract import CHAT_TEMPLATE_FILE, MANIFEST_FILE, TOKENIZER_SETTINGS_FILE
from ..runtime.loading.open_tokenizer import open_tokenizer
from ..runtime.manifest import Manifest, read_manifest, verify_files
from ..runtime.sequences.saved_state import read_state
from ..runtime.tokenizers.kinds import KINDS
from ..runtime.tokenizers.vocabulary import Vocabulary
from ..runtime.untrusted.json_text import read_object
from ..validate.reference.unfinished import STATE_FILE
from . import certificates, good_files, good_tokenizers, kept_work

_MESSAGES = [
    {"role": role, "content": " hello 😀 "} for role in ("system", "user", "assistant", "user")
]
_TEXT = "def fibonacci(n):\n    return 'été' + \"\U0001f600\""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """A file, and what reads it."""

    file: str  # in the folder
    content: Callable[[Path], bytes]  # of a good one, given a folder to make it in
    read: Callable[[Path], object]  # the folder
    make: Callable[[Path], object] = lambda _: None  # the other files of the folder
    repair: Callable[[bytes], bytes] = bytes  # makes a mutated file's own hash right


def _read_checkpoint(folder: Path, adapters: Sequence[Path] = ()) -> None:
    with Checkpoint.open(folder, adapters) as checkpoint:
        read_vocabulary(checkpoint)
        _generation(checkpoint)
        json.dumps(read_upstream_metadata(checkpoint))


def _read_gguf(folder: Path) -> None:
    with Checkpoint.open(folder / "model.gguf") as checkpoint:
        read_vocabulary(checkpoint)
        json.dumps(read_upstream_metadata(checkpoint))


def _read_weights(folder: Path) -> None:
    with Checkpoint.open(folder) as checkpoint:
        for name in checkpoint.sources:
            checkpoint.read(name)


def _read_gguf_metadata(folder: Path) -> None:
    """Rebuild the tokenizer of a file whose metadata is JSON beside it."""
    metadata = read_object(folder / "metadata.json")
    rebuild_tokenizer(dataclasses.replace(read_gguf(folder / "model.gguf"), metadata=metadata))


def _read_chat(folder: Path) -> None:
    for tools in (None, [{"name": "f", "parameters": {}}]):
        open_chat_template(folder).render(_MESSAGES, tools=tools)


def _of_checkpoint(
    name: str,
    content: bytes | Callable[[Path], bytes] | None = None,
    *,
    make: Callable[[Path], object] = good_files.make_checkpoint,
    read: Callable[[Path], object] = _read_checkpoint,
) -> Reader:
    """A file of a checkpoint; without content, that of the file which ``make`` writes."""

    def of(folder: Path) -> bytes:
        if content is None:
            return (folder / name).read_bytes()
        return content if isinstance(content, bytes) else content(folder)

    return Reader(file=name, content=of, read=read, make=make)


def _of_made(
    name: str, *, make: Callable[[Path], object], read: Callable[[Path], object]
) -> Reader:
    """A file that ``make`` writes."""
    return Reader(
        file=name, content=lambda folder: (folder / name).read_bytes(), read=read, make=make
    )


def _of_driver(kind: str, content: Callable[[Path], bytes]) -> Reader:
    """A tokenizer of an artifact, which the driver runs."""

    def read(folder: Path) -> None:
        found = read_manifest(folder)
        vocabulary = Vocabulary(bos_token_id=1, eos_token_ids=(2,), add_bos_token=True, kind=kind)
        tokenizer = open_tokenizer(folder, _with(found, vocabulary))
        tokens = tokenizer.encode(_TEXT)
        tokenizer.decode(tokens)

    return Reader(file=KINDS[kind].file, content=content, read=read, make=good_files.manifest)


def _with(manifest: Manifest, vocabulary: Vocabulary) -> Manifest:
    geometry = dataclasses.replace(manifest.geometry, vocab_size=2048)
    return dataclasses.replace(manifest, vocabulary=vocabulary, geometry=geometry)


def _with_own_hash(content: bytes) -> bytes:
    try:
        found: dict[str, object] = dict(json.loads(content))
        found.pop("manifest_sha256", None)
        return manifests._text(found).encode()
    except (ValueError, TypeError, RecursionError):  # it is no object
        return content


def _with_own_hashes(content: bytes) -> bytes:
    """A saved session whose header has the hash of what follows it, and its own."""
    try:
        first, second, _, payload = content.split(b"\n", 3)
        header = json.loads(second)
        header["payload"] = hashlib.sha256(payload).hexdigest()
    except (ValueError, TypeError, RecursionError):
        return content
    lines = b"%s\n%s\n" % (first, json.dumps(header, sort_keys=True).encode())
    return b"%s%s\n%s" % (lines, hashlib.sha256(lines).hexdigest().encode(), payload)


def _read_manifest(folder: Path) -> None:
    manifest = read_manifest(folder)
    json.dumps(summarize(manifest))
    verify_files(folder, manifest)


def _read_session(folder: Path) -> None:
    read_state(folder / "saved.session", read_manifest(folder))


def _read_adapted(folder: Path) -> None:
    _read_checkpoint(folder, [folder / "adapter"])


READERS = {
    "manifest.json": Reader(
        file=MANIFEST_FILE, content=good_files.manifest, read=_read_manifest, repair=_with_own_hash
    ),
    **{
        name: _of_made(name, make=certificates.make_signed, read=read)
        for name, read in (
            (certificates.SIGNED, certificates.verify_by_key),
            (certificates.PUBLIC, certificates.verify_by_key),
            (certificates.CERTIFIED, certificates.verify_by_root),
            (certificates.ROOT, certificates.verify_by_root),
            (certificates.KEY, certificates.sign_by_key),
            (certificates.SIGNER, certificates.sign_by_certificate),
        )
    },
    "model.onnx": Reader(
        file="model.onnx",
        content=good_files.graph,
        read=lambda folder: lint(folder / "model.onnx"),
    ),
    "model.gguf": Reader(file="model.gguf", content=good_files.gguf, read=_read_gguf),
    **{
        name: _of_checkpoint(name)
        for name in ("config.json", "tokenizer.model", "model.safetensors", "README.md")
    },
    "generation_config.json": _of_checkpoint(
        "generation_config.json", b'{"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 0}'
    ),
    "tokenizer_config.json": _of_checkpoint(
        "tokenizer_config.json",
        b'{"add_bos_token": true, "bos_token": "<s>", "eos_token": {"content": "</s>"}, '
        b'"tokenizer_class": "LlamaTokenizer", "legacy": false, "chat_template": "{{ x }}", '
        b'"added_tokens_decoder": {"1": {"content": "<s>", "special": true, "lstrip": false}}}',
    ),
    "special_tokens_map.json": _of_checkpoint(
        "special_tokens_map.json", b'{"bos_token": "<s>", "eos_token": {"content": "</s>"}}'
    ),
    "added_tokens.json": _of_checkpoint("added_tokens.json", b'{"<s>": 1, "</s>": 2}'),
    "model.safetensors.index.json": _of_checkpoint(
        "model.safetensors.index.json", good_files.index, make=good_files.make_sharded_checkpoint
    ),
    "pytorch_model.bin": _of_checkpoint(
        "pytorch_model.bin",
        good_files.pickled,
        make=good_files.make_pickled_checkpoint,
        read=_read_weights,
    ),
    "tokenizer.json": _of_checkpoint(
        "tokenizer.json",
        good_tokenizers.tokenizer_json,
        make=good_files.make_byte_level_checkpoint,
    ),
    **{
        name: _of_checkpoint(name, make=good_files.make_mistral_checkpoint)
        for name in ("params.json", "tekken.json")
    },
    **{
        name: _of_checkpoint(
            f"adapter/{name}", make=good_files.make_adapted_checkpoint, read=_read_adapted
        )
        for name in ("adapter_config.json", "adapter_model.safetensors")
    },
    "recipe.toml": Reader(
        file="recipe.toml",
        content=lambda _: (
            b'finer = "int8"\nactivations = "per_block"\n[matrices]\n'
            b'"head" = { bits = 8, block = 32, method = "round_to_nearest", scales = "float32" }\n'
            b'"layers.*" = { bits = 4 }\n"*" = { bits = 32 }\n'
        ),
        read=lambda folder: read_recipe(folder / "recipe.toml"),
    ),
    "saved.session": Reader(
        file="saved.session",
        content=good_files.session,
        read=_read_session,
        repair=_with_own_hashes,
    ),
    kept_work.JOURNAL: _of_made(
        kept_work.JOURNAL, make=kept_work.make_journal, read=kept_work.resume_export
    ),
    progress_file.NAME: _of_made(
        progress_file.NAME, make=kept_work.make_calibrated, read=progress_file.load
    ),
    kept_work.ROUNDED: _of_made(
        kept_work.ROUNDED, make=kept_work.make_calibrated, read=kept_work.read_rounded
    ),
    kept_work.COSTS: _of_made(
        kept_work.COSTS, make=kept_work.make_costs, read=kept_work.read_costs
    ),
    kept_work.PARTS: _of_made(
        kept_work.PARTS, make=kept_work.make_costs, read=kept_work.read_kept_parts
    ),
    **{
        f"reference-{name}": _of_made(
            f"{kept_work.COMPLETE}/{name}", make=kept_work.make_store, read=kept_work.read_run
        )
        for name in ("keys.npy", "checksums.json")
    },
    "reference-state.npz": _of_made(
        f"{kept_work.INTERRUPTED}/{STATE_FILE}",
        make=kept_work.make_interrupted_store,
        read=kept_work.read_interrupted,
    ),
    "chat_template.jinja": _of_made(
        CHAT_TEMPLATE_FILE, make=good_tokenizers.make_chat, read=_read_chat
    ),
    "chat-tokenizer_config.json": Reader(
        file=TOKENIZER_SETTINGS_FILE, content=good_tokenizers.chat_settings, read=_read_chat
    ),
    "gguf-metadata.json": Reader(
        file="metadata.json",
        content=good_tokenizers.gguf_metadata,
        read=_read_gguf_metadata,
        make=good_files.make_gguf,
    ),
    "driver-tokenizer.json": _of_driver("tokenizers", good_tokenizers.tokenizer_json),
    "driver-tokenizer.model": _of_driver(
        "sentencepiece", lambda _: (good_files.MODEL / "tokenizer.model").read_bytes()
    ),
}
